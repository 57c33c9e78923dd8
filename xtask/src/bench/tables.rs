//! Results as Markdown tables.

use std::fmt::Write as _;

use super::results::{Agreement, Figures, Group, RunFile, Summary};

/// A promise that results are held against.
struct Claim {
    what: &'static str,
    workload: &'static str,
    /// Other policy, and the number of which the ratio is taken.
    other: &'static str,
    ratio: fn(&Figures, &Figures) -> Option<f64>,
    paper: &'static str,
    /// What was promised; nothing for a row that is there to be compared.
    least: Option<f64>,
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
        paper: "1.37x",
        least: Some(2.0),
        applies: is_skewed,
    },
    Claim {
        what: "requests/s against `reencode`, skewed documents, closed load",
        workload: "ttft",
        other: "reencode",
        ratio: requests,
        paper: "1.40x",
        least: Some(2.0),
        applies: |run| is_skewed(run) && run.clients().is_some(),
    },
    Claim {
        what: "TTFT p50 against `reencode-copy`, skewed documents",
        workload: "ttft",
        other: "reencode-copy",
        ratio: ttft,
        paper: "1.37x",
        least: None,
        applies: is_skewed,
    },
    Claim {
        what: "requests/s against `reencode-copy`, skewed documents, closed load",
        workload: "ttft",
        other: "reencode-copy",
        ratio: requests,
        paper: "1.40x",
        least: None,
        applies: |run| is_skewed(run) && run.clients().is_some(),
    },
    Claim {
        what: "TTFT p50 against `reencode`, uniform documents",
        workload: "ttft",
        other: "reencode",
        ratio: ttft,
        paper: "1.0x",
        least: Some(1.0),
        applies: |run| run.trace.alpha == 0.0,
    },
    Claim {
        what: "TTFT p50 against `prefix`, the same documents in another order",
        workload: "reorder",
        other: "prefix",
        ratio: ttft,
        paper: "3.3x",
        least: Some(8.0),
        applies: |_| true,
    },
    Claim {
        what: "output tok/s against `prefix-ungrouped`, one document read by 128 and more",
        workload: "shared",
        other: "prefix-ungrouped",
        ratio: output,
        paper: "-",
        least: Some(3.0),
        applies: is_crowded,
    },
    Claim {
        what: "output tok/s against `reencode-ungrouped`, one document read by 128 and more",
        workload: "shared",
        other: "reencode-ungrouped",
        ratio: output,
        paper: "-",
        least: Some(3.0),
        applies: is_crowded,
    },
    Claim {
        what: "output tok/s against `prefix`, one document read by 128 and more",
        workload: "shared",
        other: "prefix",
        ratio: output,
        paper: "-",
        least: None,
        applies: is_crowded,
    },
    Claim {
        what: "output tok/s against `reencode`, one document read by 128 and more",
        workload: "shared",
        other: "reencode",
        ratio: output,
        paper: "-",
        least: None,
        applies: is_crowded,
    },
];

/// What was promised and what was measured.
pub(super) fn claims(group: &Group) -> String {
    let mut text = String::from("| claim | paper | wanted | measured |\n|---|---|---|---|\n");
    for claim in &CLAIMS {
        let runs = group.runs.iter().filter(|run| run.workload() == claim.workload && (claim.applies)(run));
        let measured: Vec<String> = runs
            .filter_map(|run| {
                let ratio = (claim.ratio)(run.of("lazy")?, run.of(claim.other)?)?;
                Some(format!("{ratio:.2}x ({})", run.name))
            })
            .collect();
        let measured = if measured.is_empty() { "not measured".to_owned() } else { measured.join(", ") };
        let least = claim.least.map_or("-".to_owned(), |least| format!("{least}x"));
        let _ = writeln!(text, "| {} | {} | {least} | {measured} |", claim.what, claim.paper);
    }
    text
}

/// The figures of a run, one policy a line.
pub(super) fn figures(run: &RunFile) -> String {
    let mut text = String::from(
        "| policy | TTFT mean | p50 | p99 | encoding p50 | resident p50 | TPOT p50 | ITL p99 | requests/s | output tok/s | hits | peak KV | shared |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for one in &run.results {
        let peak = one
            .peak_kv_bytes
            .map_or("-".to_owned(), |bytes| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20)));
        let shared = one.shared_kv_factor.map_or("-".to_owned(), |factor| format!("{factor:.2}"));
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} | {} | {} | {:.2} | {:.1} | {} | {peak} | {shared} |",
            one.policy,
            ms(one.ttft_ms, |summary| summary.mean),
            ms(one.ttft_ms, |summary| summary.p50),
            ms(one.ttft_ms, |summary| summary.p99),
            ms(one.ttft_encoding_ms, |summary| summary.p50),
            ms(one.ttft_resident_ms, |summary| summary.p50),
            ms(one.tpot_ms, |summary| summary.p50),
            ms(one.itl_ms, |summary| summary.p99),
            one.request_throughput,
            one.output_throughput,
            hits(one)
        );
    }
    text
}

/// Part of the document tokens found as they are, and re-encoded if there are any.
fn hits(one: &Figures) -> String {
    let (hit, reencoded) = (100.0 * one.hit_ratio, 100.0 * one.reencoded_ratio);
    if reencoded > 0.0 { format!("{hit:.1} + {reencoded:.1} %") } else { format!("{hit:.1} %") }
}

/// Whether policies that compute the same chose the same tokens, where that was checked.
pub(super) fn agreements(run: &RunFile) -> String {
    if run.agreements.is_empty() {
        return String::new();
    }
    let mut text =
        String::from("\n| greedy tokens | with a lead above 0.05 | of them differ |\n|---|---|---|\n");
    for agreement in &run.agreements {
        let Agreement { base, other, num_clear, num_clear_differing } = agreement;
        let _ = writeln!(text, "| `{other}` beside `{base}` | {num_clear} | {num_clear_differing} |");
    }
    text
}

/// Whether reuse decays: hit ratios of the first and the last hundred requests.
pub(super) fn decay(run: &RunFile) -> String {
    let mut text = String::from("| policy | hits of the first 100 | of the last 100 |\n|---|---|---|\n");
    for one in &run.results {
        let (first, last) = (100.0 * one.hit_ratio_first_100, 100.0 * one.hit_ratio_last_100);
        let _ = writeln!(text, "| `{}` | {first:.1} % | {last:.1} % |", one.policy);
    }
    text
}

/// Milliseconds with three digits.
fn ms(summary: Option<Summary>, value: fn(&Summary) -> f64) -> String {
    match summary.as_ref().map(value) {
        None => "-".to_owned(),
        Some(ms) if ms >= 100.0 => format!("{ms:.0} ms"),
        Some(ms) if ms >= 10.0 => format!("{ms:.1} ms"),
        Some(ms) => format!("{ms:.2} ms"),
    }
}
