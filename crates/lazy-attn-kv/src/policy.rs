//! What a segment costs to make again, and who is evicted first.

use std::collections::BTreeSet;

use lazy_attn_types::{SegmentHandle, Timestamp};

/// Work to compute a segment's KV again, in token-key pairs; only its ratio to that of other segments matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct RecomputeCost(pub u64);

impl RecomputeCost {
    /// Keys over which attention costs as much as all matrix products of a token: with hidden size h a layer takes
    /// about 24 h^2 operations per token and 4 h per key, so 6 h keys; h = 1024 stands for the models in between.
    const KEYS_PER_TOKEN: u64 = 6 * 1024;

    /// Cost of `num_tokens` behind `num_visible` tokens that are resident already.
    #[must_use]
    pub fn of_prefill(num_tokens: u32, num_visible: u32) -> RecomputeCost {
        let (tokens, visible) = (u64::from(num_tokens), u64::from(num_visible));
        RecomputeCost(tokens * (Self::KEYS_PER_TOKEN + visible + tokens / 2))
    }
}

/// Which segment goes when blocks are needed. Only complete segments without references and pins can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EvictionPolicy {
    /// The smallest `uses x recompute cost / blocks`, plus an aging clock that rises to the value of each victim, so
    /// that what was once popular goes in the end (GDSF; per-prefix costs as in RAGCache's PGDSF, arXiv:2404.12457).
    #[default]
    CostAware,
    /// The one whose last use is longest ago.
    Lru,
}

/// What a policy looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Worth {
    pub(crate) num_uses: u64,
    pub(crate) cost: RecomputeCost,
    pub(crate) num_blocks: u32,
    pub(crate) last_use: Timestamp,
}

/// Place in the order of eviction, lowest first; the tick makes ties go in order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    priority: u128,
    tick: u64,
    handle: SegmentHandle,
}

/// The evictable segments, ordered.
#[derive(Debug)]
pub(crate) struct EvictionQueue {
    policy: EvictionPolicy,
    aging: u128,
    next_tick: u64,
    ranks: BTreeSet<Rank>,
}

impl EvictionQueue {
    pub(crate) fn new(policy: EvictionPolicy) -> EvictionQueue {
        EvictionQueue { policy, aging: 0, next_tick: 0, ranks: BTreeSet::new() }
    }

    pub(crate) fn push(&mut self, handle: SegmentHandle, worth: Worth) -> Rank {
        let priority = match self.policy {
            EvictionPolicy::Lru => u128::from(worth.last_use.0),
            EvictionPolicy::CostAware => {
                let value = u128::from(worth.num_uses) * u128::from(worth.cost.0);
                self.aging + value / u128::from(worth.num_blocks.max(1))
            }
        };
        let rank = Rank { priority, tick: self.next_tick, handle };
        self.next_tick += 1;
        self.ranks.insert(rank);
        rank
    }

    pub(crate) fn remove(&mut self, rank: Rank) {
        assert!(self.ranks.remove(&rank), "an evictable segment is in the eviction queue");
    }

    /// Takes the first victim out; `O(log n)`.
    pub(crate) fn pop(&mut self) -> Option<SegmentHandle> {
        let rank = self.ranks.pop_first()?;
        self.aging = self.aging.max(rank.priority);
        Some(rank.handle)
    }

    pub(crate) fn len(&self) -> usize {
        self.ranks.len()
    }

    pub(crate) fn contains(&self, rank: &Rank) -> bool {
        self.ranks.contains(rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(policy: EvictionPolicy, segments: &[(u64, u64, u32, u64)]) -> Vec<u64> {
        let mut queue = EvictionQueue::new(policy);
        for (index, &(num_uses, cost, num_blocks, last_use)) in segments.iter().enumerate() {
            let worth =
                Worth { num_uses, cost: RecomputeCost(cost), num_blocks, last_use: Timestamp(last_use) };
            queue.push(SegmentHandle(index as u64), worth);
        }
        std::iter::from_fn(|| queue.pop()).map(|handle| handle.0).collect()
    }

    #[test]
    fn cost_aware_evicts_what_is_rarely_used_cheap_and_large() {
        let segments = [(4, 100, 1, 0), (1, 100, 1, 9), (4, 100, 8, 9), (4, 900, 1, 0)];
        assert_eq!(order(EvictionPolicy::CostAware, &segments), [2, 1, 0, 3]);
    }

    #[test]
    fn lru_evicts_by_last_use_and_ties_go_in_order_of_arrival() {
        let segments = [(9, 9, 1, 5), (1, 1, 1, 3), (1, 1, 1, 5)];
        assert_eq!(order(EvictionPolicy::Lru, &segments), [1, 0, 2]);
    }

    #[test]
    fn what_was_popular_long_ago_ages_behind_fresh_segments() {
        let mut queue = EvictionQueue::new(EvictionPolicy::CostAware);
        let worth =
            |num_uses| Worth { num_uses, cost: RecomputeCost(10), num_blocks: 1, last_use: Timestamp(0) };
        queue.push(SegmentHandle(0), worth(5));
        for fresh in 1..20 {
            queue.push(SegmentHandle(fresh), worth(1));
            if queue.pop() == Some(SegmentHandle(0)) {
                assert!(fresh > 3, "five uses outlive a few fresh segments");
                return;
            }
        }
        panic!("the popular segment was never evicted");
    }

    #[test]
    fn costs_grow_faster_than_lengths() {
        let (short, long) = (RecomputeCost::of_prefill(100, 0), RecomputeCost::of_prefill(1000, 0));
        assert!(long.0 > 10 * short.0);
        assert!(RecomputeCost::of_prefill(100, 5000) > short);
    }
}
