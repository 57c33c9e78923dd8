//! All-or-nothing reservation: everything that can fail is decided before anything is changed.

use std::collections::HashSet;

use lazy_attn_types::{SegmentHandle, SegmentKind, Timestamp};

use crate::entry::Entry;
use crate::{
    Address, BlockLease, FillSource, FillState, Found, IdleCopies, KvCache, KvError, Reservation,
    ReserveRequest, ReservedSegment, SegmentNeed, SegmentRef, TailLease,
};

/// What a reservation asks of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Demand {
    /// Blocks to lease.
    needed: u32,
    /// Blocks that are free, or evictable without touching a segment the request itself needs.
    available: u32,
}

/// How a needed segment is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// It stands earlier in the request.
    Again,
    /// Resident where it is needed.
    Resident(SegmentHandle),
    /// This copy, which nobody holds, is moved.
    Move(SegmentHandle),
    /// It takes blocks of its own.
    New,
}

impl KvCache {
    /// Takes a reference to every needed segment, reserves blocks for the missing ones and for the tail, and evicts
    /// for that as the policy says.
    ///
    /// # Errors
    /// [`KvError::Shortfall`] if blocks are missing; then nothing has changed, statistics included.
    pub fn reserve(&mut self, request: &ReserveRequest<'_>, now: Timestamp) -> Result<Reservation, KvError> {
        let (choices, Demand { needed, available }) = self.choose(request);
        if needed > available {
            return Err(KvError::Shortfall { needed, available, total: self.pool.num_blocks() });
        }
        // What is resident first: once referenced, none of it can be evicted for the others.
        let resident = request.segments.iter().zip(&choices).map(|(need, choice)| match choice {
            Choice::Resident(_) => self.reserve_resident(need, now),
            Choice::Move(handle) => Some(self.move_copy(*handle, need, now)),
            Choice::Again | Choice::New => None,
        });
        let mut found: Vec<Option<ReservedSegment>> = resident.collect();
        // Nor may what the others are copied from, before they hold it themselves.
        let sources: Vec<SegmentHandle> = self.sources(request, &choices).collect();
        sources.iter().for_each(|&source| self.hold(source));
        for (slot, need) in found.iter_mut().zip(request.segments) {
            if slot.is_none() {
                *slot = Some(self.reserve_missing(need, now));
            }
        }
        sources.into_iter().for_each(|source| self.drop_reference(source));
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
        let (_, Demand { needed, available }) = self.choose(request);
        available.checked_sub(needed)
    }

    /// Blocks that `request` could have if nobody else ran: the pool without what is pinned and not its own.
    #[must_use]
    pub fn available_alone(&self, request: &ReserveRequest<'_>) -> u32 {
        let mut seen = HashSet::new();
        let distinct = request.segments.iter().filter(|need| seen.insert(need.address()));
        let resident = distinct.filter_map(|need| self.by_address.get(&need.address()));
        let pinned = resident.map(|&handle| self.entry(handle)).filter(|entry| entry.num_pins > 0);
        let own_pinned: u32 = pinned.map(|entry| entry.lease.num_blocks()).sum();
        self.pool.num_blocks() - (self.counters.pinned_blocks - own_pinned)
    }

    /// Blocks that `request` would take in an empty pool.
    #[must_use]
    pub fn blocks_needed(&self, request: &ReserveRequest<'_>) -> u32 {
        let mut seen = HashSet::new();
        let distinct = request.segments.iter().filter(|need| seen.insert(need.address()));
        let block_size = self.config.block_size;
        let segments = distinct.map(|need| block_size.blocks_for(need.num_tokens));
        segments.fold(block_size.blocks_for(request.tail_tokens), u32::saturating_add)
    }

    /// How each needed segment would be found, and what that takes. Where idle copies stay, they still move if there is no room
    /// for them beside what is made from them.
    fn choose(&self, request: &ReserveRequest<'_>) -> (Vec<Choice>, Demand) {
        let priced = |idle_copies| {
            let choices = self.choices(request, idle_copies);
            let demand = self.demand(request, &choices);
            (choices, demand)
        };
        let first = priced(self.idle_copies);
        let fits = first.1.needed <= first.1.available;
        if fits || self.idle_copies == IdleCopies::Move { first } else { priced(IdleCopies::Move) }
    }

