//! Random operation sequences keep every block accounted for.

#![allow(clippy::unwrap_used)] // helpers of tests, not only the tests themselves

use std::collections::HashMap;

use lazy_attn_kv::{
    EvictionPolicy, FillSource, FillState, Found, IdleCopies, KvCache, KvConfig, RecomputeCost, Reservation,
    ReserveRequest, Scope, SegmentNeed,
};
use lazy_attn_types::{BlockSize, Position, RequestId, SegmentKey, SegmentKind, Timestamp};
use proptest::prelude::*;

const NUM_BLOCKS: u32 = 24;

/// Name, whether it is private, and where it stands.
type Name = (u8, bool, u32);

#[derive(Debug, Clone)]
enum Op {
    Reserve { names: Vec<Name>, tail_tokens: u32 },
    Advance { holder: usize, num_tokens: u32 },
    Restart { holder: usize },
    Detach { holder: usize },
    Release { holder: usize },
    Pin(u8),
    Unpin(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let names = prop::collection::vec((0u8..10, prop::bool::weighted(0.2), 0u32..4), 0..5);
    prop_oneof![
        4 => (names, 0u32..40).prop_map(|(names, tail_tokens)| Op::Reserve { names, tail_tokens }),
        4 => (any::<usize>(), 1u32..30).prop_map(|(holder, num_tokens)| Op::Advance { holder, num_tokens }),
        1 => any::<usize>().prop_map(|holder| Op::Restart { holder }),
        1 => any::<usize>().prop_map(|holder| Op::Detach { holder }),
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
    /// Whether a segment is of use at one place only.
    is_placed: bool,
}

fn key(name: u8) -> SegmentKey {
    SegmentKey::from_bytes([name; 32])
}

fn need(name: u8, is_private: bool, place: Option<Position>) -> SegmentNeed {
    // Lengths 1..=28 around block boundaries, fixed by the name.
    let num_tokens = u32::from(name) * 3 + 1;
    let scope = if is_private { Scope::Private(RequestId(u64::from(name) % 2)) } else { Scope::Shared };
    // Both kinds, fixed by the name.
    let kind = if name.is_multiple_of(2) { SegmentKind::Document } else { SegmentKind::Text };
    let cost = RecomputeCost::of_prefill(num_tokens, 0);
    SegmentNeed { scope, key: key(name), place, kind, num_tokens, cost }
}

impl World {
    fn new(policy: EvictionPolicy, (is_placed, idle_copies): (bool, IdleCopies)) -> World {
        let block_size = BlockSize::new(4).unwrap();
        let config = KvConfig {
            num_blocks: NUM_BLOCKS,
            block_size,
            kv_bytes_per_token: 1,
            max_pinned_blocks: u32::MAX,
            policy,
        };
        let cache = KvCache::new(config).with_idle_copies(idle_copies);
        World { cache, held: Vec::new(), pins: HashMap::new(), now: Timestamp(0), is_placed }
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
            Op::Detach { holder } => pick(*holder).into_iter().for_each(|at| self.detach(at)),
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

    fn reserve(&mut self, names: &[Name], tail_tokens: u32) {
        let place = |at| self.is_placed.then_some(Position(at));
        let segments: Vec<_> =
            names.iter().map(|&(name, is_private, at)| need(name, is_private, place(at))).collect();
        let before = (self.cache.stats(), format!("{:?}", self.cache));
        match self.cache.reserve(&ReserveRequest { segments: &segments, tail_tokens }, self.now) {
            Ok(reservation) => {
                for (granted, need) in reservation.segments.iter().zip(&segments) {
                    let handle = granted.reference.handle();
                    // The same tokens at the place that was asked for.
                    assert_eq!(self.cache.segment(handle).num_tokens, need.num_tokens);
                    let is_reencoded = self.cache.source(handle) != FillSource::Run;
                    assert!(is_reencoded || granted.found != Found::Reencoded);
                    assert!(self.is_placed || !is_reencoded, "one copy serves every place");
                }
                self.held.push(reservation);
            }
            Err(_) => {
                let after = (self.cache.stats(), format!("{:?}", self.cache));
                assert_eq!(before, after, "a refused reservation leaves no trace");
            }
        }
    }

    fn advance(&mut self, at: usize, num_tokens: u32) {
        for segment in &self.held[at].segments {
            let info = self.cache.segment(segment.reference.handle());
            let FillState::Filling { computed } = info.state else { continue };
            let missing = info.num_tokens - computed;
            match self.cache.source(info.handle) {
                FillSource::Run => _ = self.cache.mark_computed(info.handle, num_tokens.min(missing)),
                FillSource::Copy { from, .. } if self.cache.state(from) != FillState::Complete => {}
                FillSource::Copy { from, .. } => {
                    assert!(from != info.handle);
                    self.cache.mark_computed(info.handle, missing);
                }
                FillSource::InPlace { .. } => _ = self.cache.mark_computed(info.handle, missing),
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

    /// A copy that is given up has to be run.
    fn detach(&mut self, at: usize) {
        for segment in &self.held[at].segments {
            let handle = segment.reference.handle();
            if let FillSource::Copy { .. } = self.cache.source(handle) {
                self.cache.detach(handle);
                assert_eq!(self.cache.source(handle), FillSource::Run);
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
        // What somebody's copy is made from is held too, and so is what that one is made from.
        let mut next = 0;
        while let Some(&handle) = handles.get(next) {
            if let FillSource::Copy { from, .. } = self.cache.source(handle) {
                handles.push(from);
            }
            next += 1;
        }
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
        is_placed in any::<bool>(),
        idle_copies in prop_oneof![Just(IdleCopies::Move), Just(IdleCopies::Stay)],
    ) {
        let mut world = World::new(policy, (is_placed, idle_copies));
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
