//! What was promised, and what was measured of it.

use std::fmt::Write as _;

use super::results::{Figures, Group, RunFile};

/// Requests from which on a figure of `ttft` is held against a promise: in fewer, those that fill the empty cache are most.
const MIN_REQUESTS: usize = 120;

/// A promise that results are held against.
struct Claim {
    what: &'static str,
    workload: &'static str,
    /// Other policy, and the number of which the ratio is taken.
    other: &'static str,
    ratio: fn(&Figures, &Figures) -> Option<f64>,
    /// What the paper says; nothing where it says nothing.
    paper: Option<f64>,
    /// What was promised; nothing for a row that is there to be compared.
    wanted: Option<f64>,
    applies: fn(&RunFile) -> bool,
}

fn ttft(lazy: &Figures, other: &Figures) -> Option<f64> {
    Some(other.ttft_ms?.p50 / lazy.ttft_ms?.p50)
}

fn requests(lazy: &Figures, other: &Figures) -> Option<f64> {
    Some(lazy.request_throughput / other.request_throughput)
}

fn output(lazy: &Figures, other: &Figures) -> Option<f64> {
    Some(lazy.output_throughput / other.output_throughput)
}

fn is_skewed(run: &RunFile) -> bool {
    run.trace.alpha >= 1.1
}

/// Whether 128 and more read at once, which takes as many requests.
fn is_crowded(run: &RunFile) -> bool {
    run.clients() >= Some(128) && run.num_requests >= 128
}

const CLAIMS: [Claim; 10] = [
    Claim {
        what: "TTFT p50 against `reencode`, skewed documents",
        workload: "ttft",
        other: "reencode",
        ratio: ttft,
        paper: Some(1.37),
        wanted: Some(2.0),
        applies: is_skewed,
    },
    Claim {
        what: "requests/s against `reencode`, skewed documents, closed load",
        workload: "ttft",
        other: "reencode",
        ratio: requests,
        paper: Some(1.4),
        wanted: Some(2.0),
        applies: |run| is_skewed(run) && run.clients().is_some(),
    },
    Claim {
        what: "TTFT p50 against `reencode-copy`, skewed documents",
        workload: "ttft",
        other: "reencode-copy",
        ratio: ttft,
        paper: Some(1.37),
        wanted: None,
        applies: is_skewed,
    },
    Claim {
        what: "requests/s against `reencode-copy`, skewed documents, closed load",
        workload: "ttft",
        other: "reencode-copy",
        ratio: requests,
        paper: Some(1.4),
        wanted: None,
        applies: |run| is_skewed(run) && run.clients().is_some(),
    },
    Claim {
        what: "TTFT p50 against `reencode`, uniform documents",
        workload: "ttft",
        other: "reencode",
        ratio: ttft,
        paper: Some(1.0),
        wanted: Some(1.0),
        applies: |run| run.trace.alpha == 0.0,
    },
    Claim {
        what: "TTFT p50 against `prefix`, the same documents in another order",
        workload: "reorder",
        other: "prefix",
        ratio: ttft,
        paper: Some(3.3),
        wanted: Some(8.0),
        applies: |_| true,
    },
    Claim {
        what: "output tok/s against `prefix-ungrouped`, one document read by 128 and more",
        workload: "shared",
        other: "prefix-ungrouped",
        ratio: output,
        paper: None,
        wanted: Some(3.0),
        applies: is_crowded,
    },
    Claim {
        what: "output tok/s against `reencode-ungrouped`, one document read by 128 and more",
        workload: "shared",
        other: "reencode-ungrouped",
        ratio: output,
        paper: None,
        wanted: Some(3.0),
        applies: is_crowded,
    },
    Claim {
        what: "output tok/s against `prefix`, one document read by 128 and more",
        workload: "shared",
        other: "prefix",
        ratio: output,
        paper: None,
        wanted: None,
        applies: is_crowded,
    },
    Claim {
        what: "output tok/s against `reencode`, one document read by 128 and more",
        workload: "shared",
        other: "reencode",
        ratio: output,
        paper: None,
        wanted: None,
        applies: is_crowded,
    },
];

/// Ratios of runs that differ in their seed only.
struct Measured<'a> {
    first: &'a RunFile,
    ratios: Vec<f64>,
}

impl Measured<'_> {
    fn has_enough(&self) -> bool {
        self.first.workload() != "ttft" || self.first.num_requests >= MIN_REQUESTS
    }

    fn holds(&self, other: &RunFile) -> bool {
        let without_seed = |run: &RunFile| {
            let mut trace = run.trace.clone();
            trace.seed = 0;
            trace
        };
        let conditions =
            |run: &RunFile| (run.num_requests, run.kv_budget.clone(), run.setting.commit.clone());
        without_seed(self.first) == without_seed(other) && conditions(self.first) == conditions(other)
    }

    fn text(&self) -> String {
        let name = &self.first.name;
        let least = self.ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.ratios.iter().copied().fold(0.0, f64::max);
        match self.ratios.len() {
            1 => format!("{least:.2}x ({name})"),
            seeds => format!("{least:.2}x to {most:.2}x ({name}, {seeds} seeds)"),
        }
    }
}

