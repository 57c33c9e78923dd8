//! What reaches the loop from other threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use lazy_attn_sched::Scheduler;
use lazy_attn_types::{RequestId, SequenceId, Timestamp};
use tokio::sync::mpsc::UnboundedSender;
use tracing::Span;

use crate::intake::Prepared;
use crate::sample::Sample;
use crate::watch::News;
use crate::{CancelCause, EngineError, EngineStats, Event};

/// A message to the loop; messages of one sender arrive in order.
#[derive(Debug)]
pub(crate) enum Command {
    /// Start this request.
    Submit(Box<Job>),
    /// Its reader gave it up.
    Cancel(RequestId, CancelCause),
    /// Answer with the statistics, after everything sent before.
    Stats(mpsc::Sender<EngineStats>),
    /// Look at or change the cache between two steps.
    Ask(Question),
    /// End every request and stop.
    ShutDown,
}

/// What a caller asks of the scheduler; it carries its own way to answer.
pub(crate) struct Question(pub(crate) Box<dyn FnOnce(&mut Answerer<'_>) + Send>);

/// What a question can be asked of.
pub(crate) struct Answerer<'a> {
    pub(crate) scheduler: &'a mut Scheduler,
    pub(crate) news: &'a mut News,
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Question(..)")
    }
}

/// A request on its way to the loop.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) request: RequestId,
    pub(crate) sequences: Vec<SequenceId>,
    pub(crate) prepared: Prepared,
    pub(crate) seed: u64,
    /// One per sequence.
    pub(crate) samples: Vec<Sample>,
    pub(crate) events: UnboundedSender<Event>,
    pub(crate) submitted: Timestamp,
    pub(crate) place: QueuePlace,
    /// Of the request, from submitting to its end.
    pub(crate) span: Span,
}

/// One of the bounded places of waiting requests; free again when dropped.
#[derive(Debug)]
pub(crate) struct QueuePlace {
    num_taken: Arc<AtomicUsize>,
}

impl QueuePlace {
    /// Takes a place unless `max_places` are taken.
    pub(crate) fn take(num_taken: &Arc<AtomicUsize>, max_places: usize) -> Result<QueuePlace, EngineError> {
        let take = |taken: usize| (taken < max_places).then_some(taken + 1);
        match num_taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
            Ok(_) => Ok(QueuePlace { num_taken: Arc::clone(num_taken) }),
            Err(waiting) => Err(EngineError::QueueFull { waiting }),
        }
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.num_taken.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let num_taken = Arc::new(AtomicUsize::new(0));
        let first = QueuePlace::take(&num_taken, 2).unwrap();
        let _second = QueuePlace::take(&num_taken, 2).unwrap();
        assert_eq!(QueuePlace::take(&num_taken, 2).unwrap_err(), EngineError::QueueFull { waiting: 2 });
        drop(first);
        assert!(QueuePlace::take(&num_taken, 2).is_ok());
    }
}
