//! A resident segment, as the cache keeps it.

use lazy_attn_types::{Position, SegmentKind, Timestamp};

use crate::policy::{Rank, Worth};
use crate::{Address, BlockLease, FillSource, FillState, RecomputeCost, Scope};

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) address: Address,
    pub(crate) kind: SegmentKind,
    pub(crate) lease: BlockLease,
    pub(crate) num_tokens: u32,
    pub(crate) state: FillState,
    /// How it is filled, as long as it is not complete.
    pub(crate) source: FillSource,
    /// Where its content was run first, if it is of use at one place only: what its keys are rotated from.
    pub(crate) origin: Option<Position>,
    pub(crate) num_refs: u32,
    pub(crate) num_pins: u32,
    pub(crate) num_uses: u64,
    pub(crate) last_use: Timestamp,
    pub(crate) cost: RecomputeCost,
    /// Its place in the eviction queue, while it is in it.
    pub(crate) rank: Option<Rank>,
}

impl Entry {
    /// Kept for reuse: nobody reads or fills it now.
    pub(crate) fn is_cached(&self) -> bool {
        self.num_refs == 0
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.state == FillState::Complete
    }

    /// Whether its blocks hold its content, at its place or at another one that it is about to leave.
    pub(crate) fn holds_content(&self) -> bool {
        self.is_complete() || matches!(self.source, FillSource::InPlace { .. })
    }

    /// A document that everyone may find.
    pub(crate) fn is_shared_document(&self) -> bool {
        self.kind == SegmentKind::Document && self.address.scope == Scope::Shared
    }

    pub(crate) fn is_evictable(&self) -> bool {
        self.is_cached() && self.num_pins == 0
    }

    pub(crate) fn touch(&mut self, now: Timestamp) {
        self.num_refs += 1;
        self.num_uses += 1;
        self.last_use = now;
    }

    pub(crate) fn worth(&self) -> Worth {
        Worth {
            num_uses: self.num_uses,
            cost: self.cost,
            num_blocks: self.lease.num_blocks(),
            last_use: self.last_use,
        }
    }
}