/// What was promised and what was measured; nothing for a group that says nothing of any promise.
pub(super) fn table(group: &Group) -> String {
    let all: Vec<_> = CLAIMS.iter().map(|claim| (claim, measured(claim, group))).collect();
    if all.iter().all(|(_, measured)| measured.is_empty()) {
        return String::new();
    }
    let mut text =
        String::from("| claim | paper | wanted | measured | in few requests |\n|---|---|---|---|---|\n");
    for (claim, measured) in &all {
        let (enough, few): (Vec<_>, Vec<_>) = measured.iter().partition(|measured| measured.has_enough());
        let ratios: Vec<f64> = enough.iter().flat_map(|measured| measured.ratios.iter().copied()).collect();
        let (paper, wanted) = (reached(claim.paper, &ratios), reached(claim.wanted, &ratios));
        let measured = if enough.is_empty() { "not measured".to_owned() } else { list(&enough) };
        let few = if few.is_empty() { "-".to_owned() } else { list(&few) };
        let _ = writeln!(text, "| {} | {paper} | {wanted} | {measured} | {few} |", claim.what);
    }
    text
}

fn measured<'a>(claim: &Claim, group: &'a Group) -> Vec<Measured<'a>> {
    let mut all: Vec<Measured<'a>> = Vec::new();
    let runs = group.runs.iter().filter(|run| run.workload() == claim.workload && (claim.applies)(run));
    let ratio = |run: &RunFile| (claim.ratio)(run.of("lazy")?, run.of(claim.other)?);
    for (run, ratio) in runs.filter_map(|run| Some((run, ratio(run)?))) {
        match all.iter_mut().find(|measured| measured.holds(run)) {
            Some(measured) => {
                measured.ratios.push(ratio);
                // The one that names no seed.
                measured.first = shorter(measured.first, run);
            }
            None => all.push(Measured { first: run, ratios: vec![ratio] }),
        }
    }
    all
}

fn shorter<'a>(one: &'a RunFile, other: &'a RunFile) -> &'a RunFile {
    if other.name.len() < one.name.len() { other } else { one }
}

fn list(all: &[&Measured<'_>]) -> String {
    all.iter().map(|measured| measured.text()).collect::<Vec<_>>().join(", ")
}

/// A ratio, and how many of `ratios` are no smaller once rounded as they are shown.
fn reached(least: Option<f64>, ratios: &[f64]) -> String {
    let Some(least) = least else { return "-".to_owned() };
    if ratios.is_empty() {
        return format!("{least}x");
    }
    let reached = ratios.iter().filter(|&&ratio| (100.0 * ratio).round() >= 100.0 * least).count();
    format!("{least}x: {reached} of {}", ratios.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::tests::{figures, run_file};

    /// `lazy` answers as many times more requests than `reencode`.
    fn run(name: &str, seed: u64, times: f64) -> RunFile {
        let mut run = run_file("ttft", 8);
        run.name = name.to_owned();
        run.trace.seed = seed;
        let mut lazy = figures("lazy", &[]);
        lazy.request_throughput *= times;
        run.results = vec![lazy, figures("reencode", &[])];
        run
    }

    #[test]
    fn seeds_are_one_entry_few_requests_hold_nothing_and_what_is_reached_is_counted() {
        let mut short = run("short", 7, 3.0);
        short.num_requests = MIN_REQUESTS - 1;
        let mut small = run("small", 7, 1.1);
        small.kv_budget = "10%".to_owned();
        let runs = vec![run("a-s8", 8, 1.9), run("a", 7, 2.5), short, small];
        let table = table(&Group { name: "gpu".into(), runs });
        let row = table.lines().find(|line| line.starts_with("| requests/s against `reencode`,")).unwrap();
        let cells =
            "| 1.4x: 2 of 3 | 2x: 1 of 3 | 1.90x to 2.50x (a, 2 seeds), 1.10x (small) | 3.00x (short) |";
        assert!(row.ends_with(cells), "{row}");
        assert!(table.contains("| - | 3x | not measured | - |"), "{table}");
    }

    #[test]
    fn a_group_without_contenders_has_no_table() {
        let mut run = run("served", 7, 1.0);
        run.results.truncate(1);
        assert_eq!(super::table(&Group { name: "grpc".into(), runs: vec![run] }), "");
    }
}
