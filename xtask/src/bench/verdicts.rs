//! What a run of all policies must show, whatever the machine: one verdict per check.

use std::fmt;

use lazy_attn_workload::theory::Demand;
use lazy_attn_workload::{KvBudget, Shape};

use super::results::{Figures, RunFile};

/// The policies that every workload is played under.
const FIVE: [&str; 5] = ["lazy", "reencode", "rotate-keys", "prefix", "none"];
/// Requests of a batch: batches forget each other, so that their spread is that of the mean.
const BATCH: usize = 20;
/// Requests until a cache has forgotten that it was empty.
const NUM_COLD: usize = 2 * BATCH;
/// Standard errors that a measured ratio may be off.
const ERRORS: f64 = 4.0;
/// How far Che's approximation is off for about a hundred documents.
const CHE_ERROR: f64 = 0.01;

/// Whether one thing holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    pub(super) holds: bool,
    pub(super) what: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}", if self.holds { "ok    " } else { "FAILED" }, self.what)
    }
}

/// All that `run` can be held to.
pub(super) fn of(run: &RunFile) -> Vec<Verdict> {
    let mut verdicts = vec![finished(run)];
    verdicts.extend(run.agreements.iter().map(|agreement| {
        let (clear, differing) = (agreement.num_clear, agreement.num_clear_differing);
        let (base, other) = (&agreement.base, &agreement.other);
        let what = format!(
            "{}: {other} and {base} differ in {differing} of {clear} tokens with a clear lead",
            run.name
        );
        Verdict { holds: differing == 0 && clear > 0, what }
    }));
    if run.workload() == "hit" && run.clients() == Some(1) {
        verdicts.extend(run.results.iter().filter_map(|figures| hit_ratio(run, figures)));
    }
    verdicts
}

fn finished(run: &RunFile) -> Verdict {
    let missing = FIVE.iter().filter(|policy| run.of(policy).is_none()).count();
    let failed: u64 = run
        .results
        .iter()
        .map(|one| run.num_requests as u64 - one.completed.min(run.num_requests as u64))
        .sum();
    // One client asks for hit ratios only, of policies that have a closed form.
    let holds = failed == 0 && (missing == 0 || run.clients() == Some(1));
    let (policies, requests) = (run.results.len(), run.num_requests);
    Verdict {
        holds,
        what: format!("{}: {policies} policies finish {requests} requests each, {failed} fail", run.name),
    }
}

/// Room for this many documents beside what one request needs of its own.
fn capacity(run: &RunFile) -> Option<f64> {
    let shape: &Shape = &run.trace.shape;
    let tokens = run.kv_budget.parse::<KvBudget>().ok()?.tokens(shape)?;
    let own = u64::from(shape.query_tokens) + u64::from(shape.output_tokens);
    Some(tokens.saturating_sub(own) as f64 / f64::from(shape.document_tokens))
}

/// The hit ratio of a warm cache beside the closed forms.
fn hit_ratio(run: &RunFile, figures: &Figures) -> Option<Verdict> {
    let capacity = capacity(run)?;
    let (ratio, error) = warm(run, figures)?;
    let shape = &run.trace.shape;
    let places = shape.documents_per_request;
    let demand = Demand::new(shape.num_documents, run.trace.alpha, places);
    let (least, most) = match figures.policy.as_str() {
        "lazy" | "rotate-keys" => (demand.lru_hit_ratio(capacity), demand.best_hit_ratio(capacity)),
        "reencode-copy" => (0.0, demand.best_hit_ratio(capacity / f64::from(places))),
        "none" => (0.0, 0.0),
        _ => return None,
    };
    let holds = ratio > least - ERRORS * error - CHE_ERROR && ratio <= most + ERRORS * error;
    let [ratio, error, least, most] = [ratio, error, least, most].map(|part| 100.0 * part);
    let what = format!(
        "{}: {} finds {ratio:.1} +- {error:.1} % with room for {capacity:.1} documents; the closed forms say {least:.1} to {most:.1} %",
        run.name, figures.policy
    );
    Some(Verdict { holds, what })
}

/// Mean and standard error of the part of the document tokens that was found, by batches.
fn warm(run: &RunFile, figures: &Figures) -> Option<(f64, f64)> {
    let shape = &run.trace.shape;
    let all = f64::from(shape.documents_per_request) * f64::from(shape.document_tokens) * BATCH as f64;
    let batches: Vec<f64> = figures
        .hit_tokens
        .get(NUM_COLD..)?
        .chunks_exact(BATCH)
        .map(|hits| hits.iter().sum::<u64>() as f64 / all)
        .collect();
    let count = batches.len() as f64;
    if batches.len() < 2 {
        return None;
    }
    let mean = batches.iter().sum::<f64>() / count;
    let squares: f64 = batches.iter().map(|batch| (batch - mean).powi(2)).sum();
    Some((mean, (squares / (count * (count - 1.0))).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::tests::{figures, run_file};

    fn all(run: &RunFile) -> Vec<bool> {
        of(run).iter().map(|verdict| verdict.holds).collect()
    }

    #[test]
    fn a_policy_that_is_missing_or_a_request_that_failed_is_no_success() {
        let mut run = run_file("icl-small", 16);
        run.results = FIVE.map(|policy| figures(policy, &[])).to_vec();
        assert_eq!(all(&run), [true]);
        run.results[2].completed -= 1;
        assert_eq!(all(&run), [false]);
        run.results.remove(2);
        assert_eq!(all(&run), [false]);
    }

    #[test]
    fn a_hit_ratio_must_lie_between_the_closed_forms() {
        let mut run = run_file("hit-small", 1);
        // Room for 25 documents: least recently used finds 63.5 %, the best possible 74.3 %.
        run.kv_budget = (25 * 128 + 32).to_string();
        let with_ratio = |percent: u64| {
            // Batches that differ a little.
            let tokens = |index: usize| 640 * percent / 100 + (index / BATCH % 2) as u64 * 6;
            (0..200).map(tokens).collect::<Vec<u64>>()
        };
        for (percent, holds) in [(50, false), (68, true), (85, false)] {
            run.results = vec![figures("lazy", &with_ratio(percent))];
            assert_eq!(all(&run), [true, holds], "{:?}", of(&run));
        }
        run.results = vec![figures("none", &with_ratio(1))];
        assert_eq!(all(&run), [true, false]);
    }
}
