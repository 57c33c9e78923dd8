//! `demo`: questions over the bundled documents, each in several orders of the documents.
//!
//! Every question is first asked with the cache bypassed, which shows what the first token costs when all documents are
//! computed, and then in every order with the cache in use. `collection` holds the documents, `order` the orders,
//! `report` what is printed.

mod collection;
mod order;
mod report;

use std::time::Duration;

use lazy_attn_proto::v1;

use self::collection::{Collection, Question};
use self::report::{Answer, Cache, Report};
use crate::args::{DemoArgs, EngineArgs};
use crate::ask::ask;
use crate::documents::TextDocument;
use crate::exit::{Exit, Failure};
use crate::session::Session;
use crate::ui::{Out, Verbosity, millis, print_json};

/// Answers are short phrases.
const MAX_ANSWER_TOKENS: u32 = 24;

pub(crate) fn demo(engine: &EngineArgs, args: &DemoArgs) -> Result<Exit, Failure> {
    let collection = Collection::bundled()?;
    let verbosity = if args.output.json { Verbosity::Quiet } else { Verbosity::Normal };
    let session = Session::start(engine, verbosity)?;
    let mut out = Out::new();
    if verbosity == Verbosity::Normal {
        out.line(&opening_line(&session, &collection, args.orders))?;
    }
    let mut report = Report::default();
    for (index, question) in collection.questions.iter().enumerate() {
        let answers = ask_in_orders(&session, &collection.documents, question, args.orders)?;
        if verbosity == Verbosity::Normal {
            for line in report::question_lines(index + 1, question, &answers) {
                out.line(&line)?;
            }
        }
        report.add(question, answers);
    }
    match verbosity {
        Verbosity::Quiet => print_json(&report)?,
        Verbosity::Normal => {
            for line in report.closing_lines() {
                out.line(&line)?;
            }
        }
    }
    Ok(if report.is_good() { Exit::Success } else { Exit::Failed })
}

fn opening_line(session: &Session, collection: &Collection, num_orders: u32) -> String {
    format!(
        "{} (ready in {}): {} questions over {} documents, each in {num_orders} orders of the documents",
        session.model.name,
        millis(session.model.load_time),
        collection.questions.len(),
        collection.documents.len(),
    )
}

fn ask_in_orders(
    session: &Session,
    documents: &[TextDocument],
    question: &Question,
    num_orders: u32,
) -> Result<Vec<Answer>, Failure> {
    let mut answers = vec![ask_once(session, documents, question, Cache::Bypassed)?];
    for order in 0..num_orders {
        let documents = order::permuted(documents, order);
        answers.push(ask_once(session, &documents, question, Cache::InUse)?);
    }
    Ok(answers)
}

fn ask_once(
    session: &Session,
    documents: &[TextDocument],
    question: &Question,
    cache: Cache,
) -> Result<Answer, Failure> {
    let request = v1::GenerateRequest {
        parts: session.templates.question_parts(None, documents, &question.question)?,
        attention: v1::DocumentAttention::Block.into(),
        stopping: Some(v1::StoppingOptions {
            max_tokens: Some(MAX_ANSWER_TOKENS),
            ..v1::StoppingOptions::default()
        }),
        cache: Some(v1::CacheOptions { bypass: Some(cache == Cache::Bypassed), ..Default::default() }),
        ..v1::GenerateRequest::default()
    };
    let response = ask(session, request, Verbosity::Quiet, &mut |_| Ok(()))?;
    let usage = response.usage.unwrap_or_default();
    let first_token = response.timing.unwrap_or_default().time_to_first_token.unwrap_or_default();
    Ok(Answer {
        cache,
        is_right: question.accepts(&response.text),
        text: response.text.trim().to_owned(),
        time_to_first_token: Duration::try_from(first_token).unwrap_or_default(),
        prompt_tokens: usage.prompt_tokens,
        reused_tokens: usage.cached_prompt_tokens,
        num_documents: usage.documents_total,
        num_reused_documents: usage.documents_reused,
    })
}
