//! `doctor`: whether this machine can run the model, and how fast it could be; `gpus` the CUDA devices.

mod gpus;

use std::thread;
use std::time::{Duration, Instant};

use lazy_attn_models::cpu::CpuIsa;
use serde::Serialize;

use crate::args::{EngineArgs, JsonArg};
use crate::exit::{Exit, Failure};
use crate::session::Session;
use crate::ui::{Out, Table, Verbosity, bytes, millis, print_json};

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Status {
    Ok,
    Failed,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    detail: String,
}

/// Figures for programs.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Figures {
    num_threads: usize,
    memory_bandwidth_bytes_per_second: f64,
    load_seconds: Option<f64>,
    weight_bytes_per_token: Option<usize>,
    kv_bytes_per_token: Option<u64>,
    kv_capacity_tokens: Option<u64>,
    kv_policy: Option<&'static str>,
    gpus: Vec<gpus::GpuFigures>,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    checks: Vec<Check>,
    figures: Figures,
}

impl Report {
    fn ok(&mut self, name: &'static str, detail: impl Into<String>) {
        self.checks.push(Check { name, status: Status::Ok, detail: detail.into() });
    }

    fn failed(&mut self, name: &'static str, detail: impl Into<String>) {
        self.checks.push(Check { name, status: Status::Failed, detail: detail.into() });
    }
}

pub(crate) fn doctor(engine: &EngineArgs, output: JsonArg) -> Result<Exit, Failure> {
    let mut report = Report::default();
    report.ok("version", concat!("lazyattn ", env!("CARGO_PKG_VERSION")));
    report.ok("features", compiled_features());
    report.ok("cpu", cpu_detail());
    let available = thread::available_parallelism().map_or(1, usize::from);
    let num_threads = engine.threads.map_or(available, usize::from);
    report.ok("threads", format!("{num_threads} used, {available} available"));
    if let Some(num_bytes) = available_memory() {
        report.ok("memory", format!("{} available", bytes(num_bytes)));
    }
    let bandwidth = memory_bandwidth(num_threads);
    report.ok("bandwidth", format!("{:.1} GB/s reading", bandwidth / 1e9));
    report.figures.num_threads = num_threads;
    report.figures.memory_bandwidth_bytes_per_second = bandwidth;
    gpus::check(&mut report, engine);
    check_model(&mut report, engine, bandwidth);
    check_cache(&mut report);
    print(&report, output)?;
    let is_well = report.checks.iter().all(|check| check.status == Status::Ok);
    Ok(if is_well { Exit::Success } else { Exit::Failed })
}

fn print(report: &Report, output: JsonArg) -> Result<(), Failure> {
    if output.json {
        return print_json(report);
    }
    let mut table = Table::default();
    for check in &report.checks {
        let mark = if check.status == Status::Ok { "ok" } else { "FAILED" };
        table.row([check.name.to_owned(), mark.to_owned(), check.detail.clone()]);
    }
    let mut out = Out::new();
    table.lines().iter().try_for_each(|line| out.line(line))
}

fn compiled_features() -> String {
    let features = [
        ("embedded-model", cfg!(feature = "embedded-model")),
        ("hub", cfg!(feature = "hub")),
        ("cuda", cfg!(feature = "cuda")),
    ];
    let state = |&(name, is_on): &(&str, bool)| format!("{name} {}", if is_on { "yes" } else { "no" });
    features.iter().map(state).collect::<Vec<_>>().join(", ")
}

fn cpu_detail() -> String {
    let levels: Vec<String> = CpuIsa::available().iter().map(ToString::to_string).collect();
    format!("{}, kernels for {} (uses {})", std::env::consts::ARCH, levels.join(", "), CpuIsa::detect())
}

