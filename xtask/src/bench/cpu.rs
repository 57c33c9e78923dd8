//! Runs the criterion benches of the CPU path and prints what they measured as one table.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::shell;

/// Crate and bench targets of the CPU path, bottom up.
const CPU_BENCHES: [(&str, &[&str]); 2] =
    [("lazy-attn", &["attention"]), ("lazy-attn-models", &["linear", "decode", "ttft"])];

#[derive(Args)]
pub(crate) struct CpuArguments {
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Runs only benches whose name contains this.
    #[arg(long, default_value = "")]
    filter: String,
}

/// Where and with what the figures were measured.
#[derive(Debug, Serialize)]
struct Machine {
    cpu: String,
    num_threads: usize,
    commit: String,
    rustc: String,
}

/// One bench, times in nanoseconds.
#[derive(Debug, Serialize, PartialEq)]
struct Figure {
    name: String,
    median_ns: f64,
    low_ns: f64,
    high_ns: f64,
    /// Bytes or elements of one iteration, per second at the median.
    rate: Option<Rate>,
}

#[derive(Debug, Serialize, PartialEq)]
struct Rate {
    per_second: f64,
    unit: &'static str,
}

#[derive(Serialize)]
struct Report {
    machine: Machine,
    figures: Vec<Figure>,
}

#[derive(Deserialize)]
struct BenchmarkFile {
    full_id: String,
    throughput: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct EstimatesFile {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
    confidence_interval: Interval,
}

#[derive(Deserialize)]
struct Interval {
    lower_bound: f64,
    upper_bound: f64,
}

pub(crate) fn run(root: &Path, arguments: &CpuArguments) -> Result<()> {
    let begin = SystemTime::now();
    for (package, benches) in CPU_BENCHES {
        run_benches(root, package, benches, arguments)?;
    }
    let folders = fresh_results(&shell::target_folder(root).join("criterion"), begin)?;
    let mut figures = folders.iter().map(|folder| read_figure(folder)).collect::<Result<Vec<_>>>()?;
    // Another run on the same tree may have written results in the meantime.
    figures.retain(|figure| figure.name.contains(&arguments.filter));
    if figures.is_empty() {
        bail!("no bench matched `{}`", arguments.filter);
    }
    figures.sort_by(|a, b| a.name.cmp(&b.name));
    let report = Report { machine: machine(root)?, figures };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", table(&report));
    }
    Ok(())
}

fn run_benches(root: &Path, package: &str, benches: &[&str], arguments: &CpuArguments) -> Result<()> {
    let mut command = shell::cargo(root);
    command.args(["bench", "--package", package]);
    for bench in benches {
        command.args(["--bench", bench]);
    }
    if !arguments.filter.is_empty() {
        command.args(["--", &arguments.filter]);
    }
    if arguments.json {
        // The report alone belongs on stdout.
        return shell::read(&mut command).map(drop);
    }
    shell::run(&mut command)
}

/// Criterion keeps old results; only those written since `begin` belong to this run.
fn fresh_results(folder: &Path, begin: SystemTime) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder).with_context(|| format!("no results in {}", folder.display()))?;
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        let path = entry.path();
        let estimates = path.join("estimates.json");
        let is_result = path.file_name().is_some_and(|name| name == "new") && estimates.is_file();
        if !is_result {
            found.extend(fresh_results(&path, begin)?);
        } else if estimates.metadata()?.modified()? >= begin {
            found.push(path);
        }
    }
    Ok(found)
}

fn read_figure(folder: &Path) -> Result<Figure> {
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    figure(&read("benchmark.json")?, &read("estimates.json")?)
}

fn figure(benchmark: &str, estimates: &str) -> Result<Figure> {
    let benchmark: BenchmarkFile = serde_json::from_str(benchmark)?;
    let EstimatesFile { median } = serde_json::from_str(estimates)?;
    let rate = benchmark.throughput.as_ref().and_then(|value| rate(value, median.point_estimate));
    Ok(Figure {
        name: benchmark.full_id,
        median_ns: median.point_estimate,
        low_ns: median.confidence_interval.lower_bound,
        high_ns: median.confidence_interval.upper_bound,
        rate,
    })
}

