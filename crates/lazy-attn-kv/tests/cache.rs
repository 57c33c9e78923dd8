//! Behaviour of the cache, one sentence a test.

#![allow(clippy::unwrap_used)] // helpers of tests, not only the tests themselves

use lazy_attn_kv::{
    EvictionPolicy, FillState, Found, KvCache, KvConfig, KvError, RecomputeCost, Reservation, ReserveRequest,
    Scope, SegmentNeed,
};
use lazy_attn_types::{BlockSize, RequestId, SegmentKey, SegmentKind, Timestamp};

const NOW: Timestamp = Timestamp(0);

fn cache(num_blocks: u32) -> KvCache {
    let block_size = BlockSize::new(4).unwrap();
    KvCache::new(KvConfig {
        num_blocks,
        block_size,
        kv_bytes_per_token: 10,
        max_pinned_blocks: u32::MAX,
        policy: EvictionPolicy::CostAware,
    })
}

fn key(name: u8) -> SegmentKey {
    SegmentKey::from_bytes([name; 32])
}

fn need(name: u8, num_tokens: u32) -> SegmentNeed {
    let cost = RecomputeCost::of_prefill(num_tokens, 0);
    SegmentNeed {
        scope: Scope::Shared,
        key: key(name),
        place: None,
        kind: SegmentKind::Document,
        num_tokens,
        cost,
    }
}

fn reserve(cache: &mut KvCache, segments: &[SegmentNeed], tail_tokens: u32) -> Result<Reservation, KvError> {
    let before = format!("{cache:?}");
    let result = cache.reserve(&ReserveRequest { segments, tail_tokens }, NOW);
    if result.is_err() {
        // HashMap order is stable while the map is not changed, so equal text means nothing was touched.
        assert_eq!(before, format!("{cache:?}"), "a refused reservation leaves no trace");
    }
    cache.check_invariants();
    result
}

fn found(reservation: &Reservation) -> Vec<Found> {
    reservation.segments.iter().map(|segment| segment.found).collect()
}

fn fill_and_release(cache: &mut KvCache, reservation: Reservation) {
    for segment in reservation.segments {
        let info = cache.segment(segment.reference.handle());
        if let FillState::Filling { computed } = info.state {
            cache.mark_computed(info.handle, info.num_tokens - computed);
        }
        cache.release(segment.reference, NOW);
        cache.check_invariants();
    }
    cache.release_tail(reservation.tail);
    cache.check_invariants();
}

fn make_resident(cache: &mut KvCache, name: u8, num_tokens: u32) {
    let reservation = reserve(cache, &[need(name, num_tokens)], 0).unwrap();
    fill_and_release(cache, reservation);
}

#[test]
fn a_segment_is_missed_then_joined_then_hit() {
    let mut cache = cache(16);
    let a = reserve(&mut cache, &[need(1, 5)], 3).unwrap();
    let b = reserve(&mut cache, &[need(1, 5)], 3).unwrap();
    assert_eq!((found(&a), found(&b)), (vec![Found::Miss], vec![Found::Joined]));
    assert_eq!(a.segments[0].reference.handle(), b.segments[0].reference.handle());
    fill_and_release(&mut cache, a);
    fill_and_release(&mut cache, b);
    let c = reserve(&mut cache, &[need(1, 5)], 3).unwrap();
    assert_eq!(found(&c), [Found::Hit]);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.joins, stats.misses), (1, 1, 1));
    assert_eq!((stats.blocks_leased, stats.bytes), (3, 3 * 4 * 10));
    fill_and_release(&mut cache, c);
}

#[test]
fn the_same_document_twice_in_one_context_is_stored_once() {
    let mut cache = cache(4);
    let twice = reserve(&mut cache, &[need(1, 8), need(1, 8)], 8).unwrap();
    assert_eq!(found(&twice), [Found::Miss, Found::Joined]);
    assert_eq!(cache.stats().blocks_free, 0);
    fill_and_release(&mut cache, twice);
}

#[test]
fn a_segment_takes_exactly_the_blocks_its_tokens_need() {
    let mut cache = cache(16);
    for (name, num_tokens, num_blocks) in [(1, 1, 1), (2, 4, 1), (3, 5, 2), (4, 3, 1)] {
        let before = cache.stats().blocks_free;
        make_resident(&mut cache, name, num_tokens);
        assert_eq!(before - cache.stats().blocks_free, num_blocks);
    }
}

#[test]
fn a_request_that_cannot_be_held_says_how_many_blocks_are_missing_and_changes_nothing() {
    let mut cache = cache(4);
    make_resident(&mut cache, 1, 4);
    let held = reserve(&mut cache, &[need(2, 4)], 4).unwrap();
    let refused = reserve(&mut cache, &[need(3, 8)], 1).unwrap_err();
    assert_eq!(refused, KvError::Shortfall { needed: 3, available: 2, total: 4 });
    fill_and_release(&mut cache, held);
    let granted = reserve(&mut cache, &[need(3, 8)], 1).unwrap();
    fill_and_release(&mut cache, granted);
}

