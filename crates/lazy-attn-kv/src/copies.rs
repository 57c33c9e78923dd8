//! Segments whose keys are stored rotated to positions of a context: of one content there may be a copy for every place.
//!
//! A copy at another place is made from one that is there: where it is, if nobody holds that one, else in blocks of its own.
//! The cache decides which and keeps what is copied from; the caller has the keys rotated and says when it is done.

use std::collections::HashSet;

use lazy_attn_types::{Position, SegmentHandle, SegmentKey, Timestamp};

use crate::entry::Entry;
use crate::event::KvEvent;
use crate::{
    Address, FillSource, FillState, Found, KvCache, ReservedSegment, Scope, SegmentNeed, SegmentRef,
};

/// What copies have in common.
pub(crate) type Content = (Scope, SegmentKey);

pub(crate) fn content(address: &Address) -> Content {
    (address.scope, address.key)
}

impl KvCache {
    /// How the segment behind `handle` is filled, as long as it is not complete.
    ///
    /// # Panics
    /// If no reference keeps `handle` resident.
    #[must_use]
    pub fn source(&self, handle: SegmentHandle) -> FillSource {
        self.entry(handle).source
    }

    /// What the keys of a segment that `need` asks for are rotated from if it is filled from `source`: copies keep the origin
    /// of their content, so that it makes no difference to a document where it was run first.
    pub(crate) fn first_origin(&self, need: &SegmentNeed, source: FillSource) -> Option<Position> {
        match source {
            FillSource::Copy { from, .. } => self.entry(from).origin,
            FillSource::Run | FillSource::InPlace { .. } => need.place,
        }
    }

    /// The segment behind `handle` is run where it stands, and so its copies, which wait for it, come from there.
    fn reset_origin(&mut self, handle: SegmentHandle) {
        let origin = self.entry(handle).address.place;
        let mut changed = vec![handle];
        while let Some(handle) = changed.pop() {
            self.entry_mut(handle).origin = origin;
            let is_copy =
                |entry: &Entry| matches!(entry.source, FillSource::Copy { from, .. } if from == handle);
            changed.extend(self.entries.iter().filter(|(_, entry)| is_copy(entry)).map(|(&copy, _)| copy));
        }
    }

    /// What the keys of the segment behind `handle` are rotated from, if it is of use at one place only; see
    /// [`SegmentInfo::origin`](crate::SegmentInfo::origin). Changes only when it is [given up](KvCache::detach) or
    /// [restarted](KvCache::restart).
    ///
    /// # Panics
    /// If no reference keeps `handle` resident.
    #[must_use]
    pub fn origin(&self, handle: SegmentHandle) -> Option<Position> {
        self.entry(handle).origin
    }

    /// Gives up the copy that the segment behind `handle` waits for: its tokens are run instead.
    ///
    /// # Panics
    /// If no reference keeps `handle` resident.
    pub fn detach(&mut self, handle: SegmentHandle) {
        let source = std::mem::take(&mut self.entry_mut(handle).source);
        self.reset_origin(handle);
        self.let_go(source);
    }

    /// What the copy was made from may be evicted again.
    pub(crate) fn let_go(&mut self, source: FillSource) {
        if let FillSource::Copy { from, .. } = source {
            self.drop_reference(from);
        }
    }

    /// Keeps what is copied from resident; it is no use of it.
    pub(crate) fn hold(&mut self, from: SegmentHandle) {
        self.leave_queue(from);
        let entry = self.entry_mut(from);
        let num_cached = if entry.is_cached() { entry.lease.num_blocks() } else { 0 };
        entry.num_refs += 1;
        self.counters.cached_blocks -= num_cached;
        self.generation += 1;
    }

    /// Handles of all segments with the content of `content`, oldest first.
    pub(crate) fn copies_of(&self, content: Content) -> impl Iterator<Item = (SegmentHandle, &Entry)> {
        let handles = self.copies.get(&content).into_iter().flatten();
        handles.map(|&handle| (handle, self.entry(handle)))
    }

