//! Who is next: affinity, its bound, the group cap, tenants and priorities.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, not only the tests themselves

mod common;

use std::collections::HashMap;

use common::Part::{Doc, Text};
use common::{Bounds, Part, go_on, scheduler_with, submission};
use lazy_attn_sched::{AdmissionPolicy, Affinity, Scheduler, Submission};
use lazy_attn_types::{KvPolicy, RequestId, TenantSalt, Timestamp};
use proptest::prelude::*;

const MS: u64 = 1000;
/// A fifth of a second of overtaking; a whole shared document of 40 tokens is worth more than the cap.
const AFFINITY: Affinity = Affinity {
    shared_token_micros: 20_000,
    uncached_token_micros: 20_000,
    max_overtaking_micros: 200 * MS,
    max_group_percent: 50,
    tenant_quantum_tokens: 16,
};

fn affine(max_running: u32, affinity: Affinity) -> Scheduler {
    let admission = AdmissionPolicy::Affinity(affinity);
    scheduler_with(Bounds {
        num_blocks: 4000,
        max_step_tokens: 200,
        max_running,
        max_waiting: 4000,
        max_waiting_tokens: u64::MAX,
        admission,
        kv_policy: KvPolicy::Lazy,
    })
}

/// Runs one step at `now` in which sequences end after `max_tokens`, and returns who was admitted.
fn admitted(scheduler: &mut Scheduler, max_tokens: u32, now: Timestamp) -> Vec<RequestId> {
    let plan = scheduler.plan(now);
    let admitted = plan.admitted.iter().map(|admitted| admitted.request).collect();
    let outcomes = go_on(&plan, max_tokens);
    scheduler.commit(plan, &outcomes, now);
    scheduler.check_invariants();
    admitted
}

/// Steps without time passing until nothing is left; the order in which requests started.
fn order(scheduler: &mut Scheduler, max_tokens: u32, now: Timestamp) -> Vec<u64> {
    let mut order = Vec::new();
    while !scheduler.is_idle() {
        order.extend(admitted(scheduler, max_tokens, now).into_iter().map(|request| request.0));
    }
    order
}

fn hot(id: u64) -> Submission {
    submission(id, &[Doc(1, 40), Text(100 + id as u32, 2)], 2, 1)
}

#[test]
fn a_request_that_shares_with_what_runs_goes_before_a_cold_one() {
    let mut scheduler = affine(2, AFFINITY);
    let start = Timestamp(0);
    scheduler.submit(submission(1, &[Doc(1, 40), Text(2, 2)], 9, 1), start).unwrap();
    admitted(&mut scheduler, 9, start);
    scheduler.submit(submission(2, &[Doc(2, 40), Text(2, 2)], 9, 1), start).unwrap();
    // With a cap of one, a member of a running group steps aside ..
    scheduler.submit(submission(3, &[Doc(1, 40), Text(3, 2)], 9, 1), start).unwrap();
    assert_eq!(admitted(&mut scheduler, 9, start), [RequestId(2)]);
    // .. and without a cap it goes first.
    let mut scheduler = affine(2, Affinity { max_group_percent: 100, ..AFFINITY });
    for id in [1, 2, 3] {
        let name = if id == 2 { 2 } else { 1 };
        scheduler.submit(submission(id, &[Doc(name, 40), Text(id as u32 + 5, 2)], 9, 1), start).unwrap();
    }
    assert_eq!(admitted(&mut scheduler, 9, start), [RequestId(1), RequestId(3)]);
}

/// A hot document: every millisecond three requests for it arrive, and the slots take two. One cold request arrives
/// among them. Returns the arrivals of the hot ones that were admitted while it waited, and its own.
fn storm(affinity: Affinity) -> (Vec<u64>, u64) {
    let mut scheduler = affine(4, affinity);
    let (cold, cold_arrival) = (RequestId(1_000_000), 50 * MS);
    let mut overtaking = Vec::new();
    for tick in 0..3000 {
        let now = Timestamp(tick * MS);
        // A request's id tells its arrival: three a millisecond.
        (0..3).for_each(|index| scheduler.submit(hot(3 * tick + index), now).unwrap());
        if now.0 == cold_arrival {
            let parts = [Doc(2, 150), Text(3, 2)];
            scheduler.submit(submission(cold.0, &parts, 2, 1), now).unwrap();
        }
        for request in admitted(&mut scheduler, 2, now) {
            if request == cold {
                return (overtaking, cold_arrival);
            }
            if now.0 >= cold_arrival {
                overtaking.push(request.0 / 3 * MS);
            }
        }
    }
    panic!("the cold request starved");
}

