//! Admitted sequences, in the order in which they were admitted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use lazy_attn_kv::{FillState, Found, KvCache, Reservation, SegmentNeed, SegmentRef, TailLease};
use lazy_attn_types::{
    BlockSize, Context, RequestId, SegmentKind, SequenceId, Timestamp, TokenId, TokenRange,
};

use crate::PlacedSegment;
use crate::admission::Waiting;

/// What a running sequence waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its prompt, or what a preemption took away.
    Prompt,
    /// Its next token.
    Decode,
}

/// A sequence that was admitted, apart from the blocks it holds: what a preemption leaves of it.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    pub(crate) request: RequestId,
    /// Its place in the order of first admissions, which a preemption does not change.
    pub(crate) turn: u64,
    pub(crate) context: Arc<Context>,
    pub(crate) needs: Arc<[SegmentNeed]>,
    /// Tokens of the tail: the last prompt token and the generated ones. The last of them has not run yet.
    pub(crate) tail_tokens: Vec<TokenId>,
    pub(crate) max_tokens: u32,
    pub(crate) priority: i32,
    pub(crate) deadline: Option<Timestamp>,
}

impl Sequence {
    /// The next sample of `waiting`.
    pub(crate) fn next_of(waiting: &Waiting, turn: u64) -> Sequence {
        let submission = &waiting.submission;
        Sequence {
            id: waiting.next_sequence(),
            request: submission.request,
            turn,
            context: submission.context.clone(),
            needs: waiting.needs.clone(),
            tail_tokens: vec![submission.context.last_prompt_token()],
            max_tokens: submission.max_tokens,
            priority: submission.priority,
            deadline: submission.deadline,
        }
    }

    /// The token to run next.
    pub(crate) fn next_token(&self) -> TokenId {
        self.tail_tokens[self.tail_tokens.len() - 1]
    }

    /// Tail tokens it has a use for when it starts or goes on: those to run again and the next one.
    pub(crate) fn first_slots(&self) -> u32 {
        // Bounded by `max_tokens`; one that generates nothing has no tail.
        (self.tail_tokens.len() as u32).min(self.max_tokens)
    }
}

/// A sequence that runs: it holds its segments and the tail it has so far.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) sequence: Sequence,
    pub(crate) references: Vec<SegmentRef>,
    pub(crate) tail: TailLease,
    /// The context's segments, where they are stored.
    pub(crate) placed: Arc<[PlacedSegment]>,
    pub(crate) phase: Phase,
    /// Tail tokens to run again: all but the last, if it was preempted after its first token.
    pub(crate) rerun: Arc<[TokenId]>,
    /// Tail tokens whose KV is written.
    pub(crate) num_written: u32,
}

impl Running {
    /// Takes over what `reservation` grants, and tells how each segment was found.
    pub(crate) fn new(sequence: Sequence, reservation: Reservation, kv: &KvCache) -> (Running, Vec<Found>) {
        let found = reservation.segments.iter().map(|segment| segment.found).collect();
        let references: Vec<_> = reservation.segments.into_iter().map(|segment| segment.reference).collect();
        let placed = references.iter().zip(sequence.context.segments()).map(|(reference, segment)| {
            let info = kv.segment(reference.handle());
            PlacedSegment {
                handle: info.handle,
                blocks: info.blocks,
                num_tokens: info.num_tokens,
                seen: segment.seen(),
                start: segment.start(),
                origin: info.origin.unwrap_or(segment.start()),
            }
        });
        let running = Running {
            placed: placed.collect(),
            references,
            tail: reservation.tail,
            phase: Phase::Prompt,
            rerun: sequence.tail_tokens[..sequence.tail_tokens.len() - 1].into(),
            num_written: 0,
            sequence,
        };
        (running, found)
    }

    /// The tail as it is written so far.
    pub(crate) fn placed_tail(&self) -> PlacedSegment {
        PlacedSegment {
            handle: self.tail.handle(),
            blocks: self.tail.blocks().clone(),
            num_tokens: self.num_written,
            seen: TokenRange::whole(self.num_written),
            start: self.sequence.context.tail_start(),
            origin: self.sequence.context.tail_start(),
        }
    }

    /// Whether its tail may come to need more blocks than it has.
    pub(crate) fn may_grow(&self, block_size: BlockSize) -> bool {
        block_size.blocks_for(self.sequence.max_tokens) > self.tail.blocks().len() as u32
    }

    /// Tokens whose KV nobody else needs, so that at most so many are computed again if it is preempted: its tail, and
    /// what it alone holds of texts and of unfinished documents.
    pub(crate) fn private_tokens(&self, kv: &KvCache) -> u64 {
        let needs = self.sequence.needs.iter().zip(self.sequence.context.segments());
        let of_segments = needs.map(|(need, segment)| {
            let residency = kv.residency_of(need);
            match residency.filter(|residency| residency.num_refs == 1).map(|residency| residency.state) {
                Some(FillState::Filling { computed }) => u64::from(computed),
                Some(FillState::Complete) if segment.kind() == SegmentKind::Text => {
                    u64::from(need.num_tokens)
                }
                _ => 0,
            }
        });
        of_segments.sum::<u64>() + u64::from(self.num_written)
    }
}

/// The running sequences, ordered by first admission.
#[derive(Debug, Default)]
pub(crate) struct RunningSet {
    next_turn: u64,
    by_turn: BTreeMap<u64, Running>,
    turns: HashMap<SequenceId, u64>,
}

impl RunningSet {
    /// A place behind everybody who was ever admitted.
    pub(crate) fn take_turn(&mut self) -> u64 {
        self.next_turn += 1;
        self.next_turn
    }

    pub(crate) fn push(&mut self, running: Running) {
        let (id, turn) = (running.sequence.id, running.sequence.turn);
        let known = self.turns.insert(id, turn);
        assert!(known.is_none(), "{id} is submitted once");
        self.by_turn.insert(turn, running);
    }

    pub(crate) fn get_mut(&mut self, sequence: SequenceId) -> Option<&mut Running> {
        self.by_turn.get_mut(self.turns.get(&sequence)?)
    }

    pub(crate) fn remove(&mut self, sequence: SequenceId) -> Option<Running> {
        let turn = self.turns.remove(&sequence)?;
        self.by_turn.remove(&turn)
    }

    /// Takes over origins that changed because a segment is run that was to be re-encoded.
    pub(crate) fn place_again(&mut self, kv: &KvCache) {
        let origin = |placed: &PlacedSegment| kv.origin(placed.handle).unwrap_or(placed.start);
        for running in self.by_turn.values_mut() {
            if running.placed.iter().any(|placed| placed.origin != origin(placed)) {
                let again =
                    |placed: &PlacedSegment| PlacedSegment { origin: origin(placed), ..placed.clone() };
                running.placed = running.placed.iter().map(again).collect();
            }
        }
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