#[test]
fn a_reservation_never_evicts_what_it_needs_itself() {
    let mut cache = cache(3);
    make_resident(&mut cache, 1, 4);
    make_resident(&mut cache, 2, 4);
    // One free block, one evictable: segment 1 is needed, so only segment 2 can make room.
    let both = reserve(&mut cache, &[need(3, 8), need(1, 4)], 0).unwrap();
    assert_eq!(found(&both), [Found::Miss, Found::Hit]);
    assert!(cache.lookup(Scope::Shared, key(2)).is_none());
    fill_and_release(&mut cache, both);
}

#[test]
fn evicting_a_pinned_document_is_refused() {
    let mut cache = cache(2);
    make_resident(&mut cache, 1, 4);
    cache.pin(key(1)).unwrap();
    cache.check_invariants();
    let refused = reserve(&mut cache, &[need(2, 8)], 0).unwrap_err();
    assert_eq!(refused, KvError::Shortfall { needed: 2, available: 1, total: 2 });
    assert_eq!(cache.stats().blocks_pinned, 1);
    cache.unpin(key(1)).unwrap();
    let granted = reserve(&mut cache, &[need(2, 8)], 0).unwrap();
    assert_eq!(cache.stats().evictions, 1);
    fill_and_release(&mut cache, granted);
}

#[test]
fn only_complete_segments_are_pinned_and_only_pinned_ones_unpinned() {
    let mut cache = cache(4);
    assert_eq!(cache.pin(key(1)), Err(KvError::NotResident { key: key(1) }));
    let filling = reserve(&mut cache, &[need(1, 4)], 0).unwrap();
    assert_eq!(cache.pin(key(1)), Err(KvError::NotResident { key: key(1) }));
    fill_and_release(&mut cache, filling);
    assert_eq!(cache.unpin(key(1)), Err(KvError::NotPinned { key: key(1) }));
    cache.pin(key(1)).unwrap();
    cache.pin(key(1)).unwrap();
    cache.unpin(key(1)).unwrap();
    assert_eq!(cache.stats().blocks_pinned, 1);
    cache.unpin(key(1)).unwrap();
    cache.check_invariants();
}

#[test]
fn progress_survives_the_one_who_made_it_and_goes_with_the_last_reference() {
    let mut cache = cache(8);
    let mut leader = reserve(&mut cache, &[need(1, 8)], 4).unwrap();
    let mut follower = reserve(&mut cache, &[need(1, 8)], 4).unwrap();
    let handle = leader.segments[0].reference.handle();
    assert_eq!(cache.mark_computed(handle, 3), FillState::Filling { computed: 3 });
    cache.release(leader.segments.remove(0).reference, NOW);
    cache.release_tail(leader.tail);
    cache.check_invariants();
    assert_eq!(cache.segment(handle).state, FillState::Filling { computed: 3 });
    cache.restart(handle);
    assert_eq!(cache.segment(handle).state, FillState::Filling { computed: 0 });
    cache.release(follower.segments.remove(0).reference, NOW);
    cache.release_tail(follower.tail);
    cache.check_invariants();
    assert_eq!((cache.stats().segments, cache.stats().blocks_free), (0, 8));
}

#[test]
fn private_segments_are_shared_inside_a_request_and_gone_after_it() {
    let mut cache = cache(8);
    make_resident(&mut cache, 1, 4);
    let private = SegmentNeed { scope: Scope::Private(RequestId(7)), ..need(1, 4) };
    let a = reserve(&mut cache, &[private], 4).unwrap();
    let b = reserve(&mut cache, &[private], 4).unwrap();
    let other = SegmentNeed { scope: Scope::Private(RequestId(8)), ..private };
    let c = reserve(&mut cache, &[other], 4).unwrap();
    assert_eq!(
        (found(&a), found(&b), found(&c)),
        (vec![Found::Miss], vec![Found::Joined], vec![Found::Miss])
    );
    for reservation in [a, b, c] {
        fill_and_release(&mut cache, reservation);
    }
    let stats = cache.stats();
    assert_eq!((stats.segments, stats.blocks_cached, stats.blocks_free), (1, 1, 7));
}

#[test]
fn needs_are_counted_in_distinct_blocks() {
    let cache = cache(1);
    let segments = [need(1, 5), need(1, 5), need(2, 4)];
    assert_eq!(cache.blocks_needed(&ReserveRequest { segments: &segments, tail_tokens: 9 }), 2 + 1 + 3);
}
