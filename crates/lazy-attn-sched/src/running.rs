//! Admitted sequences, in the order in which they were admitted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use lazy_attn_kv::{Found, KvCache, Reservation, SegmentRef, TailLease};
use lazy_attn_types::{Context, RequestId, SequenceId, Timestamp, TokenId};

use crate::{PlacedSegment, Submission};

/// What a running sequence waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its prompt.
    Prompt,
    /// Its next token.
    Decode,
}

/// An admitted sequence: it holds everything it can ever need.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) request: RequestId,
    pub(crate) sequence: SequenceId,
    pub(crate) context: Arc<Context>,
    pub(crate) references: Vec<SegmentRef>,
    pub(crate) tail: TailLease,
    /// The context's segments, where they are stored.
    pub(crate) placed: Arc<[PlacedSegment]>,
    pub(crate) phase: Phase,
    /// The token to run next, the tail's token `num_written`.
    pub(crate) next_token: TokenId,
    pub(crate) num_written: u32,
    pub(crate) max_tokens: u32,
    pub(crate) deadline: Option<Timestamp>,
}

impl Running {
    /// Takes over what `reservation` grants, and tells how each segment was found.
    pub(crate) fn new(
        submission: &Submission,
        sequence: SequenceId,
        reservation: Reservation,
        kv: &KvCache,
    ) -> (Running, Vec<Found>) {
        let context = submission.context.clone();
        let found = reservation.segments.iter().map(|segment| segment.found).collect();
        let references: Vec<_> = reservation.segments.into_iter().map(|segment| segment.reference).collect();
        let placed = references.iter().zip(context.segments()).map(|(reference, segment)| {
            let info = kv.segment(reference.handle());
            PlacedSegment {
                handle: info.handle,
                blocks: info.blocks,
                num_tokens: info.num_tokens,
                start: segment.start(),
            }
        });
        let running = Running {
            request: submission.request,
            sequence,
            placed: placed.collect(),
            references,
            tail: reservation.tail,
            phase: Phase::Prompt,
            next_token: context.last_prompt_token(),
            num_written: 0,
            max_tokens: submission.max_tokens,
            deadline: submission.deadline,
            context,
        };
        (running, found)
    }
}

/// The running sequences, ordered by admission.
#[derive(Debug, Default)]
pub(crate) struct RunningSet {
    next_turn: u64,
    by_turn: BTreeMap<u64, Running>,
    turns: HashMap<SequenceId, u64>,
}

impl RunningSet {
    pub(crate) fn push(&mut self, running: Running) {
        let known = self.turns.insert(running.sequence, self.next_turn);
        assert!(known.is_none(), "{} is submitted once", running.sequence);
        self.by_turn.insert(self.next_turn, running);
        self.next_turn += 1;
    }

    pub(crate) fn get_mut(&mut self, sequence: SequenceId) -> Option<&mut Running> {
        self.by_turn.get_mut(self.turns.get(&sequence)?)
    }

    pub(crate) fn remove(&mut self, sequence: SequenceId) -> Option<Running> {
        let turn = self.turns.remove(&sequence)?;
        self.by_turn.remove(&turn)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Running> {
        self.by_turn.values()
    }

    pub(crate) fn contains(&self, sequence: SequenceId) -> bool {
        self.turns.contains_key(&sequence)
    }

    pub(crate) fn len(&self) -> u32 {
        // Bounded by `SchedConfig::max_running`.
        self.by_turn.len() as u32
    }
}
