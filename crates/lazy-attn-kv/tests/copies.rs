//! Segments that are of use at one place only: which copy is moved, which is copied, and what is held meanwhile.

#![allow(clippy::unwrap_used)] // helpers of tests, not only the tests themselves

use lazy_attn_kv::{
    EvictionPolicy, FillSource, FillState, Found, IdleCopies, KvCache, KvConfig, KvEvent, RecomputeCost,
    Reservation, ReserveRequest, Scope, SegmentNeed,
};
use lazy_attn_types::{BlockSize, Position, SegmentHandle, SegmentKey, SegmentKind, Timestamp};

const NOW: Timestamp = Timestamp(1);

fn key(name: u8) -> SegmentKey {
    SegmentKey::from_bytes([name; 32])
}

/// A document of two blocks at `place`.
fn at(name: u8, place: u32) -> SegmentNeed {
    SegmentNeed {
        scope: Scope::Shared,
        key: key(name),
        place: Some(Position(place)),
        kind: SegmentKind::Document,
        num_tokens: 8,
        cost: RecomputeCost::of_prefill(8, 0),
    }
}

fn cache(num_blocks: u32) -> KvCache {
    KvCache::new(KvConfig {
        num_blocks,
        block_size: BlockSize::new(4).unwrap(),
        kv_bytes_per_token: 1,
        max_pinned_blocks: u32::MAX,
        policy: EvictionPolicy::Lru,
    })
}

fn reserve(cache: &mut KvCache, needs: &[SegmentNeed]) -> Reservation {
    cache.reserve(&ReserveRequest { segments: needs, tail_tokens: 0 }, NOW).unwrap()
}

fn handles(reservation: &Reservation) -> Vec<SegmentHandle> {
    reservation.segments.iter().map(|segment| segment.reference.handle()).collect()
}

fn found(reservation: &Reservation) -> Vec<Found> {
    reservation.segments.iter().map(|segment| segment.found).collect()
}

fn release(cache: &mut KvCache, reservation: Reservation) {
    for segment in reservation.segments {
        cache.release(segment.reference, NOW);
    }
    cache.release_tail(reservation.tail);
    cache.check_invariants();
}

/// Runs or re-encodes everything, sources before copies.
fn complete(cache: &mut KvCache, reservation: &Reservation) {
    for handle in handles(reservation) {
        let missing = cache.num_missing(handle);
        if missing > 0 {
            cache.mark_computed(handle, missing);
        }
    }
    cache.check_invariants();
}

/// A cache with document 1 at place 0, held by nobody.
fn with_document(num_blocks: u32) -> KvCache {
    let mut cache = cache(num_blocks);
    let first = reserve(&mut cache, &[at(1, 0)]);
    complete(&mut cache, &first);
    release(&mut cache, first);
    cache
}

#[test]
fn a_copy_nobody_holds_moves_without_a_block() {
    let mut cache = with_document(2);
    let moved = reserve(&mut cache, &[at(1, 30)]);
    let handle = handles(&moved)[0];
    assert_eq!(
        (found(&moved), cache.source(handle)),
        (vec![Found::Reencoded], FillSource::InPlace { distance: 30 })
    );
    complete(&mut cache, &moved);
    release(&mut cache, moved);
    let again = reserve(&mut cache, &[at(1, 30)]);
    assert_eq!((found(&again), handles(&again)), (vec![Found::Hit], vec![handle]));
    release(&mut cache, again);
    let back = reserve(&mut cache, &[at(1, 4)]);
    assert_eq!(cache.source(handle), FillSource::InPlace { distance: -26 });
    complete(&mut cache, &back);
    release(&mut cache, back);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.reencodes, stats.misses, stats.segments), (1, 2, 1, 1));
}

#[test]
fn where_idle_copies_stay_every_place_takes_blocks_and_the_oldest_copy_is_evicted() {
    let mut cache = with_document(4).with_idle_copies(IdleCopies::Stay);
    for (place, evictions) in [(30, 0), (60, 1), (90, 2)] {
        let copy = reserve(&mut cache, &[at(1, place)]);
        assert_eq!(found(&copy), [Found::Reencoded]);
        let source = cache.source(handles(&copy)[0]);
        assert!(matches!(source, FillSource::Copy { .. }), "{source:?}");
        complete(&mut cache, &copy);
        release(&mut cache, copy);
        let stats = cache.stats();
        assert_eq!((stats.segments, stats.evictions), (2, evictions));
    }
    let again = reserve(&mut cache, &[at(1, 90)]);
    assert_eq!(found(&again), [Found::Hit]);
    release(&mut cache, again);
}

