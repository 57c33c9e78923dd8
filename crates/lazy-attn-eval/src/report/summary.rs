//! The result of one mode.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Scored;
use crate::metrics::{Score, normalised};
use crate::statistics::{Estimate, mean, median};

/// Percent of a share.
pub(super) const PERCENT: f64 = 100.0;

/// The result of one mode.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ModeResult {
    /// The mode.
    pub mode: String,
    /// Questions.
    pub n: usize,
    /// Exact matches in percent.
    pub em: f64,
    /// F1 in percent.
    pub f1: f64,
    /// 95 % intervals, lower and upper end, in percent.
    pub ci: Intervals,
    /// Answers that contain a right one, in percent.
    pub contains: f64,
    /// Classifications that are right, in percent, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// How likely the right answers are, if they were scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_likelihood: Option<LikelihoodResult>,
    /// What a request cost.
    pub cost: Cost,
    /// How much answers depend on the order of the documents, if several were asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stability: Option<Stability>,
    /// BLAKE3 of all answers' tokens: equal for runs whose every answer is.
    pub answers_digest: String,
    /// The same by kind of question, if there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupResult>,
}

/// 95 % intervals.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Intervals {
    /// Of exact matches.
    pub em: [f64; 2],
    /// Of F1.
    pub f1: [f64; 2],
}

/// How likely the first right answer is, its end token included.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LikelihoodResult {
    /// Mean over questions of the log-likelihood per answer token.
    pub per_token: f64,
    /// Its 95 % interval.
    pub ci: [f64; 2],
    /// Mean over questions of the log-likelihood of the whole answer.
    pub per_answer: f64,
}

/// Means over requests that generated an answer; which of them found a document resident depends on the modes before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// Tokens of the prompt.
    pub prompt_tokens: f64,
    /// Prompt tokens that the request computed.
    pub computed_tokens: f64,
    /// Document tokens of which the request had a version of its own, computed for it or for an earlier request that began in
    /// the same way; what the mode costs once documents are resident.
    pub recomputed_tokens: f64,
    /// Median time to the first token, behind the other requests in flight.
    pub time_to_first_token_ms: f64,
}

/// How much answers depend on the order of the documents.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stability {
    /// Orders of each question.
    pub orders: usize,
    /// Questions whose answers are the same, normalised, in all orders, in percent.
    pub identical: f64,
    /// Its 95 % interval.
    pub ci: [f64; 2],
    /// Exact matches over all orders, in percent.
    pub em: f64,
}

/// The questions of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupResult {
    /// The kind.
    pub group: String,
    /// Questions.
    pub n: usize,
    /// Exact matches in percent.
    pub em: f64,
    /// F1 in percent.
    pub f1: f64,
}

pub(super) fn of_mode(scored: &Scored<'_>, mode: usize, seed: u64) -> ModeResult {
    let estimate = |values: &[f64]| Estimate::of(values, seed).times(PERCENT);
    let em = estimate(&scored.values(mode, |score| score.exact_match));
    let f1 = estimate(&scored.values(mode, |score| score.f1));
    let accuracies: Vec<f64> = scored.scores[mode].iter().filter_map(|score| score.accuracy).collect();
    ModeResult {
        mode: scored.answers.modes[mode].to_string(),
        n: scored.scores[mode].len(),
        em: em.mean,
        f1: f1.mean,
        ci: Intervals { em: ends(em), f1: ends(f1) },
        contains: mean(&scored.values(mode, |score| score.contains)) * PERCENT,
        accuracy: (!accuracies.is_empty()).then(|| mean(&accuracies) * PERCENT),
        log_likelihood: likelihood(scored, mode, seed),
        cost: cost(scored, mode),
        stability: (scored.answers.num_orders > 1).then(|| stability(scored, mode, seed)),
        answers_digest: digest(scored, mode),
        groups: groups(scored, mode),
    }
}

fn ends(estimate: Estimate) -> [f64; 2] {
    [estimate.low, estimate.high]
}

fn likelihood(scored: &Scored<'_>, mode: usize, seed: u64) -> Option<LikelihoodResult> {
    let per_token = Estimate::of(&scored.likelihoods(mode)?, seed);
    let whole = (0..scored.answers.questions.len())
        .filter_map(|question| Some(scored.answers.get(question, 0, mode).likelihood?.log_probability));
    Some(LikelihoodResult {
        per_token: per_token.mean,
        ci: ends(per_token),
        per_answer: mean(&whole.collect::<Vec<_>>()),
    })
}

fn cost(scored: &Scored<'_>, mode: usize) -> Cost {
    let answers = scored.answers;
    let of_first =
        |value: &dyn Fn(usize) -> f64| (0..answers.questions.len()).map(value).collect::<Vec<f64>>();
    let usage = |question: usize| answers.get(question, 0, mode).usage;
    let times =
        of_first(&|question| answers.get(question, 0, mode).timing.time_to_first_token.as_secs_f64() * 1e3);
    Cost {
        prompt_tokens: mean(&of_first(&|question| f64::from(usage(question).prompt_tokens))),
        computed_tokens: mean(&of_first(&|question| f64::from(usage(question).computed_prompt_tokens))),
        recomputed_tokens: mean(&of_first(&|question| f64::from(usage(question).recomputed_tokens))),
        time_to_first_token_ms: median(&times),
    }
}

fn stability(scored: &Scored<'_>, mode: usize, seed: u64) -> Stability {
    let answers = scored.answers;
    let text = |question: usize, order: usize| normalised(&answers.get(question, order, mode).text);
    let is_same =
        |question: usize| (1..answers.num_orders).all(|order| text(question, order) == text(question, 0));
    let same = (0..answers.questions.len()).map(|question| f64::from(u8::from(is_same(question))));
    let same = Estimate::of(&same.collect::<Vec<_>>(), seed).times(PERCENT);
    let all = answers.questions.iter().enumerate().flat_map(|(index, question)| {
        (0..answers.num_orders)
            .map(move |order| Score::of(question, &answers.get(index, order, mode).text).exact_match)
    });
    Stability {
        orders: answers.num_orders,
        identical: same.mean,
        ci: ends(same),
        em: mean(&all.collect::<Vec<_>>()) * PERCENT,
    }
}

fn digest(scored: &Scored<'_>, mode: usize) -> String {
    let answers = scored.answers;
    let mut hasher = blake3::Hasher::new();
    for question in 0..answers.questions.len() {
        for order in 0..answers.num_orders {
            let tokens = &answers.get(question, order, mode).tokens;
            hasher.update(&(tokens.len() as u64).to_le_bytes());
            tokens.iter().for_each(|token| {
                hasher.update(&token.0.to_le_bytes());
            });
        }
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

fn groups(scored: &Scored<'_>, mode: usize) -> Vec<GroupResult> {
    let mut groups: BTreeMap<&str, Vec<&Score>> = BTreeMap::new();
    for (question, score) in scored.answers.questions.iter().zip(&scored.scores[mode]) {
        groups.entry(&question.group).or_default().push(score);
    }
    if groups.len() < 2 {
        return Vec::new();
    }
    let share = |scores: &[&Score], value: fn(&Score) -> f64| {
        mean(&scores.iter().map(|score| value(score)).collect::<Vec<_>>()) * PERCENT
    };
    let result = |(group, scores): (&str, Vec<&Score>)| GroupResult {
        group: group.to_owned(),
        n: scores.len(),
        em: share(&scores, |score| score.exact_match),
        f1: share(&scores, |score| score.f1),
    };
    groups.into_iter().map(result).collect()
}
