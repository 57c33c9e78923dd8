//! Telling others what is resident.

use lazy_attn_kv::KvEvent;
use lazy_attn_sched::Scheduler;
use lazy_attn_types::SegmentKey;
use tokio::sync::broadcast;

/// Changes that a slow watcher may be behind before it is told that it missed some.
const CAPACITY: usize = 1024;

/// A change of what is resident, numbered without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumberedKvEvent {
    /// One more than that of the change before; the first is 1.
    pub sequence: u64,
    /// The change.
    pub event: KvEvent,
}

/// What is resident, and how it changes from then on.
#[derive(Debug)]
pub struct KvWatch {
    /// Number of the last change that `resident` contains.
    pub sequence: u64,
    /// Every complete document with its length in tokens.
    pub resident: Vec<(SegmentKey, u32)>,
    /// The changes after `sequence`. A watcher that falls too far behind gets
    /// [`Lagged`](broadcast::error::RecvError::Lagged) and starts again with a new watch; the engine never waits for one.
    pub changes: broadcast::Receiver<NumberedKvEvent>,
}

/// The loop's end of all watches. Nothing is recorded before the first.
#[derive(Debug, Default)]
pub(crate) struct News {
    sequence: u64,
    sender: Option<broadcast::Sender<NumberedKvEvent>>,
}

impl News {
    /// A new watch, as of now.
    pub(crate) fn watch(&mut self, scheduler: &mut Scheduler) -> KvWatch {
        scheduler.record_kv_events();
        self.publish(scheduler);
        let sender = self.sender.get_or_insert_with(|| broadcast::Sender::new(CAPACITY));
        let changes = sender.subscribe();
        KvWatch { sequence: self.sequence, resident: scheduler.kv().complete_documents().collect(), changes }
    }

    /// Passes on what has changed.
    pub(crate) fn publish(&mut self, scheduler: &mut Scheduler) {
        let Some(sender) = &self.sender else { return };
        for event in scheduler.take_kv_events() {
            self.sequence += 1;
            // Nobody may be watching now; the numbers go on for those who come.
            let _ = sender.send(NumberedKvEvent { sequence: self.sequence, event });
        }
    }
}