    /// Whether another copy of what `handle` holds is resident.
    pub(crate) fn has_other_copy(&self, handle: SegmentHandle, content: Content) -> bool {
        self.copies_of(content).any(|(other, entry)| other != handle && entry.holds_content())
    }

    pub(crate) fn add_copy(&mut self, handle: SegmentHandle, address: Address) {
        self.by_address.insert(address, handle);
        self.copies.entry(content(&address)).or_default().insert(handle);
    }

    pub(crate) fn remove_copy(&mut self, handle: SegmentHandle, address: Address) {
        self.by_address.remove(&address);
        if let Some(copies) = self.copies.get_mut(&content(&address)) {
            copies.remove(&handle);
            if copies.is_empty() {
                self.copies.remove(&content(&address));
            }
        }
    }

    /// A complete copy of what `need` asks for that nobody holds and that is not `claimed`: it may move.
    pub(crate) fn movable_copy(
        &self,
        need: &SegmentNeed,
        claimed: &HashSet<SegmentHandle>,
    ) -> Option<SegmentHandle> {
        need.place?;
        let mut copies = self.copies_of((need.scope, need.key));
        let is_free = |handle, entry: &Entry| {
            entry.is_complete()
                && entry.is_evictable()
                && entry.address.place.is_some()
                && !claimed.contains(&handle)
        };
        copies.find(|&(handle, entry)| is_free(handle, entry)).map(|(handle, _)| handle)
    }

    /// What to copy for `need`: a complete copy if there is one, else one that is being filled.
    pub(crate) fn copy_source(&self, need: &SegmentNeed) -> FillSource {
        let Some(place) = need.place else { return FillSource::Run };
        let copies = || self.copies_of((need.scope, need.key));
        let complete = copies().find(|(_, entry)| entry.is_complete());
        let chosen = complete.or_else(|| copies().next());
        let source = chosen.and_then(|(from, entry)| {
            let distance = distance(entry.address.place?.0, place.0);
            Some(FillSource::Copy { from, distance })
        });
        source.unwrap_or_default()
    }

    /// The segment behind `handle`, which nobody holds, is from now on the one `need` asks for, and to be rotated.
    pub(crate) fn move_copy(
        &mut self,
        handle: SegmentHandle,
        need: &SegmentNeed,
        now: Timestamp,
    ) -> ReservedSegment {
        self.leave_queue(handle);
        let address = self.entry(handle).address;
        self.remove_copy(handle, address);
        self.add_copy(handle, need.address());
        let (old, new) = (address.place.unwrap_or_default(), need.place.unwrap_or_default());
        let entry = self.entry_mut(handle);
        assert!(entry.num_tokens == need.num_tokens, "equal keys mean equal tokens");
        entry.address = need.address();
        entry.state = FillState::Filling { computed: 0 };
        entry.source = FillSource::InPlace { distance: distance(old.0, new.0) };
        entry.cost = need.cost;
        entry.touch(now);
        self.counters.cached_blocks -= self.entry(handle).lease.num_blocks();
        self.generation += 1;
        self.counters.count(Found::Reencoded);
        ReservedSegment { reference: SegmentRef { handle }, found: Found::Reencoded }
    }

    /// The blocks of a segment that was to be rotated where it is hold nothing any more.
    pub(crate) fn lose_content(&mut self, handle: SegmentHandle) {
        let entry = self.entry(handle);
        if !matches!(entry.source, FillSource::InPlace { .. }) {
            return;
        }
        let (address, num_tokens) = (entry.address, entry.num_tokens);
        if entry.is_shared_document() && !self.has_other_copy(handle, content(&address)) {
            self.events.push(KvEvent::Evicted { key: address.key, num_tokens });
        }
        self.entry_mut(handle).source = FillSource::Run;
        self.reset_origin(handle);
    }
}

/// Positions lie below [`Position::MAX`](lazy_attn_types::Position::MAX), so that distances fit.
fn distance(from: u32, to: u32) -> i32 {
    (i64::from(to) - i64::from(from)) as i32
}
