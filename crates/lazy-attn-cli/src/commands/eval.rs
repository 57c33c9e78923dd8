//! `eval`: how right the answers to a set of questions are, in several modes.

use std::fs;
use std::path::Path;

use lazy_attn_eval::procedural::{self, Family};
use lazy_attn_eval::report::{Setting, answer_lines, to_markdown, to_svg};
use lazy_attn_eval::runner::{self, Margins, Scoring, num_requests};
use lazy_attn_eval::{Answers, Asker, EvalError, Question, Report, RunOptions, dataset};
use lazy_attn_text::BlockTemplate;
use lazy_attn_types::KvPolicy;

use crate::args::{EngineArgs, EvalArgs};
use crate::exit::{Exit, Failure};
use crate::session::Session;
use crate::ui::{CountProgress, Out, Verbosity, print_json};

/// Ends the name of a mode whose answers have to be those of the mode without it.
const UNCACHED: &str = "-uncached";

pub(crate) fn eval(engine: &EngineArgs, args: &EvalArgs) -> Result<Exit, Failure> {
    let questions = questions(args)?;
    let verbosity = if args.output.json { Verbosity::Quiet } else { Verbosity::Normal };
    let session = Session::start(engine, verbosity)?;
    let answers = ask_all(&session, args, questions, verbosity)?;
    let setting = Setting {
        dataset: dataset_name(&args.dataset),
        model: session.model.name.clone(),
        max_tokens: args.max_tokens,
        seed: args.seed,
    };
    let report = Report::new(setting, &answers);
    if let Some(dir) = &args.out {
        write(dir, &report, &answers)?;
    }
    match verbosity {
        Verbosity::Quiet => print_json(&report)?,
        Verbosity::Normal => Out::new().text(&to_markdown(&report))?,
    }
    // Elsewhere, and where cached keys are rotated again, rounding may turn a close call; the report tells how often it did.
    let is_exact = session.model.is_batch_invariant && !KvPolicy::from(engine.kv_policy).has_places();
    match cache_mismatch(&report).filter(|_| is_exact) {
        None => Ok(Exit::Success),
        Some(problem) => Err(Failure::new(Exit::Failed, problem)),
    }
}

fn questions(args: &EvalArgs) -> Result<Vec<Question>, EvalError> {
    let limit = args.limit as usize;
    match args.dataset.split_once(':') {
        _ if args.dataset == "procedural" => Ok(procedural::questions(&Family::ALL, limit, args.seed)),
        Some(("procedural", name)) => Ok(procedural::questions(&[name.parse()?], limit, args.seed)),
        _ => dataset::read(Path::new(&args.dataset), limit),
    }
}

/// A file is named without the folders it lies in.
fn dataset_name(dataset: &str) -> String {
    let file = Path::new(dataset).file_name().map(|name| name.to_string_lossy().into_owned());
    file.unwrap_or_else(|| dataset.to_owned())
}

fn ask_all(
    session: &Session,
    args: &EvalArgs,
    questions: Vec<Question>,
    verbosity: Verbosity,
) -> Result<Answers, Failure> {
    let asker = Asker {
        handle: session.handle(),
        template: session.templates.block_template()?,
        system: args.system.as_deref().unwrap_or(BlockTemplate::QUESTION_SYSTEM),
        end_token: session.model.end_token,
    };
    let options = RunOptions {
        modes: args.modes.clone(),
        num_orders: args.orders as usize,
        max_tokens: args.max_tokens,
        max_in_flight: args.in_flight as usize,
        scoring: if args.no_likelihood { Scoring::AnswersOnly } else { Scoring::Likelihood },
        margins: if args.margins { Margins::Noted } else { Margins::Omitted },
        seed: args.seed,
    };
    let mut progress = CountProgress::answers(verbosity, num_requests(&options, questions.len()) as u64);
    Ok(runner::run(&asker, questions, &options, &mut |done| progress.set(done as u64))?)
}

fn write(dir: &Path, report: &Report, answers: &Answers) -> Result<(), Failure> {
    let chart = to_svg(report).map_err(|error| Failure::new(Exit::Internal, error))?;
    let files = [
        ("report.json", lazy_attn_proto::to_json(report)?),
        ("report.md", to_markdown(report)),
        ("report.svg", chart),
        ("answers.jsonl", answer_lines(answers)),
    ];
    let written = fs::create_dir_all(dir)
        .and_then(|()| files.into_iter().try_for_each(|(name, text)| fs::write(dir.join(name), text)));
    written.map_err(|error| Failure::usage(format!("cannot write into {}: {error}", dir.display())))
}

/// What a cache changed, if it changed anything.
fn cache_mismatch(report: &Report) -> Option<String> {
    let is_pair = |mode: &str, other: &str| mode.strip_suffix(UNCACHED) == Some(other);
    let pairs = report
        .comparisons
        .iter()
        .filter(|found| is_pair(&found.mode, &found.baseline) || is_pair(&found.baseline, &found.mode));
    let (found, place) = pairs.filter_map(|found| Some((found, found.first_mismatch?))).next()?;
    Some(format!(
        "{} and {} differ, first in question {}: cached documents changed an answer, which is a bug; please report it",
        found.mode, found.baseline, place.question
    ))
}