/// Criterion writes `{"Bytes": n}`, `{"BytesDecimal": n}` or `{"Elements": n}` of one iteration.
fn rate(throughput: &serde_json::Value, median_ns: f64) -> Option<Rate> {
    let (kind, amount) = throughput.as_object()?.iter().next()?;
    let unit = if kind.starts_with("Bytes") { "B" } else { "elements" };
    Some(Rate { per_second: amount.as_f64()? / (median_ns * 1e-9), unit })
}

fn machine(root: &Path) -> Result<Machine> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    Ok(Machine {
        cpu: cpu.unwrap_or("unknown CPU").to_owned(),
        num_threads: std::thread::available_parallelism()?.get(),
        commit: shell::read(shell::tool(root, "git").args(["describe", "--always", "--dirty"]))?
            .trim()
            .to_owned(),
        rustc: shell::read(shell::tool(root, "rustc").arg("--version"))?.trim().to_owned(),
    })
}

fn table(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "\n{}, {} threads, {}, commit {}\n\n",
        machine.cpu, machine.num_threads, machine.rustc, machine.commit
    );
    text.push_str("| bench | median | 95 % interval | rate |\n|---|---|---|---|\n");
    for figure in &report.figures {
        let rate = figure.rate.as_ref().map_or_else(|| "-".to_owned(), format_rate);
        let _ = writeln!(
            text,
            "| {} | {} | {} .. {} | {rate} |",
            figure.name,
            format_time(figure.median_ns),
            format_time(figure.low_ns),
            format_time(figure.high_ns)
        );
    }
    text
}

fn format_time(ns: f64) -> String {
    const UNITS: [(f64, &str); 3] = [(1e9, "s"), (1e6, "ms"), (1e3, "us")];
    let unit = UNITS.iter().find(|(size, _)| ns >= *size);
    unit.map_or_else(|| format!("{ns:.1} ns"), |(size, name)| format!("{:.3} {name}", ns / size))
}

fn format_rate(rate: &Rate) -> String {
    const UNITS: [(f64, &str); 3] = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    let unit = UNITS.iter().find(|(size, _)| rate.per_second >= *size);
    let (size, prefix) = unit.copied().unwrap_or((1.0, ""));
    format!("{:.2} {prefix}{}/s", rate.per_second / size, rate.unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ESTIMATES: &str = r#"{"median": {"point_estimate": 2e6,
        "confidence_interval": {"confidence_level": 0.95, "lower_bound": 1e6, "upper_bound": 3e6}}}"#;

    #[test]
    fn a_bench_with_a_throughput_has_a_rate() {
        let figure = figure(r#"{"full_id": "a/b", "throughput": {"Bytes": 4000000}}"#, ESTIMATES).unwrap();
        assert_eq!(figure.rate, Some(Rate { per_second: 2e9, unit: "B" }));
        assert_eq!((figure.median_ns, figure.low_ns, figure.high_ns), (2e6, 1e6, 3e6));
    }

    #[test]
    fn a_bench_without_a_throughput_has_none() {
        let figure = figure(r#"{"full_id": "a/b", "throughput": null}"#, ESTIMATES).unwrap();
        assert_eq!(figure.rate, None);
    }

    #[test]
    fn times_and_rates_choose_their_unit() {
        assert_eq!(format_time(12.34), "12.3 ns");
        assert_eq!(format_time(2e6), "2.000 ms");
        assert_eq!(format_rate(&Rate { per_second: 14.5e9, unit: "B" }), "14.50 GB/s");
        assert_eq!(format_rate(&Rate { per_second: 94.0, unit: "elements" }), "94.00 elements/s");
    }
}
