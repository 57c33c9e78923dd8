//! `run`: a question over text files.

use std::time::Duration;

use lazy_attn_proto::v1;

use lazy_attn_server::convert::api_exactness;

use crate::args::{EngineArgs, ExactnessArgs, PlacementArg, RunArgs, SamplingArgs};
use crate::ask::ask;
use crate::documents;
use crate::exit::{Exit, Failure};
use crate::session::Session;
use crate::ui::{Out, Verbosity, millis, print_json};

/// Most tokens of an answer: a short phrase.
const MAX_TOKENS: u32 = 64;

pub(crate) fn run(engine: &EngineArgs, args: &RunArgs) -> Result<Exit, Failure> {
    if args.question.trim().is_empty() {
        return Err(Failure::usage("the question is empty; write one"));
    }
    let documents = documents::read_all(args.docs.as_deref(), &args.doc)?;
    let verbosity = if args.output.json { Verbosity::Quiet } else { Verbosity::Normal };
    let session = Session::start(engine, verbosity)?;
    let parts = session.templates.question_parts(args.system.as_deref(), &documents, &args.question)?;
    let request = v1::GenerateRequest {
        parts,
        exactness: Some(api_exactness(args.exactness.rung())),
        placement: placement(&args.exactness).into(),
        sampling: Some(sampling(&args.sampling)),
        stopping: Some(stopping(&args.sampling, MAX_TOKENS)),
        ..v1::GenerateRequest::default()
    };
    if args.output.json {
        print_json(&ask(&session, request, verbosity, &mut |_| Ok(()))?)?;
        return Ok(Exit::Success);
    }
    let mut out = Out::new();
    let response = ask(&session, request, verbosity, &mut |text| out.text(text))?;
    out.line("")?;
    eprintln!("{}", closing_line(&response));
    Ok(Exit::Success)
}

pub(super) fn placement(args: &ExactnessArgs) -> v1::DocumentPlacement {
    match args.placement {
        PlacementArg::Consecutive => v1::DocumentPlacement::Consecutive,
        PlacementArg::Local => v1::DocumentPlacement::Local,
        PlacementArg::Parallel => v1::DocumentPlacement::Parallel,
    }
}

/// The rung of a response as it is written on the command line.
fn rung(response: &v1::CollectedResponse) -> String {
    let exactness = response.exactness.unwrap_or_default();
    let recomputed = response.usage.unwrap_or_default().recomputed_tokens;
    match exactness.rung() {
        v1::ExactnessRung::Head => format!("head:{} ({recomputed} tokens recomputed)", exactness.head_tokens),
        v1::ExactnessRung::Edges => {
            format!("edges:{} ({recomputed} tokens recomputed)", exactness.edge_tokens)
        }
        v1::ExactnessRung::Selective => {
            format!("selective:{} ({recomputed} tokens recomputed)", exactness.selective_percent)
        }
        v1::ExactnessRung::Preamble => "preamble".to_owned(),
        v1::ExactnessRung::Full => "full".to_owned(),
        v1::ExactnessRung::Block | v1::ExactnessRung::Unspecified => "block".to_owned(),
    }
}

pub(super) fn stopping(args: &SamplingArgs, max_tokens: u32) -> v1::StoppingOptions {
    v1::StoppingOptions {
        max_tokens: Some(args.max_tokens.unwrap_or(max_tokens)),
        stop_texts: args.stop.clone(),
        ..v1::StoppingOptions::default()
    }
}

pub(super) fn sampling(args: &SamplingArgs) -> v1::SamplingOptions {
    v1::SamplingOptions {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        seed: args.seed,
        ..v1::SamplingOptions::default()
    }
}

pub(super) fn closing_line(response: &v1::CollectedResponse) -> String {
    let usage = response.usage.unwrap_or_default();
    let timing = response.timing.unwrap_or_default();
    let rate = decode_rate(&usage, &timing).map_or(String::new(), |rate| format!(", {rate:.0} tokens/s"));
    format!(
        "first token after {} · {} prompt tokens, {} reused · {} of {} documents reused · {} tokens generated{rate} · \
         {} attention",
        millis(duration(timing.time_to_first_token)),
        usage.prompt_tokens,
        usage.cached_prompt_tokens,
        usage.documents_reused,
        usage.documents_total,
        usage.completion_tokens,
        rung(response),
    )
}

/// Tokens per second behind the first token; `None` for an answer that is over with it.
pub(super) fn decode_rate(usage: &v1::Usage, timing: &v1::Timing) -> Option<f64> {
    let decode = duration(timing.decode);
    let num_decoded = usage.completion_tokens.saturating_sub(1);
    (!decode.is_zero()).then(|| f64::from(num_decoded) / decode.as_secs_f64())
}

pub(super) fn duration<T: TryInto<Duration> + Default>(time: Option<T>) -> Duration {
    time.unwrap_or_default().try_into().unwrap_or_default()
}
