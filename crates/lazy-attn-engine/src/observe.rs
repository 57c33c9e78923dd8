//! What an engine tells about itself while it works, as plain numbers.
//!
//! Nothing here names a tenant, a document or a text, so an observer cannot leak one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lazy_attn_sched::{PlannedRun, StepPlan};
use lazy_attn_types::{SegmentHandle, SequenceId};

use crate::{EngineError, EngineStats, PartOutcome};

/// Why a request ended before its answer did, though nothing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CancelCause {
    /// Its reader went away.
    Client,
    /// Its deadline passed.
    Deadline,
}

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Observation<'a> {
    /// The first sample of a request started.
    Admitted {
        /// Time since it was submitted.
        queue: Duration,
    },
    /// A request that starts needs a document. Told once per document of its prompt, whatever the attention mode.
    Document {
        /// How it was found.
        outcome: PartOutcome,
        /// Its length.
        num_tokens: u32,
    },
    /// A document was encoded by one request from its first token to its last.
    DocumentEncoded {
        /// From the plan of its first step to the end of its last.
        took: Duration,
    },
    /// A request has its first token.
    FirstToken {
        /// Time since it was submitted.
        since_submitted: Duration,
        /// Time since it was admitted.
        prefill: Duration,
    },
    /// A sequence has another token.
    NextToken {
        /// Time since its last one.
        since_last: Duration,
    },
    /// A request ended with [`Event::Done`](crate::Event::Done).
    Done {
        /// Time since it was submitted.
        since_submitted: Duration,
        /// From its first token to its last; `None` for a request that only encodes a document.
        decode: Option<Duration>,
    },
    /// A request was refused, failed or ended at its deadline; which of them, the error says.
    Failed {
        /// Why.
        error: &'a EngineError,
    },
    /// A request was given up by whoever reads it.
    Cancelled {
        /// Why.
        cause: CancelCause,
    },
    /// A step succeeded.
    Step {
        /// From its plan to its commit.
        took: Duration,
        /// Tokens it ran.
        num_tokens: u32,
        /// Sequences that ran in it.
        num_sequences: u32,
    },
    /// Sequences of one step read the same document. Told once per document that a step decodes over, before its
    /// [`Observation::Sharing`].
    DocumentGroup {
        /// Sequences that read it; 1 if nobody shares it.
        num_sequences: u32,
    },
    /// What sharing saves: told once per step that decodes over documents.
    Sharing {
        /// Document tokens attended, each document once per sequence that reads it.
        attended_tokens: u64,
        /// The same, each document once.
        distinct_tokens: u64,
    },
    /// Where the engine stands. Told whenever it may have changed.
    State(&'a EngineStats),
}

/// Is told what happens, on the engine's thread, or on the submitting one for a request that is refused there. A step
/// waits until it returns, so it must not block, and it should not allocate.
pub trait Observer: Send + Sync {
    /// `observation` happened.
    fn observe(&self, observation: &Observation<'_>);
}

/// Ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn observe(&self, _observation: &Observation<'_>) {}
}

/// A view of a document that a row reads.
#[derive(Debug, Clone, Copy)]
struct Read {
    /// Which document and who reads it, one number to sort by.
    reading: u128,
    num_seen: u32,
    /// Tokens of the document.
    num_tokens: u32,
}

impl Read {
    fn is_of_document(&self, other: &Read) -> bool {
        self.reading >> 64 == other.reading >> 64
    }
}

/// Measures the steps; keeps its memory from one to the next.
pub(crate) struct StepMeter {
    pub(crate) observer: Arc<dyn Observer>,
    /// Documents that the rows of the planned step read.
    read: Vec<Read>,
    /// Whose runs the planned step has.
    sequences: Vec<SequenceId>,
}

impl StepMeter {
    pub(crate) fn new(observer: Arc<dyn Observer>) -> StepMeter {
        StepMeter { observer, read: Vec::new(), sequences: Vec::new() }
    }

    /// Forgets a step that was not committed.
    pub(crate) fn start(&mut self) {
        self.read.clear();
        self.sequences.clear();
    }

    /// The step has `run`, in whose context `documents` are at these places. A sequence has one row in a step at most,
    /// so what it fills before is not counted.
    pub(crate) fn plan(&mut self, run: &PlannedRun, documents: &[usize]) {
        self.sequences.push(run.sequence);
        if run.work.wants_logits() {
            let views = documents.iter().filter_map(|&index| run.context.get(index));
            let views = views.filter(|view| view.seen.num_tokens() > 0);
            self.read.extend(views.map(|view| Read {
                reading: reading(view.handle, run.sequence),
                num_seen: view.seen.num_tokens(),
                num_tokens: view.num_tokens,
            }));
        }
    }

    /// `plan` succeeded.
    pub(crate) fn commit(&mut self, plan: &StepPlan, took: Duration) {
        self.sequences.sort_unstable();
        self.sequences.dedup();
        let num_sequences = self.sequences.len() as u32; // bounded by `EngineConfig::max_running`
        self.observer.observe(&Observation::Step { took, num_tokens: plan.num_tokens(), num_sequences });
        self.read.sort_unstable_by_key(|read| read.reading);
        let (mut attended_tokens, mut distinct_tokens) = (0, 0);
        for group in self.read.chunk_by(Read::is_of_document) {
            // A context may hold a document twice, or several views of it.
            let (mut num_sequences, mut most_seen) = (0, 0);
            for of_sequence in group.chunk_by(|a, b| a.reading == b.reading) {
                let num_seen: u64 = of_sequence.iter().map(|read| u64::from(read.num_seen)).sum();
                attended_tokens += num_seen;
                most_seen = num_seen.max(most_seen);
                num_sequences += 1;
            }
            distinct_tokens += most_seen.min(u64::from(group[0].num_tokens));
            self.observer.observe(&Observation::DocumentGroup { num_sequences });
        }
        if distinct_tokens > 0 {
            self.observer.observe(&Observation::Sharing { attended_tokens, distinct_tokens });
        }
    }
}

/// Orders by document, then by who reads it.
fn reading(document: SegmentHandle, sequence: SequenceId) -> u128 {
    u128::from(document.0) << 64 | u128::from(sequence.0)
}

impl fmt::Debug for StepMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepMeter").field("read", &self.read).finish_non_exhaustive()
    }
}
