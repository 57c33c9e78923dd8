//! Where the figures go.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use lazy_attn_bench::{Agreement, Report, RunFigures, Setting, Summary};
use serde::Serialize;

use crate::args::BenchOutput;
use crate::backend::{self, Found};
use crate::exit::{Exit, Failure};
use crate::ui::{Out, Table, Verbosity, bytes, print_json};

/// Prints figures as they come.
pub(super) struct Show<'a> {
    output: &'a BenchOutput,
    /// Whether `--out` is a folder for several.
    is_folder: bool,
}

impl<'a> Show<'a> {
    pub(super) fn new(output: &'a BenchOutput, is_folder: bool) -> Show<'a> {
        Show { output, is_folder }
    }

    pub(super) fn verbosity(&self) -> Verbosity {
        if self.output.json { Verbosity::Quiet } else { Verbosity::Normal }
    }

    /// Prints `report`, and writes it where that was asked for.
    pub(super) fn report(&self, report: &Report, name: &str) -> Result<(), Failure> {
        if let Some(out) = &self.output.out {
            let path = if self.is_folder { out.join(format!("{name}.json")) } else { out.clone() };
            write(&path, report)?;
        }
        if self.output.json {
            return print_json(report);
        }
        let mut out = Out::new();
        out.line(&heading(report, name))?;
        for line in table(&report.results).lines() {
            out.line(&format!("  {line}"))?;
        }
        for agreement in &report.agreements {
            out.line(&format!("  {}", tokens(agreement)))?;
        }
        Ok(())
    }
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), Failure> {
    let cannot = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Usage, format!("cannot write {}: {error}", path.display()))
    };
    let text = serde_json::to_string(value).map_err(|error| cannot(&error))?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| cannot(&error))?;
    }
    fs::write(path, text + "\n").map_err(|error| cannot(&error))
}

fn heading(report: &Report, name: &str) -> String {
    let Report { setting, trace, num_requests, kv_budget, .. } = report;
    let (model, device) = (&setting.model_id, &setting.device);
    let alpha = trace.alpha;
    format!("{name}: {num_requests} requests, alpha {alpha}, KV budget {kv_budget}, {model} on {device}")
}

fn table(results: &[RunFigures]) -> Table {
    let headings = [
        "policy",
        "TTFT p50",
        "p99",
        "resident p50",
        "TPOT p50",
        "ITL p99",
        "req/s",
        "out tok/s",
        "hits",
        "KV peak",
        "shared",
    ];
    let mut table = Table::new(&headings);
    let ms = |summary: Option<Summary>, value: fn(&Summary) -> f64| {
        summary.map_or_else(String::new, |summary| format!("{:.2}", value(&summary)))
    };
    for run in results {
        let number = |name| run.number(name).map_or_else(String::new, |value| format!("{value:.2}"));
        let engine = run.engine.as_ref();
        let shared = engine.and_then(|engine| engine.shared_kv_factor);
        table.row([
            run.policy.clone(),
            ms(run.ttft_ms, |summary| summary.p50),
            ms(run.ttft_ms, |summary| summary.p99),
            ms(run.ttft_resident_ms, |summary| summary.p50),
            ms(run.tpot_ms, |summary| summary.p50),
            ms(run.itl_ms, |summary| summary.p99),
            number("request_throughput"),
            number("output_throughput"),
            hits(run),
            engine.map_or_else(String::new, |engine| bytes(engine.peak_kv_bytes)),
            shared.map_or_else(String::new, |factor| format!("{factor:.2}")),
        ]);
    }
    table
}

/// Whether two chose the same tokens.
fn tokens(agreement: &Agreement) -> String {
    let Agreement { base, other, num_clear, num_clear_differing, num_close_differing, .. } = agreement;
    let differing = match num_clear_differing {
        0 => "none differs".to_owned(),
        count => format!("{count} DIFFER, by a lead of up to {:.2}", agreement.differing_margin_max),
    };
    format!(
        "{other} beside {base}: of {num_clear} tokens with a clear lead {differing}; {num_close_differing} close ones do"
    )
}

/// Part of the document tokens found as they are, and re-encoded if there are any.
fn hits(run: &RunFigures) -> String {
    let (hit, reencoded) = (100.0 * run.hit_ratio, 100.0 * run.reencoded_ratio);
    if reencoded > 0.0 { format!("{hit:.1} + {reencoded:.1} %") } else { format!("{hit:.1} %") }
}

/// What is noted with the figures.
pub(super) fn setting(output: &BenchOutput, model: &str, device: String) -> Setting {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Setting {
        unix_seconds: now.as_secs(),
        model_id: model.to_owned(),
        device,
        commit: output.commit.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: command(std::env::args()),
        note: output.note.clone(),
    }
}

/// The command line with the program's name instead of its path, and without what the figures do not depend on.
fn command(mut words: impl Iterator<Item = String>) -> String {
    words.next();
    let mut shown = vec!["lazyattn".to_owned()];
    while let Some(word) = words.next() {
        match word.as_str() {
            "--out" | "--note" | "--commit" | "--trace-out" | "--runs" | "--time-limit" => drop(words.next()),
            _ if word.contains(' ') => shown.push(format!("'{word}'")),
            _ => shown.push(word),
        }
    }
    shown.join(" ")
}

/// The command that measures one line of `--runs` alone.
pub(super) fn with_words(command: &str, words: &str) -> String {
    format!("{command} {words}").trim_end().to_owned()
}

/// The device behind `place`, by name.
pub(super) fn device(place: &str) -> String {
    let gpus = match (place.starts_with("cuda"), backend::find()) {
        (true, Found::Devices(gpus)) => gpus,
        _ => return format!("{}, {place}", processor()),
    };
    let named = gpus.iter().find(|gpu| place == format!("cuda:{}", gpu.ordinal));
    named.map_or_else(|| place.to_owned(), |gpu| gpu.name.clone())
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    name.unwrap_or("unknown CPU").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_without_places_of_one_machine() {
        let words =
            ["/a/b/lazyattn", "bench", "offline", "--out", "/c/d", "--workload", "hit", "--note", "x y"];
        assert_eq!(command(words.into_iter().map(str::to_owned)), "lazyattn bench offline --workload hit");
        assert_eq!(with_words("lazyattn bench offline", ""), "lazyattn bench offline");
    }
}