    fn choices(&self, request: &ReserveRequest<'_>, idle_copies: IdleCopies) -> Vec<Choice> {
        let resident = |need: &SegmentNeed| self.by_address.get(&need.address()).copied();
        // A copy that the request needs where it stands does not move away for another place.
        let mut claimed: HashSet<SegmentHandle> = request.segments.iter().filter_map(resident).collect();
        let mut seen: HashSet<Address> = HashSet::new();
        let choice = |need: &SegmentNeed| {
            if !seen.insert(need.address()) {
                return Choice::Again;
            }
            if let Some(handle) = resident(need) {
                return Choice::Resident(handle);
            }
            match self.movable_copy(need, &claimed) {
                Some(handle) if idle_copies == IdleCopies::Move => {
                    claimed.insert(handle);
                    Choice::Move(handle)
                }
                _ => Choice::New,
            }
        };
        request.segments.iter().map(choice).collect()
    }

    fn demand(&self, request: &ReserveRequest<'_>, choices: &[Choice]) -> Demand {
        let block_size = self.config.block_size;
        let mut needed = block_size.blocks_for(request.tail_tokens);
        let mut kept: HashSet<SegmentHandle> = self.sources(request, choices).collect();
        for (need, choice) in request.segments.iter().zip(choices) {
            match *choice {
                Choice::Again => {}
                Choice::New => needed = needed.saturating_add(block_size.blocks_for(need.num_tokens)),
                Choice::Resident(handle) | Choice::Move(handle) => _ = kept.insert(handle),
            }
        }
        let kept: u32 = kept.into_iter().map(|handle| self.evictable_blocks_of(handle)).sum();
        Demand { needed, available: self.pool.num_free() + self.counters.evictable_blocks - kept }
    }

    /// What the new segments of a request are copied from, as far as it is there already.
    fn sources<'a>(
        &'a self,
        request: &'a ReserveRequest<'_>,
        choices: &'a [Choice],
    ) -> impl Iterator<Item = SegmentHandle> + 'a {
        let new = request.segments.iter().zip(choices).filter(|(_, choice)| **choice == Choice::New);
        new.filter_map(|(need, _)| match self.copy_source(need) {
            FillSource::Copy { from, .. } => Some(from),
            FillSource::Run | FillSource::InPlace { .. } => None,
        })
    }

    fn evictable_blocks_of(&self, handle: SegmentHandle) -> u32 {
        let entry = self.entry(handle);
        if entry.rank.is_some() { entry.lease.num_blocks() } else { 0 }
    }

    fn reserve_resident(&mut self, need: &SegmentNeed, now: Timestamp) -> Option<ReservedSegment> {
        let (reference, found) = self.acquire(need.address(), now)?;
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
        // Held before anything is evicted for the copy.
        let source = self.copy_source(need);
        if let FillSource::Copy { from, .. } = source {
            self.hold(from);
        }
        let lease = self.lease_evicting(self.config.block_size.blocks_for(need.num_tokens));
        let handle = self.new_handle();
        let mut entry = Entry {
            address: need.address(),
            kind: need.kind,
            lease,
            num_tokens: need.num_tokens,
            state: FillState::Filling { computed: 0 },
            source,
            origin: self.first_origin(need, source),
            num_refs: 0,
            num_pins: 0,
            num_uses: 0,
            last_use: now,
            cost: need.cost,
            rank: None,
        };
        entry.touch(now);
        self.entries.insert(handle, entry);
        self.add_copy(handle, need.address());
        self.generation += 1;
        let found = if source == FillSource::Run { Found::Miss } else { Found::Reencoded };
        self.counters.count(found);
        self.counters.documents += usize::from(need.kind == SegmentKind::Document);
        ReservedSegment { reference: SegmentRef { handle }, found }
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
