//! `bench offline`: workloads in this process, under each policy in turn, with the model loaded once.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use lazy_attn_bench::endpoint::Margins;
use lazy_attn_bench::{
    Agreement, BenchError, Contender, LentExecutor, Offline, Played, Report, RunFigures, Setting,
};
use lazy_attn_engine::EngineConfig;
use lazy_attn_types::{ExecutorInfo, KvPolicy};
use lazy_attn_workload::{KvBudget, Load, Trace};

use super::show::{self, Show};
use super::traffic::Traffic;
use crate::args::{EngineArgs, OfflineArgs, Policies, RunLine, RunOptions};
use crate::exit::{Exit, Failure};
use crate::session::{OpenModel, Tuning};
use crate::ui::{CountProgress, Verbosity};

/// Sequences at once, unless there are more clients.
const MAX_RUNNING: u32 = 64;
/// Seed of the requests that warm the executor: documents nobody asks for later.
const WARMUP_SEED: u64 = 0x5eed_0f77;

pub(super) fn offline(engine: &EngineArgs, args: &OfflineArgs) -> Result<Exit, Failure> {
    let runs = match &args.runs {
        Some(path) => read_runs(path)?,
        None => vec![Run { words: String::new(), options: args.run.clone() }],
    };
    // Mistakes are told before a model is loaded.
    for run in &runs {
        Traffic::of(&run.options.traffic)?;
    }
    let show = Show::new(&args.output, args.runs.is_some());
    let bench = Bench::open(engine, args, show.verbosity())?;
    let begin = Instant::now();
    let mut exit = Exit::Success;
    for (index, run) in runs.iter().enumerate() {
        if args.time_limit.is_some_and(|limit| begin.elapsed().as_secs() >= limit) {
            eprintln!("after {} s, {} runs are left out", begin.elapsed().as_secs(), runs.len() - index);
            break;
        }
        match bench.run(run) {
            Ok(report) => {
                show.report(&report, run.options.name.as_deref().unwrap_or(&report.trace.workload))?
            }
            // The others may still be had.
            Err(failure) if args.runs.is_some() => {
                eprintln!("error: {}: {}", run.words, failure.line().unwrap_or_default());
                exit = Exit::Failed;
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(exit)
}

/// One workload under some policies.
struct Run {
    /// The line it came from.
    words: String,
    options: RunOptions,
}

/// One set of options a line; empty lines and those that begin with `#` do not count.
fn read_runs(path: &Path) -> Result<Vec<Run>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    let lines =
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let runs = lines.map(|(index, line)| {
        let parsed = RunLine::try_parse_from(line.split_whitespace());
        let run = |parsed: RunLine| Run { words: line.trim().to_owned(), options: parsed.run };
        parsed.map(run).map_err(|error| {
            let first = error.to_string().lines().next().unwrap_or_default().to_owned();
            Failure::usage(format!("{}, line {}: {first}", path.display(), index + 1))
        })
    });
    runs.collect()
}

/// A loaded model, and what is noted with its figures.
struct Bench {
    offline: Offline,
    setting: Setting,
    verbosity: Verbosity,
}

impl Bench {
    fn open(engine: &EngineArgs, args: &OfflineArgs, verbosity: Verbosity) -> Result<Bench, Failure> {
        let tuning = Tuning::of(engine);
        let OpenModel { model, tokenizer, backend } = OpenModel::open(engine, &tuning, verbosity)?;
        let setting = show::setting(&args.output, &model.name, show::device(&backend.place));
        let max_step_tokens = backend.executor.info().max_step_tokens;
        let offline = Offline {
            executor: LentExecutor::new(backend.executor),
            tokenizer: Arc::new(tokenizer),
            engine: EngineConfig { max_step_tokens, ..tuning.engine },
            margins: Margins::Ignored,
        };
        Ok(Bench { offline, setting, verbosity })
    }

    fn run(&self, Run { words, options: run }: &Run) -> Result<Report, Failure> {
        let Traffic { trace, kv_budget } = Traffic::of(&run.traffic)?;
        let kv_budget = run.kv_budget.unwrap_or(kv_budget);
        let info = self.offline.executor.info();
        let offline = Offline {
            engine: EngineConfig { max_running: max_running(run, &trace, info), ..self.offline.engine },
            margins: if run.check_tokens { Margins::Noted } else { Margins::Ignored },
            ..self.offline.clone()
        };
        let mut all = Vec::new();
        for contender in contenders(&run.policy, &offline) {
            warm_up(&offline, &trace, (contender, kv_budget), run.warmup)?;
            let name = contender.to_string();
            let mut progress = CountProgress::requests(self.verbosity, &name, trace.requests.len() as u64);
            let played = offline.play(&trace, contender, kv_budget, move |ended| progress.set(ended as u64));
            all.push(played.map_err(failure)?);
        }
        Ok(Report {
            setting: Setting {
                command: show::with_words(&self.setting.command, words),
                ..self.setting.clone()
            },
            num_requests: trace.requests.len(),
            results: all.iter().map(|played| RunFigures::of_engine(played, &trace)).collect(),
            agreements: if run.check_tokens { agreements(&all) } else { Vec::new() },
            trace: trace.header,
            warmup_requests: run.warmup as usize,
            kv_budget: kv_budget.to_string(),
        })
    }
}

/// What was asked for.
fn contenders(wanted: &Policies, offline: &Offline) -> Vec<Contender> {
    let five = KvPolicy::ALL.into_iter().filter(|&policy| offline.can_play(policy));
    match wanted {
        Policies::All => five.map(Contender::from).collect(),
        Policies::These(policies) => policies.clone(),
    }
}

/// Everybody with the first that computes the same.
fn agreements(all: &[Played]) -> Vec<Agreement> {
    let is_full = |played: &Played| played.contender.policy.inlines_documents();
    let base = |other: &&Played| all.iter().find(|base| is_full(base) == is_full(other));
    let pairs = all.iter().filter_map(|other| Some((base(&other)?, other)));
    pairs.filter(|(base, other)| base != other).map(|(base, other)| Agreement::between(base, other)).collect()
}

/// A step must have room for one token of every running sequence and one more.
fn max_running(run: &RunOptions, trace: &Trace, info: &ExecutorInfo) -> u32 {
    let clients = match trace.header.load {
        Load::Closed { clients } => clients,
        Load::Open { .. } => 0,
    };
    run.max_num_seqs.unwrap_or(MAX_RUNNING.max(clients)).min(info.max_step_tokens - 1)
}

/// Lets the executor meet the shapes of `trace`: graphs are recorded, memory is touched. Its engine and its cache are gone
/// afterwards.
fn warm_up(
    offline: &Offline,
    trace: &Trace,
    (contender, budget): (Contender, KvBudget),
    num_requests: u32,
) -> Result<(), Failure> {
    let mut warmup = trace.clone();
    warmup.header.seed ^= WARMUP_SEED;
    warmup.requests.truncate(num_requests as usize);
    if warmup.requests.is_empty() {
        return Ok(());
    }
    warmup.header.load = Load::Closed { clients: num_requests };
    offline.play(&warmup, contender, budget, |_| ()).map(drop).map_err(failure)
}

fn failure(error: BenchError) -> Failure {
    match error {
        BenchError::Engine(error) => error.into(),
        BenchError::Failed { .. } => Failure::new(Exit::TooLarge, error),
        other => Failure::usage(other),
    }
}