fn check_model(report: &mut Report, engine: &EngineArgs, bandwidth: f64) {
    let session = match Session::start(engine, Verbosity::Quiet) {
        Ok(session) => session,
        Err(failure) => return report.failed("model", failure.line().unwrap_or_default()),
    };
    let (model, info) = (&session.model, session.executor_info());
    report.ok(
        "model",
        format!(
            "{} on {}, {} layers, {:.1} M parameters, ready in {}",
            model.name,
            model.place,
            model.config.num_layers,
            model.config.num_parameters() as f64 / 1e6,
            millis(model.load_time)
        ),
    );
    report.ok("decode bound", decode_bound(model.weight_bytes, bandwidth, model.memory_rate));
    let num_tokens = u64::from(info.num_blocks) * u64::from(info.block_size.get());
    let detail = format!(
        "{} blocks of {} = {num_tokens} tokens at {} each",
        info.num_blocks,
        info.block_size.get(),
        bytes(info.kv_bytes_per_token)
    );
    let needed = u64::from(info.max_context_tokens);
    if num_tokens < needed {
        report.failed(
            "kv capacity",
            format!("{detail}; one full context needs {needed}, raise --kv-cache-memory"),
        );
    } else {
        report.ok("kv capacity", detail);
    }
    report.ok("kv policy", engine.kv_policy.name());
    report.figures.kv_policy = Some(engine.kv_policy.name());
    report.figures.load_seconds = Some(model.load_time.as_secs_f64());
    report.figures.weight_bytes_per_token = Some(model.weight_bytes);
    report.figures.kv_bytes_per_token = Some(info.kv_bytes_per_token);
    report.figures.kv_capacity_tokens = Some(num_tokens);
}

/// Tokens a second that reading the weights alone allows: from this machine's memory as it was measured, or from a device's as
/// its driver describes it.
fn decode_bound(weight_bytes: usize, measured: f64, device: Option<u64>) -> String {
    let (rate, whose) = device
        .map_or((measured, "measured bandwidth"), |rate| (rate as f64, "nominal bandwidth of the device"));
    format!(
        "{:.0} tokens/s at the {whose}, {:.1} GB/s ({} of weights a token)",
        rate / weight_bytes as f64,
        rate / 1e9,
        bytes(weight_bytes as u64)
    )
}

fn check_cache(report: &mut Report) {
    let dir = &lazy_attn_models::weights::HubOptions::from_env().cache;
    match std::fs::read_dir(dir) {
        Ok(_) => report.ok("hub cache", dir.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            report.ok("hub cache", format!("{} (not there yet)", dir.display()));
        }
        Err(error) => report.failed("hub cache", format!("{} cannot be read: {error}", dir.display())),
    }
}

/// What the system could give without swapping, where it says so.
fn available_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// Bytes per second that `num_threads` read together: the best of a few passes over more than any cache holds.
fn memory_bandwidth(num_threads: usize) -> f64 {
    const NUM_WORDS: usize = 32 << 20;
    const NUM_PASSES: usize = 4;
    let words = vec![1u64; NUM_WORDS];
    let share = NUM_WORDS.div_ceil(num_threads);
    let fastest = (0..NUM_PASSES).map(|_| read_pass(&words, share)).min().unwrap_or(Duration::MAX);
    (NUM_WORDS * size_of::<u64>()) as f64 / fastest.as_secs_f64()
}

fn read_pass(words: &[u64], share: usize) -> Duration {
    let begin = Instant::now();
    thread::scope(|scope| {
        for part in words.chunks(share) {
            scope.spawn(move || {
                std::hint::black_box(part.iter().fold(0u64, |sum, word| sum.wrapping_add(*word)))
            });
        }
    });
    begin.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_of_decoding_is_that_of_the_memory_that_holds_the_weights() {
        let on_device = decode_bound(15 << 30, 33e9, Some(4_900_000_000_000));
        assert_eq!(
            on_device,
            "304 tokens/s at the nominal bandwidth of the device, 4900.0 GB/s (15.0 GiB of weights a token)"
        );
        let here = decode_bound(1 << 30, 33e9, None);
        assert!(here.starts_with("31 tokens/s at the measured bandwidth, 33.0 GB/s"), "{here}");
    }
}
