//! The content-addressed store over the pool.

use std::collections::{BTreeSet, HashMap};

use lazy_attn_types::{BlockSize, KvPolicy, SegmentHandle, SegmentKey, SegmentKind, Timestamp};

use crate::copies::{Content, content};
use crate::entry::Entry;
use crate::event::{EventLog, KvEvent};
use crate::policy::EvictionQueue;
use crate::stats::Counters;
use crate::{
    Address, BlockPool, EvictionPolicy, FillSource, FillState, Found, KvError, Residency, Scope, SegmentInfo,
    SegmentNeed, SegmentRef, TailLease,
};

/// Sizes of a cache, fixed for its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvConfig {
    /// Blocks of the pool.
    pub num_blocks: u32,
    /// Tokens per block.
    pub block_size: BlockSize,
    /// Bytes of keys and values per token, for the statistics.
    pub kv_bytes_per_token: u64,
    /// Most blocks that pins may keep from eviction.
    pub max_pinned_blocks: u32,
    /// Who is evicted.
    pub policy: EvictionPolicy,
}

/// What becomes of a copy that nobody holds when its content is needed at another place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IdleCopies {
    /// It moves, and takes no block.
    #[default]
    Move,
    /// It stays, and is copied like one that somebody holds, unless there is no room for both.
    Stay,
}

impl IdleCopies {
    /// What `policy` does with them.
    #[must_use]
    pub fn under(policy: KvPolicy) -> IdleCopies {
        if policy == KvPolicy::ReencodeCopy { IdleCopies::Stay } else { IdleCopies::Move }
    }
}

/// Owns every KV block and knows every resident segment.
///
/// A segment is filled once and then immutable; references keep it resident, and after the last one it stays as cache
/// until its blocks are needed. `free + cached + leased = total` blocks at any time.
#[derive(Debug)]
pub struct KvCache {
    pub(crate) config: KvConfig,
    pub(crate) idle_copies: IdleCopies,
    pub(crate) pool: BlockPool,
    pub(crate) entries: HashMap<SegmentHandle, Entry>,
    pub(crate) by_address: HashMap<Address, SegmentHandle>,
    pub(crate) copies: HashMap<Content, BTreeSet<SegmentHandle>>,
    pub(crate) queue: EvictionQueue,
    pub(crate) counters: Counters,
    pub(crate) generation: u64,
    pub(crate) events: EventLog,
    next_handle: u64,
}

impl KvCache {
    /// An empty cache.
    #[must_use]
    pub fn new(config: KvConfig) -> KvCache {
        KvCache {
            config,
            idle_copies: IdleCopies::Move,
            pool: BlockPool::new(config.num_blocks),
            entries: HashMap::new(),
            by_address: HashMap::new(),
            copies: HashMap::new(),
            queue: EvictionQueue::new(config.policy),
            counters: Counters::default(),
            generation: 0,
            events: EventLog::default(),
            next_handle: 0,
        }
    }

    /// The same cache with another fate of copies that nobody holds.
    #[must_use]
    pub fn with_idle_copies(self, idle_copies: IdleCopies) -> KvCache {
        KvCache { idle_copies, ..self }
    }

    /// Its sizes.
    #[must_use]
    pub fn config(&self) -> &KvConfig {
        &self.config
    }

    /// The segment `key`, if it is resident or being filled, at whatever place; a complete one before others. Changes
    /// nothing.
    #[must_use]
    pub fn lookup(&self, scope: Scope, key: SegmentKey) -> Option<SegmentInfo> {
        self.find(scope, key).map(|handle| self.segment(handle))
    }

    fn find(&self, scope: Scope, key: SegmentKey) -> Option<SegmentHandle> {
        let copies = || self.copies_of((scope, key));
        let complete = copies().find(|(_, entry)| entry.is_complete());
        complete.or_else(|| copies().next()).map(|(handle, _)| handle)
    }

    /// Changes whenever a segment comes or goes or is referred to more or less often: while it stays, so does what
    /// [`KvCache::residency`] tells, but for how far a segment is written.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether the segment `key` is resident or being filled, at whatever place, and how many need it now; changes nothing.
    #[must_use]
    pub fn residency(&self, scope: Scope, key: SegmentKey) -> Option<Residency> {
        let entry = self.entry(self.find(scope, key)?);
        Some(Residency { state: entry.state, num_refs: entry.num_refs })
    }

    /// The same at the place where `need` has it; one that is to be re-encoded from another place is there, and nobody's.
    #[must_use]
    pub fn residency_of(&self, need: &SegmentNeed) -> Option<Residency> {
        if let Some(&handle) = self.by_address.get(&need.address()) {
            let entry = self.entry(handle);
            return Some(Residency { state: entry.state, num_refs: entry.num_refs });
        }
        let is_copied = self.copy_source(need) != FillSource::Run;
        is_copied.then_some(Residency { state: FillState::Complete, num_refs: 0 })
    }

