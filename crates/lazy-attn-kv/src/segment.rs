//! What a caller asks for and what it holds.

use std::sync::Arc;

use lazy_attn_types::{BlockId, Position, RequestId, SegmentHandle, SegmentKey, SegmentKind};

use crate::{BlockLease, RecomputeCost};

/// Who may find a segment by its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Everyone; the segment stays resident after its last release.
    Shared,
    /// One request that bypasses the cache: its samples share the segment, and it goes with the last of them.
    Private(RequestId),
}

/// What a segment is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Who may find it.
    pub scope: Scope,
    /// Its content.
    pub key: SegmentKey,
    /// Where it stands, if its keys are stored rotated to positions of a context; `None` if one copy serves every place.
    pub place: Option<Position>,
}

/// A segment a caller needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentNeed {
    /// Who may find it.
    pub scope: Scope,
    /// Its content.
    pub key: SegmentKey,
    /// Where it must stand, if copies at other places are of use only to be re-encoded.
    pub place: Option<Position>,
    /// What it is, for the statistics.
    pub kind: SegmentKind,
    /// Its length, at least 1.
    pub num_tokens: u32,
    /// What it would cost to make again once evicted.
    pub cost: RecomputeCost,
}

impl SegmentNeed {
    /// What it is found by.
    #[must_use]
    pub fn address(&self) -> Address {
        Address { scope: self.scope, key: self.key, place: self.place }
    }
}

/// Everything a sequence needs, taken together or not at all.
#[derive(Debug, Clone, Copy)]
pub struct ReserveRequest<'a> {
    /// The segments of its context, in order; a key may occur more than once.
    pub segments: &'a [SegmentNeed],
    /// Tokens its private tail has room for; it can [grow](crate::KvCache::grow_tail).
    pub tail_tokens: u32,
}

/// How far a segment's KV is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FillState {
    /// The first `computed` tokens are written.
    Filling {
        /// Tokens written.
        computed: u32,
    },
    /// All tokens are written; they never change again.
    Complete,
}

/// How a segment that is being filled comes to its KV.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FillSource {
    /// Its tokens are run.
    #[default]
    Run,
    /// Its blocks hold the same content at another place: the keys are rotated by `distance` where they are.
    InPlace {
        /// New place less old place.
        distance: i32,
    },
    /// It is a copy of `from` with the keys rotated by `distance`; `from` stays resident until the copy is complete.
    Copy {
        /// The same content at another place, complete or being filled.
        from: SegmentHandle,
        /// Its place less that of `from`.
        distance: i32,
    },
}

/// How a needed segment was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Resident and complete.
    Hit,
    /// Being filled already.
    Joined,
    /// Resident at another place: the caller re-encodes it ([`FillSource`]).
    Reencoded,
    /// Absent: its blocks are reserved now and the caller fills them.
    Miss,
}

/// A segment as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its storage.
    pub handle: SegmentHandle,
    /// Its length.
    pub num_tokens: u32,
    /// How far it is written.
    pub state: FillState,
    /// Its blocks; naming them does not own them.
    pub blocks: Arc<[BlockId]>,
    /// Where its content was run first, if it is of use at one place only: its keys are rotated by their distance from
    /// there. `None`: from wherever it is read.
    pub origin: Option<Position>,
}

/// How far a segment is there for a request that would need it, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Residency {
    /// How far it is written.
    pub state: FillState,
    /// References held to it; 0 for one that is only cached.
    pub num_refs: u32,
}

/// One reference to a segment, which keeps it resident until [`KvCache::release`](crate::KvCache::release).
#[derive(Debug)]
#[must_use = "a dropped reference keeps its segment for ever; give it back with `KvCache::release`"]
pub struct SegmentRef {
    pub(crate) handle: SegmentHandle,
}

impl SegmentRef {
    /// The storage it refers to.
    #[must_use]
    pub fn handle(&self) -> SegmentHandle {
        self.handle
    }
}

/// The private tail of a sequence. Give it back with [`KvCache::release_tail`](crate::KvCache::release_tail).
#[derive(Debug)]
#[must_use = "a dropped tail loses its blocks; give it back with `KvCache::release_tail`"]
pub struct TailLease {
    pub(crate) handle: SegmentHandle,
    pub(crate) lease: BlockLease,
}

impl TailLease {
    /// Its storage.
    #[must_use]
    pub fn handle(&self) -> SegmentHandle {
        self.handle
    }

    /// Its blocks, in order.
    #[must_use]
    pub fn blocks(&self) -> &Arc<[BlockId]> {
        self.lease.blocks()
    }
}

/// A needed segment that was granted.
#[derive(Debug)]
pub struct ReservedSegment {
    /// The reference the caller holds from now on.
    pub reference: SegmentRef,
    /// How it was found.
    pub found: Found,
}

/// What [`KvCache::reserve`](crate::KvCache::reserve) grants.
#[derive(Debug)]
#[must_use = "a dropped reservation loses its blocks; release its segments and its tail"]
pub struct Reservation {
    /// One entry per needed segment, in the order of the request.
    pub segments: Vec<ReservedSegment>,
    /// The tail.
    pub tail: TailLease,
}
