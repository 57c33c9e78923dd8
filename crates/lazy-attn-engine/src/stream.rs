//! The reader's end of a request.

use std::sync::mpsc;

use lazy_attn_types::RequestId;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::command::Command;
use crate::{CancelCause, EngineError, Event};

/// The events of one request, ending with [`Event::Done`] or [`Event::Failed`].
///
/// The engine never waits for a reader. What a slow one has not read piles up to at most one entry per generated token,
/// which `max_tokens` bounds, and consecutive deltas of one sequence come merged. Dropping the stream cancels the
/// request: its blocks are free again before the next step is planned.
#[derive(Debug)]
pub struct RequestStream {
    request: RequestId,
    events: UnboundedReceiver<Event>,
    commands: mpsc::Sender<Command>,
    /// Read while merging, not yet returned.
    pending: Option<Event>,
    has_ended: bool,
    /// Why it is cancelled if it is dropped now.
    cause: CancelCause,
}

impl RequestStream {
    pub(crate) fn new(
        request: RequestId,
        events: UnboundedReceiver<Event>,
        commands: mpsc::Sender<Command>,
    ) -> RequestStream {
        RequestStream {
            request,
            events,
            commands,
            pending: None,
            has_ended: false,
            cause: CancelCause::Client,
        }
    }

    /// The id of the request in this engine.
    #[must_use]
    pub fn request(&self) -> RequestId {
        self.request
    }

    /// Waits for the next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Event> {
        if self.has_ended {
            return None;
        }
        let first = match self.pending.take() {
            Some(event) => Some(event),
            None => self.events.recv().await,
        };
        Some(self.merged(first))
    }

    /// Blocks the thread until the next event; `None` after the last.
    ///
    /// # Panics
    /// If called from asynchronous code; use [`RequestStream::next`] there.
    pub fn blocking_next(&mut self) -> Option<Event> {
        if self.has_ended {
            return None;
        }
        let first = match self.pending.take() {
            Some(event) => Some(event),
            None => self.events.blocking_recv(),
        };
        Some(self.merged(first))
    }

    /// Cancels the request because a deadline passed that the reader keeps, not the engine.
    pub fn expire(mut self) {
        self.cause = CancelCause::Deadline;
    }

    /// Merges what has piled up behind `first`. A channel that closes without a last event belongs to an engine that is
    /// gone.
    fn merged(&mut self, first: Option<Event>) -> Event {
        let mut event = first.unwrap_or(Event::Failed(EngineError::ShutDown));
        while let Event::Delta { index, text, tokens } = &mut event {
            match self.events.try_recv() {
                Ok(Event::Delta { index: next_index, text: more, tokens: new }) if next_index == *index => {
                    text.push_str(&more);
                    tokens.extend(new);
                }
                Ok(other) => {
                    self.pending = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        self.has_ended = matches!(event, Event::Done { .. } | Event::Failed(_));
        event
    }
}

impl Drop for RequestStream {
    fn drop(&mut self) {
        if !self.has_ended {
            // An engine that is gone holds no blocks.
            let _ = self.commands.send(Command::Cancel(self.request, self.cause));
            tracing::debug!(request_id = self.request.0, cause = ?self.cause, "given up");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;
    use crate::FinishReason;

    fn stream() -> (UnboundedSender<Event>, RequestStream, mpsc::Receiver<Command>) {
        let (sender, events) = unbounded_channel();
        let (commands, received) = mpsc::channel();
        (sender, RequestStream::new(RequestId(5), events, commands), received)
    }

    fn delta(index: u32, text: &str) -> Event {
        Event::Delta { index, text: text.into(), tokens: Vec::new() }
    }

    fn read_all(stream: &mut RequestStream) -> Vec<Event> {
        std::iter::from_fn(|| stream.blocking_next()).collect()
    }

    #[test]
    fn a_slow_reader_gets_consecutive_deltas_of_a_sequence_in_one() {
        let (sender, mut stream, _commands) = stream();
        let finished = Event::Finished { index: 0, reason: FinishReason::Length };
        let done = Event::Done { usage: Default::default(), timing: Default::default() };
        let sent =
            [delta(0, "a"), delta(0, "b"), delta(1, "x"), delta(0, "c"), finished.clone(), done.clone()];
        sent.into_iter().for_each(|event| sender.send(event).unwrap());
        let read = read_all(&mut stream);
        assert_eq!(read, [delta(0, "ab"), delta(1, "x"), delta(0, "c"), finished, done]);
    }

    #[test]
    fn a_stream_without_its_engine_ends_with_a_failure() {
        let (sender, mut stream, _commands) = stream();
        sender.send(delta(0, "a")).unwrap();
        drop(sender);
        assert_eq!(read_all(&mut stream), [delta(0, "a"), Event::Failed(EngineError::ShutDown)]);
    }

    #[test]
    fn dropping_a_stream_cancels_its_request_unless_it_has_ended() {
        let (_sender, unread, commands) = stream();
        drop(unread);
        assert!(matches!(commands.try_recv(), Ok(Command::Cancel(RequestId(5), CancelCause::Client))));
        let (_sender, late, commands) = stream();
        late.expire();
        assert!(matches!(commands.try_recv(), Ok(Command::Cancel(RequestId(5), CancelCause::Deadline))));
        let (sender, mut ended, commands) = stream();
        sender.send(Event::Failed(EngineError::ShutDown)).unwrap();
        read_all(&mut ended);
        drop(ended);
        assert!(commands.try_recv().is_err());
    }
}