#[test]
fn an_idle_copy_moves_where_it_would_stay_but_there_is_no_room_for_both() {
    let mut cache = with_document(3).with_idle_copies(IdleCopies::Stay);
    let moved = reserve(&mut cache, &[at(1, 30)]);
    assert_eq!(cache.source(handles(&moved)[0]), FillSource::InPlace { distance: 30 });
    complete(&mut cache, &moved);
    release(&mut cache, moved);
}

#[test]
fn a_copy_somebody_holds_or_has_pinned_stays_and_is_copied() {
    for is_pinned in [false, true] {
        let mut cache = with_document(4);
        let reader = (!is_pinned).then(|| reserve(&mut cache, &[at(1, 0)]));
        if is_pinned {
            cache.pin(key(1)).unwrap();
        }
        let copy = reserve(&mut cache, &[at(1, 9)]);
        let FillSource::Copy { from, distance: 9 } = cache.source(handles(&copy)[0]) else { panic!() };
        cache.check_invariants();
        // What is copied from is held until the copy is complete, even if its reader ends.
        reader.into_iter().for_each(|reader| release(&mut cache, reader));
        assert_eq!(cache.state(from), FillState::Complete);
        complete(&mut cache, &copy);
        release(&mut cache, copy);
        let stats = cache.stats();
        assert_eq!((stats.segments, stats.blocks_cached, stats.blocks_leased), (2, 4, 0));
        let both = reserve(&mut cache, &[at(1, 0), at(1, 9)]);
        assert_eq!(found(&both), [Found::Hit, Found::Hit]);
        release(&mut cache, both);
    }
}

#[test]
fn two_places_in_one_request_take_one_move_and_one_copy_of_it() {
    let mut cache = with_document(4);
    let both = reserve(&mut cache, &[at(1, 5), at(1, 25)]);
    let [moved, copy] = handles(&both)[..] else { panic!() };
    assert_eq!(cache.source(moved), FillSource::InPlace { distance: 5 });
    assert_eq!(cache.source(copy), FillSource::Copy { from: moved, distance: 20 });
    complete(&mut cache, &both);
    release(&mut cache, both);
}

#[test]
fn a_document_being_run_elsewhere_is_waited_for_and_given_up_when_nobody_runs_it() {
    let mut cache = cache(4);
    let first = reserve(&mut cache, &[at(1, 0)]);
    let second = reserve(&mut cache, &[at(1, 9)]);
    let copy = handles(&second)[0];
    assert_eq!(cache.source(copy), FillSource::Copy { from: handles(&first)[0], distance: 9 });
    // Half filled, and its only reader gone: it is dropped as soon as the copy is given up.
    release(&mut cache, first);
    assert_eq!(cache.stats().segments, 2);
    cache.detach(copy);
    cache.check_invariants();
    assert_eq!((cache.stats().segments, cache.source(copy)), (1, FillSource::Run));
    release(&mut cache, second);
    assert_eq!(cache.stats().blocks_free, 4);
}

#[test]
fn a_move_that_failed_leaves_nothing_and_the_document_is_run() {
    let mut cache = with_document(2);
    cache.record_events();
    let moved = reserve(&mut cache, &[at(1, 3)]);
    let handle = handles(&moved)[0];
    assert_eq!(cache.complete_documents().count(), 1, "it is on its way");
    cache.restart(handle);
    let evicted = KvEvent::Evicted { key: key(1), num_tokens: 8 };
    assert_eq!((cache.source(handle), cache.take_events()), (FillSource::Run, vec![evicted]));
    assert_eq!(cache.complete_documents().count(), 0);
    complete(&mut cache, &moved);
    assert_eq!(cache.take_events(), [KvEvent::Stored { key: key(1), num_tokens: 8 }]);
    release(&mut cache, moved);
}

#[test]
fn a_document_is_news_when_its_first_copy_comes_and_its_last_one_goes() {
    let mut cache = cache(4);
    cache.record_events();
    let first = reserve(&mut cache, &[at(1, 0)]);
    complete(&mut cache, &first);
    let second = reserve(&mut cache, &[at(1, 9)]);
    complete(&mut cache, &second);
    assert_eq!(cache.take_events(), [KvEvent::Stored { key: key(1), num_tokens: 8 }]);
    release(&mut cache, first);
    release(&mut cache, second);
    let other = reserve(&mut cache, &[at(2, 0)]);
    assert_eq!(cache.take_events(), []);
    let another = reserve(&mut cache, &[at(3, 0)]);
    assert_eq!(cache.take_events(), [KvEvent::Evicted { key: key(1), num_tokens: 8 }]);
    release(&mut cache, other);
    release(&mut cache, another);
}
