//! Random operation sequences keep every block accounted for.

#![allow(clippy::unwrap_used)] // helpers of tests, not only the tests themselves

use std::collections::HashMap;

use lazy_attn_kv::{
    EvictionPolicy, FillState, KvCache, KvConfig, RecomputeCost, Reservation, ReserveRequest, Scope,
    SegmentNeed,
};
use lazy_attn_types::{BlockSize, RequestId, SegmentKey, SegmentKind, Timestamp};
use proptest::prelude::*;

const NUM_BLOCKS: u32 = 24;

#[derive(Debug, Clone)]
enum Op {
    Reserve { names: Vec<(u8, bool)>, tail_tokens: u32 },
    Advance { holder: usize, num_tokens: u32 },
    Restart { holder: usize },
    Release { holder: usize },
    Pin(u8),
    Unpin(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let names = prop::collection::vec((0u8..10, prop::bool::weighted(0.2)), 0..5);
    prop_oneof![
        4 => (names, 0u32..40).prop_map(|(names, tail_tokens)| Op::Reserve { names, tail_tokens }),
        4 => (any::<usize>(), 1u32..30).prop_map(|(holder, num_tokens)| Op::Advance { holder, num_tokens }),
        1 => any::<usize>().prop_map(|holder| Op::Restart { holder }),
        3 => any::<usize>().prop_map(|holder| Op::Release { holder }),
        1 => (0u8..10).prop_map(Op::Pin),
        1 => (0u8..10).prop_map(Op::Unpin),
    ]
}

struct World {
    cache: KvCache,
    held: Vec<Reservation>,
    pins: HashMap<u8, u32>,
    now: Timestamp,
}

fn key(name: u8) -> SegmentKey {
    SegmentKey::from_bytes([name; 32])
}

fn need(name: u8, is_private: bool) -> SegmentNeed {
    // Lengths 1..=28 around block boundaries, fixed by the name.
    let num_tokens = u32::from(name) * 3 + 1;
    let scope = if is_private { Scope::Private(RequestId(u64::from(name) % 2)) } else { Scope::Shared };
    // Both kinds, fixed by the name.
    let kind = if name.is_multiple_of(2) { SegmentKind::Document } else { SegmentKind::Text };
    SegmentNeed { scope, key: key(name), kind, num_tokens, cost: RecomputeCost::of_prefill(num_tokens, 0) }
}

impl World {
    fn new(policy: EvictionPolicy) -> World {
        let block_size = BlockSize::new(4).unwrap();
        let config = KvConfig {
            num_blocks: NUM_BLOCKS,
            block_size,
            kv_bytes_per_token: 1,
            max_pinned_blocks: u32::MAX,
            policy,
        };
        World { cache: KvCache::new(config), held: Vec::new(), pins: HashMap::new(), now: Timestamp(0) }
    }

    fn apply(&mut self, op: &Op) {
        self.now.0 += 1;
        let pick = |index: usize| (!self.held.is_empty()).then(|| index % self.held.len());
        match op {
            Op::Reserve { names, tail_tokens } => self.reserve(names, *tail_tokens),
            Op::Advance { holder, num_tokens } => {
                pick(*holder).into_iter().for_each(|at| self.advance(at, *num_tokens));
            }
            Op::Restart { holder } => pick(*holder).into_iter().for_each(|at| self.restart(at)),
            Op::Release { holder } => pick(*holder).into_iter().for_each(|at| self.release(at)),
            Op::Pin(name) => {
                if self.cache.pin(key(*name)).is_ok() {
                    *self.pins.entry(*name).or_default() += 1;
                }
            }
            Op::Unpin(name) => {
                let pins = self.pins.entry(*name).or_default();
                assert_eq!(self.cache.unpin(key(*name)).is_ok(), *pins > 0);
                *pins = pins.saturating_sub(1);
            }
        }
    }

    fn reserve(&mut self, names: &[(u8, bool)], tail_tokens: u32) {
        let segments: Vec<_> = names.iter().map(|&(name, is_private)| need(name, is_private)).collect();
        let before = (self.cache.stats(), format!("{:?}", self.cache));
        match self.cache.reserve(&ReserveRequest { segments: &segments, tail_tokens }, self.now) {
            Ok(reservation) => self.held.push(reservation),
            Err(_) => {
                let after = (self.cache.stats(), format!("{:?}", self.cache));
                assert_eq!(before, after, "a refused reservation leaves no trace");
            }
        }
    }

    fn advance(&mut self, at: usize, num_tokens: u32) {
        for segment in &self.held[at].segments {
            let info = self.cache.segment(segment.reference.handle());
            if let FillState::Filling { computed } = info.state {
                self.cache.mark_computed(info.handle, num_tokens.min(info.num_tokens - computed));
            }
        }
    }

    fn restart(&mut self, at: usize) {
        for segment in &self.held[at].segments {
            let info = self.cache.segment(segment.reference.handle());
            if info.state != FillState::Complete {
                self.cache.restart(info.handle);
            }
        }
    }

    fn release(&mut self, at: usize) {
        let reservation = self.held.swap_remove(at);
        for segment in reservation.segments {
            self.cache.release(segment.reference, self.now);
        }
        self.cache.release_tail(reservation.tail);
    }

    fn check(&self) {
        self.cache.check_invariants();
        for (&name, &pins) in &self.pins {
            assert!(
                pins == 0 || self.cache.lookup(Scope::Shared, key(name)).is_some(),
                "a pinned segment went"
            );
        }
        // Blocks of different holders: tails are never shared, and no tail block is a segment's.
        let mut tails: Vec<_> =
            self.held.iter().flat_map(|held| held.tail.blocks().iter().copied()).collect();
        let segments = self.held.iter().flat_map(|held| &held.segments);
        let mut handles: Vec<_> = segments.map(|segment| segment.reference.handle()).collect();
        handles.sort_unstable();
        handles.dedup();
        // `segment` panics if a referenced segment was evicted.
        tails.extend(handles.iter().flat_map(|&handle| self.cache.segment(handle).blocks.to_vec()));
        let num_blocks = tails.len();
        tails.sort_unstable();
        tails.dedup();
        assert_eq!(tails.len(), num_blocks, "a block has two holders");
        assert_eq!(self.cache.stats().blocks_leased as usize, num_blocks, "leased is what holders hold");
    }
}

proptest! {
    #[test]
    fn blocks_are_conserved_under_any_operations(
        ops in prop::collection::vec(op(), 1..80),
        policy in prop_oneof![Just(EvictionPolicy::CostAware), Just(EvictionPolicy::Lru)],
    ) {
        let mut world = World::new(policy);
        for op in &ops {
            world.apply(op);
            world.check();
        }
        while !world.held.is_empty() {
            world.release(0);
            world.check();
        }
        let stats = world.cache.stats();
        prop_assert_eq!(stats.blocks_leased, 0);
        prop_assert_eq!(stats.blocks_free + stats.blocks_cached, NUM_BLOCKS);
    }
}
