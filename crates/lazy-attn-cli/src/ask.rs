//! One request through the engine: message in, message out, progress on the way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use lazy_attn_engine::{EngineHandle, Event, PartOutcome, RequestStream, ResolvedPart};
use lazy_attn_proto::v1::{self, generate_response};
use lazy_attn_server::convert::{
    Collector, Converted, Defaults, Limits, NoDocuments, Reply, RequestConverter,
};
use lazy_attn_types::TenantSalt;

use crate::exit::Failure;
use crate::session::Session;
use crate::ui::{EncodeProgress, Verbosity};

/// How often the progress of encoding is looked at.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Checks `request` for the engine of `session`.
///
/// # Errors
/// The first mistake in it.
pub(crate) fn convert(session: &Session, request: v1::GenerateRequest) -> Result<Converted, Failure> {
    let converter = RequestConverter {
        model: &session.model.name,
        limits: Limits::default(),
        defaults: Defaults::default(),
        chat: &*session.templates,
        documents: &NoDocuments,
    };
    Ok(converter.convert(request, TenantSalt::SINGLE_USER)?)
}

/// Runs `request` and returns the whole response; `on_text` hears the text of sequence 0 as it comes.
///
/// # Errors
/// The code of the first mistake in the request, or of the engine's failure.
pub(crate) fn ask(
    session: &Session,
    request: v1::GenerateRequest,
    verbosity: Verbosity,
    on_text: &mut dyn FnMut(&str) -> Result<(), Failure>,
) -> Result<v1::CollectedResponse, Failure> {
    let Converted { request, reply, .. } = convert(session, request)?;
    let handle = session.handle();
    let num_tokens_before = handle.stats().tokens_run;
    let mut stream = handle.submit(request)?;
    let mut collector = Collector::new(reply.n);
    let started = stream.blocking_next();
    let first = match &started {
        Some(Event::Started { parts, .. }) => {
            let progress = EncodeProgress::new(verbosity, num_tokens_to_compute(parts));
            watch_until_first_token(&handle, &mut stream, progress, num_tokens_before)
        }
        _ => None,
    };
    for event in started.into_iter().chain(first) {
        forward(&reply, &mut collector, event, on_text)?;
    }
    while let Some(event) = stream.blocking_next() {
        forward(&reply, &mut collector, event, on_text)?;
    }
    Ok(collector.finish()?)
}

fn forward(
    reply: &Reply,
    collector: &mut Collector,
    event: Event,
    on_text: &mut dyn FnMut(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let message = reply.message(event)?;
    if let Some(generate_response::Event::Delta(delta)) = &message.event
        && delta.index == 0
        && !delta.text.is_empty()
    {
        on_text(&delta.text)?;
    }
    Ok(collector.push(message)?)
}

fn num_tokens_to_compute(parts: &[ResolvedPart]) -> u64 {
    let computed = parts.iter().filter(|part| part.outcome == PartOutcome::Miss);
    computed.map(|part| u64::from(part.num_tokens)).sum()
}

/// Waits for the event after `Started` while another thread moves the bar by the engine's count of tokens.
fn watch_until_first_token(
    handle: &EngineHandle,
    stream: &mut RequestStream,
    mut progress: EncodeProgress,
    num_tokens_before: u64,
) -> Option<Event> {
    if !progress.is_shown() {
        return stream.blocking_next();
    }
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !is_done.load(Ordering::Acquire) {
                progress.set(handle.stats().tokens_run.saturating_sub(num_tokens_before));
                thread::park_timeout(PROGRESS_INTERVAL);
            }
        });
        let event = stream.blocking_next();
        is_done.store(true, Ordering::Release);
        watcher.thread().unpark();
        event
    })
}
