//! All-or-nothing reservation: everything that can fail is decided before anything is changed.

use std::collections::HashSet;

use lazy_attn_types::{SegmentHandle, SegmentKind, Timestamp};

use crate::entry::{Address, Entry};
use crate::{
    BlockLease, FillState, Found, KvCache, KvError, Reservation, ReserveRequest, ReservedSegment,
    SegmentNeed, SegmentRef, TailLease,
};

/// What a reservation asks of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Demand {
    /// Blocks to lease.
    needed: u32,
    /// Blocks that are free, or evictable without touching a segment the request itself needs.
    available: u32,
}

impl KvCache {
    /// Takes a reference to every needed segment, reserves blocks for the missing ones and for the tail, and evicts
    /// for that as the policy says.
    ///
    /// # Errors
    /// [`KvError::Shortfall`] if blocks are missing; then nothing has changed, statistics included.
    pub fn reserve(&mut self, request: &ReserveRequest<'_>, now: Timestamp) -> Result<Reservation, KvError> {
        let Demand { needed, available } = self.demand(request);
        if needed > available {
            return Err(KvError::Shortfall { needed, available, total: self.pool.num_blocks() });
        }
        // Resident segments first: once referenced, none of them can be evicted for the others.
        let mut found: Vec<Option<ReservedSegment>> =
            request.segments.iter().map(|need| self.reserve_resident(need, now)).collect();
        for (slot, need) in found.iter_mut().zip(request.segments) {
            if slot.is_none() {
                *slot = Some(self.reserve_missing(need, now));
            }
        }
        let tail = self.reserve_tail(request.tail_tokens);
        Ok(Reservation { segments: found.into_iter().flatten().collect(), tail })
    }

    /// Adds `num_blocks` blocks to a tail, evicting for that as the policy says.
    ///
    /// # Errors
    /// [`KvError::Shortfall`] if blocks are missing; then nothing has changed.
    pub fn grow_tail(&mut self, tail: &mut TailLease, num_blocks: u32) -> Result<(), KvError> {
        let available = self.pool.num_free() + self.counters.evictable_blocks;
        if num_blocks > available {
            let total = self.pool.num_blocks();
            return Err(KvError::Shortfall { needed: num_blocks, available, total });
        }
        while !self.pool.extend(&mut tail.lease, num_blocks) {
            self.evict_one();
        }
        self.counters.tail_blocks += num_blocks;
        Ok(())
    }

    /// Blocks that would be free or evictable after `request` was granted; none if it would not be.
    #[must_use]
    pub fn room_after(&self, request: &ReserveRequest<'_>) -> Option<u32> {
        let Demand { needed, available } = self.demand(request);
        available.checked_sub(needed)
    }

    /// Blocks that `request` could have if nobody else ran: the pool without what is pinned and not its own.
    #[must_use]
    pub fn available_alone(&self, request: &ReserveRequest<'_>) -> u32 {
        let mut seen = HashSet::new();
        let distinct = request.segments.iter().filter(|need| seen.insert((need.scope, need.key)));
        let resident = distinct.filter_map(|need| self.by_address.get(&(need.scope, need.key)));
        let pinned = resident.map(|&handle| self.entry(handle)).filter(|entry| entry.num_pins > 0);
        let own_pinned: u32 = pinned.map(|entry| entry.lease.num_blocks()).sum();
        self.pool.num_blocks() - (self.counters.pinned_blocks - own_pinned)
    }

    /// Blocks that `request` would take in an empty pool.
    #[must_use]
    pub fn blocks_needed(&self, request: &ReserveRequest<'_>) -> u32 {
        let mut seen = HashSet::new();
        let distinct = request.segments.iter().filter(|need| seen.insert((need.scope, need.key)));
        let block_size = self.config.block_size;
        let segments = distinct.map(|need| block_size.blocks_for(need.num_tokens));
        segments.fold(block_size.blocks_for(request.tail_tokens), u32::saturating_add)
    }

    fn demand(&self, request: &ReserveRequest<'_>) -> Demand {
        let block_size = self.config.block_size;
        let mut needed = block_size.blocks_for(request.tail_tokens);
        let mut available = self.pool.num_free() + self.counters.evictable_blocks;
        let mut seen: HashSet<Address> = HashSet::new();
        for need in request.segments {
            if !seen.insert((need.scope, need.key)) {
                continue;
            }
            match self.by_address.get(&(need.scope, need.key)) {
                None => needed = needed.saturating_add(block_size.blocks_for(need.num_tokens)),
                Some(&handle) => available -= self.evictable_blocks_of(handle),
            }
        }
        Demand { needed, available }
    }

    fn evictable_blocks_of(&self, handle: SegmentHandle) -> u32 {
        let entry = self.entry(handle);
        if entry.rank.is_some() { entry.lease.num_blocks() } else { 0 }
    }

    fn reserve_resident(&mut self, need: &SegmentNeed, now: Timestamp) -> Option<ReservedSegment> {
        let (reference, found) = self.acquire(need.scope, need.key, now)?;
        let resident = self.entry(reference.handle).num_tokens;
        assert!(resident == need.num_tokens, "equal keys mean equal tokens, but {resident} are resident");
        Some(ReservedSegment { reference, found })
    }

    fn reserve_missing(&mut self, need: &SegmentNeed, now: Timestamp) -> ReservedSegment {
        // The same key may stand twice in one request.
        if let Some(joined) = self.reserve_resident(need, now) {
            return joined;
        }
        assert!(need.num_tokens > 0, "a segment has at least one token");
        let lease = self.lease_evicting(self.config.block_size.blocks_for(need.num_tokens));
        let handle = self.new_handle();
        let mut entry = Entry {
            address: (need.scope, need.key),
            kind: need.kind,
            lease,
            num_tokens: need.num_tokens,
            state: FillState::Filling { computed: 0 },
            num_refs: 0,
            num_pins: 0,
            num_uses: 0,
            last_use: now,
            cost: need.cost,
            rank: None,
        };
        entry.touch(now);
        self.by_address.insert(entry.address, handle);
        self.entries.insert(handle, entry);
        self.generation += 1;
        self.counters.count(Found::Miss);
        self.counters.documents += usize::from(need.kind == SegmentKind::Document);
        ReservedSegment { reference: SegmentRef { handle }, found: Found::Miss }
    }

    fn reserve_tail(&mut self, num_tokens: u32) -> TailLease {
        let lease = self.lease_evicting(self.config.block_size.blocks_for(num_tokens));
        self.counters.tail_blocks += lease.num_blocks();
        TailLease { handle: self.new_handle(), lease }
    }

    fn lease_evicting(&mut self, num_blocks: u32) -> BlockLease {
        loop {
            match self.pool.lease(num_blocks) {
                Some(lease) => return lease,
                None => self.evict_one(),
            }
        }
    }
}
