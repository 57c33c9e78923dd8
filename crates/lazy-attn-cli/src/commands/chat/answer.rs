//! One answer, printed as it comes, until it ends or a person presses Ctrl-C.

use std::time::Duration;

use lazy_attn_engine::EngineHandle;
use lazy_attn_proto::v1::{self, CacheOutcome, generate_response::Event};
use lazy_attn_server::convert::Collector;
use tokio::signal::unix::Signal;
use tokio::time::{MissedTickBehavior, interval};

use crate::commands::chat::backend::{Backend, Events};
use crate::exit::Failure;
use crate::ui::{EncodeProgress, Out, Verbosity};

/// How often the progress of encoding is looked at.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// How an answer ended.
#[derive(Debug)]
pub(super) enum Ended {
    Finished(Box<v1::CollectedResponse>),
    /// By a signal; the engine has dropped it.
    Interrupted,
}

/// Prints the answer to `request` on `out`, unless `interrupt` comes.
pub(super) async fn answer(
    backend: &mut Backend,
    request: v1::GenerateRequest,
    out: &mut Out,
    interrupt: &mut Signal,
) -> Result<Ended, Failure> {
    let mut printer = Printer { out, has_line: false };
    let ended = tokio::select! {
        ended = follow(backend, request, &mut printer) => ended,
        _ = interrupt.recv() => Ok(Ended::Interrupted),
    };
    printer.end_line()?;
    ended
}

async fn follow(
    backend: &mut Backend,
    request: v1::GenerateRequest,
    printer: &mut Printer<'_>,
) -> Result<Ended, Failure> {
    let engine = backend.engine();
    let num_tokens_before = engine.as_ref().map_or(0, |engine| engine.stats().tokens_run);
    let mut events = backend.generate(request).await?;
    let mut collector = Collector::new(1);
    while let Some(message) = events.next().await? {
        let to_watch = match &message.event {
            Some(Event::Started(started)) => engine.as_ref().map(|engine| (engine, watched(started))),
            Some(Event::Delta(delta)) => {
                printer.text(&delta.text)?;
                None
            }
            _ => None,
        };
        collector.push(message)?;
        if let Some((engine, progress)) = to_watch
            && progress.is_shown()
            && let Some(message) = next_watched(&mut events, engine, progress, num_tokens_before).await?
        {
            if let Some(Event::Delta(delta)) = &message.event {
                printer.text(&delta.text)?;
            }
            collector.push(message)?;
        }
    }
    Ok(Ended::Finished(Box::new(collector.finish()?)))
}

fn watched(started: &v1::Started) -> EncodeProgress {
    let computed = started.parts.iter().filter(|part| part.outcome() == CacheOutcome::Miss);
    EncodeProgress::new(Verbosity::Normal, computed.map(|part| u64::from(part.token_count)).sum())
}

/// The next event, and a bar that moves by the engine's count of tokens until it comes.
async fn next_watched(
    events: &mut Events,
    engine: &EngineHandle,
    mut progress: EncodeProgress,
    num_tokens_before: u64,
) -> Result<Option<v1::GenerateResponse>, Failure> {
    let mut ticks = interval(PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = events.next() => return message,
            _ = ticks.tick() => progress.set(engine.stats().tokens_run.saturating_sub(num_tokens_before)),
        }
    }
}

/// Prints text, and knows whether a line is open.
struct Printer<'a> {
    out: &'a mut Out,
    has_line: bool,
}

impl Printer<'_> {
    fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.has_line |= !text.is_empty();
        self.out.text(text)
    }

    fn end_line(&mut self) -> Result<(), Failure> {
        if self.has_line { self.out.line("") } else { Ok(()) }
    }
}
