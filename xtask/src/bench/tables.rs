//! Results as Markdown tables.

use std::fmt::Write as _;

use super::results::{Agreement, Figures, RunFile, Summary};

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
