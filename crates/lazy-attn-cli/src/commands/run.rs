//! `run`: a question over text files.

use lazy_attn_proto::v1;

use crate::args::{AttentionArg, EngineArgs, RunArgs, SamplingArgs};
use crate::ask::ask;
use crate::documents;
use crate::exit::{Exit, Failure};
use crate::session::Session;
use crate::ui::{Out, Verbosity, millis, print_json};

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
        attention: match args.attention {
            AttentionArg::Block => v1::DocumentAttention::Block.into(),
            AttentionArg::Full => v1::DocumentAttention::Full.into(),
        },
        sampling: Some(sampling(&args.sampling)),
        stopping: Some(v1::StoppingOptions {
            max_tokens: Some(args.sampling.max_tokens),
            stop_texts: args.sampling.stop.clone(),
            ..v1::StoppingOptions::default()
        }),
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

fn sampling(args: &SamplingArgs) -> v1::SamplingOptions {
    v1::SamplingOptions {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        seed: args.seed,
        ..v1::SamplingOptions::default()
    }
}

fn closing_line(response: &v1::CollectedResponse) -> String {
    let usage = response.usage.unwrap_or_default();
    let timing = response.timing.unwrap_or_default();
    let time = |time: Option<_>| std::time::Duration::try_from(time.unwrap_or_default()).unwrap_or_default();
    let decode = time(timing.decode);
    let num_decoded = usage.completion_tokens.saturating_sub(1);
    let rate = match decode.is_zero() {
        true => String::new(),
        false => format!(", {:.0} tokens/s", f64::from(num_decoded) / decode.as_secs_f64()),
    };
    format!(
        "first token after {} · {} prompt tokens, {} reused · {} of {} documents reused · {} tokens generated{rate} · \
         {} attention",
        millis(time(timing.time_to_first_token)),
        usage.prompt_tokens,
        usage.cached_prompt_tokens,
        usage.documents_reused,
        usage.documents_total,
        usage.completion_tokens,
        if response.attention() == v1::DocumentAttention::Full { "full" } else { "block" },
    )
}
