//! Counters, and the check that every block has exactly one owner.

use std::collections::{HashMap, HashSet};

use lazy_attn_types::SegmentKind;

use crate::{FillSource, FillState, Found, KvCache, Scope};

/// What the cache holds and has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KvStats {
    /// Blocks of the pool.
    pub blocks_total: u32,
    /// Blocks nobody owns.
    pub blocks_free: u32,
    /// Blocks of complete segments that nobody refers to.
    pub blocks_cached: u32,
    /// Blocks of tails, of filling segments and of segments someone refers to.
    pub blocks_leased: u32,
    /// Blocks of pinned segments, cached or leased.
    pub blocks_pinned: u32,
    /// Resident segments, filling ones included.
    pub segments: usize,
    /// Of them, documents.
    pub documents: usize,
    /// Bytes of all owned blocks.
    pub bytes: u64,
    /// Needed segments that were resident.
    pub hits: u64,
    /// Needed segments that were being filled.
    pub joins: u64,
    /// Needed segments that were resident at another place only, and re-encoded.
    pub reencodes: u64,
    /// Needed segments that were absent.
    pub misses: u64,
    /// Segments evicted.
    pub evictions: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) cached_blocks: u32,
    pub(crate) evictable_blocks: u32,
    pub(crate) pinned_blocks: u32,
    pub(crate) tail_blocks: u32,
    pub(crate) documents: usize,
    pub(crate) hits: u64,
    pub(crate) joins: u64,
    pub(crate) reencodes: u64,
    pub(crate) misses: u64,
    pub(crate) evictions: u64,
}

impl Counters {
    pub(crate) fn count(&mut self, found: Found) {
        match found {
            Found::Hit => self.hits += 1,
            Found::Joined => self.joins += 1,
            Found::Reencoded => self.reencodes += 1,
            Found::Miss => self.misses += 1,
        }
    }
}

impl KvCache {
    /// What the cache holds and has done.
    #[must_use]
    pub fn stats(&self) -> KvStats {
        let (total, free) = (self.pool.num_blocks(), self.pool.num_free());
        let bytes_per_block = self.config.kv_bytes_per_token * u64::from(self.config.block_size.get());
        KvStats {
            blocks_total: total,
            blocks_free: free,
            blocks_cached: self.counters.cached_blocks,
            blocks_leased: total - free - self.counters.cached_blocks,
            blocks_pinned: self.counters.pinned_blocks,
            segments: self.entries.len(),
            documents: self.counters.documents,
            bytes: u64::from(total - free) * bytes_per_block,
            hits: self.counters.hits,
            joins: self.counters.joins,
            reencodes: self.counters.reencodes,
            misses: self.counters.misses,
            evictions: self.counters.evictions,
        }
    }

    /// Counts everything again and compares it with the running counters. For tests: `O(blocks)`.
    ///
    /// # Panics
    /// If `free + cached + leased = total` does not hold, a block has two owners, or the eviction queue is not exactly
    /// the set of complete, shared, unreferenced and unpinned segments.
    pub fn check_invariants(&self) {
        let mut seen = HashSet::new();
        let (mut cached, mut evictable, mut pinned, mut held, mut num_ranked) = (0, 0, 0, 0, 0);
        for (handle, entry) in &self.entries {
            let num_blocks = entry.lease.num_blocks();
            held += num_blocks;
            for &block in entry.lease.blocks().iter() {
                assert!(seen.insert(block), "{block:?} has two owners");
                assert!(!self.pool.is_free(block), "{block:?} is owned by {handle:?} and free");
            }
            let kept = entry.state == FillState::Complete && entry.address.scope == Scope::Shared;
            assert!(entry.num_refs > 0 || kept, "{handle:?} is kept though nobody can use it");
            assert!(entry.num_pins == 0 || kept, "{handle:?} is pinned though it cannot be");
            assert_eq!(
                num_blocks,
                self.config.block_size.blocks_for(entry.num_tokens),
                "padding in {handle:?}"
            );
            assert_eq!(self.by_address.get(&entry.address), Some(handle), "an address names its segment");
            assert_eq!(entry.rank.is_some(), entry.is_evictable(), "the queue holds what is evictable");
            cached += if entry.is_cached() { num_blocks } else { 0 };
            pinned += if entry.num_pins > 0 { num_blocks } else { 0 };
            if let Some(rank) = &entry.rank {
                assert!(self.queue.contains(rank), "{handle:?} is not where the queue has it");
                evictable += num_blocks;
                num_ranked += 1;
            }
        }
        self.check_copies();
        let counters = &self.counters;
        assert_eq!(self.queue.len(), num_ranked, "the queue holds nothing else");
        assert_eq!(self.by_address.len(), self.entries.len(), "every address has a segment");
        let counted = (counters.cached_blocks, counters.evictable_blocks, counters.pinned_blocks);
        assert_eq!(counted, (cached, evictable, pinned), "(cached, evictable, pinned) as counted");
        let documents = self.entries.values().filter(|entry| entry.kind == SegmentKind::Document);
        assert_eq!(counters.documents, documents.count(), "documents as counted");
        let leased = held - cached + counters.tail_blocks;
        let total = self.pool.num_blocks();
        assert_eq!(self.pool.num_free() + cached + leased, total, "free + cached + leased = total");
    }

    /// Asserts that copies are found by their content, and that what is copied from is there and held.
    fn check_copies(&self) {
        let num_copies: usize = self.copies.values().map(|copies| copies.len()).sum();
        assert_eq!(num_copies, self.entries.len(), "every segment is one copy of its content");
        let mut sources = HashMap::new();
        for (handle, entry) in &self.entries {
            let content = (entry.address.scope, entry.address.key);
            let copies = self.copies.get(&content);
            assert!(copies.is_some_and(|copies| copies.contains(handle)), "{handle:?} is a copy");
            let is_run = entry.source == FillSource::Run;
            assert!(is_run || entry.state == FillState::Filling { computed: 0 }, "re-encoded in one go");
            if let FillSource::Copy { from, .. } = entry.source {
                *sources.entry(from).or_insert(0) += 1;
            }
        }
        for (from, num_copies) in sources {
            assert!(self.entry(from).num_refs >= num_copies, "{from:?} is held for its copies");
        }
    }
}