#[test]
fn a_hot_document_storm_overtakes_a_cold_request_up_to_the_bound_and_no_further() {
    // Without the cap only the bound protects the cold request.
    let (overtaking, cold_arrival) = storm(Affinity { max_group_percent: 100, ..AFFINITY });
    let last = overtaking.iter().max().unwrap();
    assert!(*last > cold_arrival + 100 * MS, "affinity is felt: {last}");
    assert!(*last <= cold_arrival + AFFINITY.max_overtaking_micros, "{last}");
}

#[test]
fn the_group_cap_lets_a_cold_request_through_a_storm_at_once() {
    let (overtaking, cold_arrival) = storm(AFFINITY);
    assert!(overtaking.iter().all(|&arrival| arrival <= cold_arrival), "{overtaking:?}");
}

#[test]
fn a_group_holds_its_share_while_others_wait_and_every_slot_while_nobody_else_does() {
    let mut scheduler = affine(4, AFFINITY);
    let start = Timestamp(0);
    (0..6).for_each(|id| scheduler.submit(hot(id), start).unwrap());
    for id in 10..12 {
        scheduler.submit(submission(id, &[Doc(id as u32, 40), Text(3, 2)], 2, 1), start).unwrap();
    }
    let mut first: Vec<u64> =
        admitted(&mut scheduler, 2, start).into_iter().map(|request| request.0).collect();
    first.sort_unstable();
    assert_eq!(first, [0, 1, 10, 11], "two of four slots for the hot document");
    admitted(&mut scheduler, 2, start);
    assert_eq!(admitted(&mut scheduler, 2, start).len(), 4, "the rest is hot, and no slot stays empty");
}

#[test]
fn the_larger_priority_goes_first_whatever_it_costs() {
    let mut scheduler = affine(1, AFFINITY);
    let start = Timestamp(0);
    for (id, priority) in [(1, 0), (2, -1), (3, 7), (4, 7)] {
        let cold = submission(id, &[Doc(id as u32, 10 * id as u32), Text(9, 2)], 1, 1);
        scheduler.submit(Submission { priority, ..cold }, start).unwrap();
    }
    assert_eq!(order(&mut scheduler, 1, Timestamp(0)), [3, 4, 1, 2]);
}

#[test]
fn a_tenant_that_floods_the_queue_takes_turns_with_one_that_does_not() {
    let mut scheduler = affine(1, AFFINITY);
    let start = Timestamp(0);
    let of = |tenant, id: u64| Submission {
        tenant: TenantSalt([tenant; 32]),
        ..submission(id, &[Text(id as u32, 16)], 1, 1)
    };
    (0..20).for_each(|id| scheduler.submit(of(1, id), start).unwrap());
    (20..23).for_each(|id| scheduler.submit(of(2, id), start).unwrap());
    let order = order(&mut scheduler, 1, start);
    // Each request computes 16 tokens, one quantum.
    assert_eq!(order[..7], [0, 20, 1, 21, 2, 22, 3]);
    assert_eq!(order.len(), 23);
}

#[derive(Debug, Clone)]
struct Arrival {
    wait: u64,
    document: u32,
    length: u32,
    priority: i32,
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let one = (0..400 * MS, 0u32..6, 1u32..60, 0i32..2);
    let one = one.prop_map(|(wait, document, length, priority)| Arrival { wait, document, length, priority });
    prop::collection::vec(one, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nobody_is_overtaken_by_an_equal_that_arrived_later_than_the_bound(arrivals in arrivals()) {
        // Groups of a request below their cap are a condition of the bound; here none can reach it.
        let affinity = Affinity { max_group_percent: 100, ..AFFINITY };
        let mut scheduler = affine(2, affinity);
        let mut waiting: HashMap<RequestId, (Timestamp, i32)> = HashMap::new();
        let mut now = Timestamp(0);
        let mut arrivals = arrivals.into_iter().enumerate();
        let check = |scheduler: &mut Scheduler, waiting: &mut HashMap<RequestId, (Timestamp, i32)>, now| {
            for request in admitted(scheduler, 3, now) {
                let (arrived, priority) = waiting.remove(&request).unwrap();
                for &(earlier, other) in waiting.values() {
                    let late = arrived.micros_since(earlier);
                    assert!(other != priority || late <= affinity.max_overtaking_micros, "{late}");
                    assert!(other <= priority, "a larger priority waits");
                }
            }
        };
        for (id, arrival) in &mut arrivals {
            now.0 += arrival.wait;
            let parts: [Part; 2] = [Doc(arrival.document, 10 + 9 * arrival.document), Text(50, arrival.length)];
            let submission = Submission { priority: arrival.priority, ..submission(id as u64, &parts, 3, 1) };
            scheduler.submit(submission, now).unwrap();
            waiting.insert(RequestId(id as u64), (now, arrival.priority));
            if id % 3 == 0 {
                check(&mut scheduler, &mut waiting, now);
            }
        }
        while !scheduler.is_idle() {
            now.0 += 50 * MS;
            check(&mut scheduler, &mut waiting, now);
        }
        prop_assert!(waiting.is_empty());
    }
}