    /// The segment behind `handle`.
    ///
    /// # Panics
    /// If no reference keeps `handle` resident.
    #[must_use]
    pub fn segment(&self, handle: SegmentHandle) -> SegmentInfo {
        let entry = self.entry(handle);
        SegmentInfo {
            handle,
            num_tokens: entry.num_tokens,
            state: entry.state,
            blocks: entry.lease.blocks().clone(),
            origin: entry.origin,
        }
    }

    /// How far the segment behind `handle` is written.
    ///
    /// # Panics
    /// If no reference keeps `handle` resident.
    #[must_use]
    pub fn state(&self, handle: SegmentHandle) -> FillState {
        self.entry(handle).state
    }

    /// Tokens of the segment behind `handle` that are not written yet.
    ///
    /// # Panics
    /// If no reference keeps `handle` resident.
    #[must_use]
    pub fn num_missing(&self, handle: SegmentHandle) -> u32 {
        let entry = self.entry(handle);
        match entry.state {
            FillState::Filling { computed } => entry.num_tokens - computed,
            FillState::Complete => 0,
        }
    }

    /// Takes a reference to a segment that is resident or being filled.
    pub fn acquire(&mut self, address: Address, now: Timestamp) -> Option<(SegmentRef, Found)> {
        let handle = *self.by_address.get(&address)?;
        Some(self.acquire_handle(handle, now))
    }

    pub(crate) fn acquire_handle(&mut self, handle: SegmentHandle, now: Timestamp) -> (SegmentRef, Found) {
        self.leave_queue(handle);
        let entry = self.entry_mut(handle);
        let num_cached = if entry.is_cached() { entry.lease.num_blocks() } else { 0 };
        entry.touch(now);
        let found = match entry.state {
            FillState::Complete => Found::Hit,
            FillState::Filling { .. } => Found::Joined,
        };
        self.counters.cached_blocks -= num_cached;
        self.counters.count(found);
        self.generation += 1;
        (SegmentRef { handle }, found)
    }

    /// Records that `num_tokens` more tokens of a filling segment are written; at its length it is complete.
    ///
    /// # Panics
    /// If the segment is complete already or would grow past its length: a bug of the caller.
    pub fn mark_computed(&mut self, handle: SegmentHandle, num_tokens: u32) -> FillState {
        let entry = self.entry_mut(handle);
        let FillState::Filling { computed } = entry.state else {
            unreachable!("{handle:?} is complete: a complete segment is immutable");
        };
        let computed = computed + num_tokens;
        assert!(computed <= entry.num_tokens, "{handle:?} is filled past its {} tokens", entry.num_tokens);
        let is_complete = computed == entry.num_tokens;
        entry.state = if is_complete { FillState::Complete } else { FillState::Filling { computed } };
        let (state, address, num_tokens) = (entry.state, entry.address, entry.num_tokens);
        if is_complete {
            let is_news = entry.is_shared_document() && !matches!(entry.source, FillSource::InPlace { .. });
            let source = std::mem::take(&mut entry.source);
            if is_news && !self.has_other_copy(handle, content(&address)) {
                self.events.push(KvEvent::Stored { key: address.key, num_tokens });
            }
            self.let_go(source);
        }
        state
    }

    /// Forgets what a filling segment holds, after its blocks were spoilt; its references stay. One that was to be rotated
    /// where it is has to be run.
    ///
    /// # Panics
    /// If the segment is complete: others may be reading it.
    pub fn restart(&mut self, handle: SegmentHandle) {
        self.lose_content(handle);
        let entry = self.entry_mut(handle);
        assert!(
            entry.state != FillState::Complete,
            "{handle:?} is complete: a complete segment is immutable"
        );
        entry.state = FillState::Filling { computed: 0 };
    }

    /// Gives a reference back. After the last one a complete shared segment stays as cache; a half-filled or private
    /// one is dropped.
    pub fn release(&mut self, reference: SegmentRef, now: Timestamp) {
        self.entry_mut(reference.handle).last_use = now;
        self.drop_reference(reference.handle);
    }

    pub(crate) fn drop_reference(&mut self, handle: SegmentHandle) {
        self.generation += 1;
        let entry = self.entry_mut(handle);
        assert!(entry.num_refs > 0, "{handle:?} is released once per reference");
        entry.num_refs -= 1;
        if entry.num_refs > 0 {
            return;
        }
        let is_kept = entry.state == FillState::Complete && entry.address.scope == Scope::Shared;
        if is_kept {
            self.counters.cached_blocks += self.entry(handle).lease.num_blocks();
            self.enter_queue(handle);
        } else {
            self.drop_entry(handle);
        }
    }

