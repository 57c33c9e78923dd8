//! The fixed words that labels take.

use lazy_attn_engine::{CancelCause, EngineError, PartOutcome};

use super::cells::Counter;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Rejected,
    Cancelled,
    Failed,
}

impl Outcome {
    pub(super) const WORDS: [&str; 4] = ["done", "rejected", "cancelled", "failed"];
}

/// Why a request was refused before it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// A field is wrong.
    InvalidField,
    /// Another model is loaded.
    UnknownModel,
    /// Prompt and output exceed the context.
    ContextTooLong,
    /// The KV memory could never hold it.
    KvNeverFits,
    /// Pins would keep too much of the KV memory.
    PinBound,
    /// Too many requests wait.
    QueueFull,
    /// Too many prompt tokens wait.
    BacklogFull,
    /// Too many requests wait to be read.
    IntakeFull,
    /// Its deadline cannot be met.
    DeadlineUnmeetable,
    /// The server finishes what it has.
    Draining,
}

impl Rejection {
    /// In lower case, the reasons of `google.rpc.ErrorInfo`.
    pub(super) const WORDS: [&str; 10] = [
        "invalid_field",
        "unknown_model",
        "context_too_long",
        "kv_never_fits",
        "pin_bound",
        "queue_full",
        "backlog_full",
        "intake_full",
        "deadline_unmeetable",
        "draining",
    ];
}

pub(super) const CAUSES: [&str; 2] = ["client", "deadline"];

/// The position of `cause` in [`CAUSES`].
pub(super) fn cause_index(cause: CancelCause) -> usize {
    match cause {
        CancelCause::Client => 0,
        CancelCause::Deadline => 1,
    }
}

/// Where a document was found; tiers behind the device are not there yet.
pub(super) const LOOKUPS: [&str; 4] = ["device", "joined", "reencoded", "miss"];

/// The position of `outcome` in [`LOOKUPS`].
pub(super) fn lookup_index(outcome: PartOutcome) -> usize {
    match outcome {
        PartOutcome::Hit => 0,
        PartOutcome::Joined => 1,
        PartOutcome::Reencoded => 2,
        PartOutcome::Miss => 3,
    }
}

/// How a request ended that has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Rejected(Rejection),
    Late,
    Broken,
}

impl Failure {
    pub(super) fn of(error: &EngineError) -> Failure {
        match error {
            EngineError::Param(_) | EngineError::Invalid { .. } => Failure::Rejected(Rejection::InvalidField),
            EngineError::ContextTooLong { .. } => Failure::Rejected(Rejection::ContextTooLong),
            EngineError::NeverFits { .. } => Failure::Rejected(Rejection::KvNeverFits),
            EngineError::PinBound { .. } => Failure::Rejected(Rejection::PinBound),
            EngineError::QueueFull { .. } => Failure::Rejected(Rejection::QueueFull),
            EngineError::BacklogFull { .. } => Failure::Rejected(Rejection::BacklogFull),
            EngineError::DeadlineUnmeetable { .. } => Failure::Rejected(Rejection::DeadlineUnmeetable),
            EngineError::DeadlineExceeded { .. } => Failure::Late,
            _ => Failure::Broken,
        }
    }
}

/// One counter per word of a label.
#[derive(Debug)]
pub(super) struct ByWord<const N: usize> {
    pub(super) words: [&'static str; N],
    counters: [Counter; N],
}

impl<const N: usize> ByWord<N> {
    pub(super) fn new(words: [&'static str; N]) -> ByWord<N> {
        ByWord { words, counters: std::array::from_fn(|_| Counter::default()) }
    }

    pub(super) fn count(&self, index: usize) {
        self.counters[index].add(1);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.words.into_iter().zip(self.counters.iter().map(Counter::get))
    }
}