    /// Gives a tail back.
    pub fn release_tail(&mut self, tail: TailLease) {
        self.counters.tail_blocks -= tail.lease.num_blocks();
        self.pool.release(tail.lease);
    }

    /// Keeps a complete shared segment from eviction until it is unpinned as often as pinned.
    ///
    /// # Errors
    /// [`KvError::NotResident`] unless it is resident and complete, [`KvError::PinBound`] if more than
    /// [`KvConfig::max_pinned_blocks`] would be pinned.
    pub fn pin(&mut self, key: SegmentKey) -> Result<(), KvError> {
        let complete = self.copies_of((Scope::Shared, key)).filter(|(_, entry)| entry.is_complete());
        // Of several copies always the same one.
        let first = complete.min_by_key(|(handle, entry)| (entry.num_pins == 0, *handle));
        let handle = first.map(|(handle, _)| handle).ok_or(KvError::NotResident { key })?;
        let entry = self.entry(handle);
        let (needed, pinned) = (entry.lease.num_blocks(), self.counters.pinned_blocks);
        let max = self.config.max_pinned_blocks;
        if entry.num_pins == 0 && pinned.saturating_add(needed) > max {
            return Err(KvError::PinBound { needed, pinned, max });
        }
        self.leave_queue(handle);
        let entry = self.entry_mut(handle);
        entry.num_pins += 1;
        if entry.num_pins == 1 {
            self.counters.pinned_blocks += self.entry(handle).lease.num_blocks();
        }
        Ok(())
    }

    /// Takes one pin away.
    ///
    /// # Errors
    /// [`KvError::NotPinned`] if there is none.
    pub fn unpin(&mut self, key: SegmentKey) -> Result<(), KvError> {
        let pinned = self.copies_of((Scope::Shared, key)).find(|(_, entry)| entry.num_pins > 0);
        let handle = pinned.map(|(handle, _)| handle).ok_or(KvError::NotPinned { key })?;
        let entry = self.entry_mut(handle);
        entry.num_pins -= 1;
        if entry.num_pins == 0 {
            self.counters.pinned_blocks -= self.entry(handle).lease.num_blocks();
            self.enter_queue(handle);
        }
        Ok(())
    }

    /// Evicts the first victim; the caller knows there is one.
    pub(crate) fn evict_one(&mut self) {
        let victim = self.queue.pop();
        assert!(victim.is_some(), "a granted reservation finds enough evictable segments");
        if let Some(handle) = victim {
            self.entry_mut(handle).rank = None;
            self.counters.evictions += 1;
            let num_blocks = self.entry(handle).lease.num_blocks();
            self.counters.cached_blocks -= num_blocks;
            self.counters.evictable_blocks -= num_blocks;
            self.drop_entry(handle);
        }
    }

    pub(crate) fn new_handle(&mut self) -> SegmentHandle {
        self.next_handle += 1;
        SegmentHandle(self.next_handle)
    }

    pub(crate) fn entry(&self, handle: SegmentHandle) -> &Entry {
        match self.entries.get(&handle) {
            Some(entry) => entry,
            None => unreachable!("{handle:?} is resident while someone refers to it"),
        }
    }

    pub(crate) fn entry_mut(&mut self, handle: SegmentHandle) -> &mut Entry {
        match self.entries.get_mut(&handle) {
            Some(entry) => entry,
            None => unreachable!("{handle:?} is resident while someone refers to it"),
        }
    }

    fn drop_entry(&mut self, handle: SegmentHandle) {
        if let Some(entry) = self.entries.remove(&handle) {
            self.generation += 1;
            assert!(entry.num_refs == 0 && entry.num_pins == 0, "{handle:?} is dropped while it is in use");
            self.remove_copy(handle, entry.address);
            self.counters.documents -= usize::from(entry.kind == SegmentKind::Document);
            let is_news = entry.holds_content() && entry.is_shared_document();
            if is_news && !self.has_other_copy(handle, content(&entry.address)) {
                let (key, num_tokens) = (entry.address.key, entry.num_tokens);
                self.events.push(KvEvent::Evicted { key, num_tokens });
            }
            self.pool.release(entry.lease);
            self.let_go(entry.source);
        }
    }

    fn enter_queue(&mut self, handle: SegmentHandle) {
        let entry = self.entry(handle);
        if entry.is_evictable() {
            let worth = entry.worth();
            self.counters.evictable_blocks += worth.num_blocks;
            let rank = self.queue.push(handle, worth);
            self.entry_mut(handle).rank = Some(rank);
        }
    }

    pub(crate) fn leave_queue(&mut self, handle: SegmentHandle) {
        if let Some(rank) = self.entry_mut(handle).rank.take() {
            self.queue.remove(rank);
            self.counters.evictable_blocks -= self.entry(handle).lease.num_blocks();
        }
    }
}
