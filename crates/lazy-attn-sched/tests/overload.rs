//! What is refused at once, and what a deadline ends.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, not only the tests themselves

mod common;

use common::Part::{Doc, Text};
use common::{Bounds, go_on, scheduler_with, submission};
use lazy_attn_sched::{AdmissionPolicy, Outcome, Rejected, SchedError, Scheduler, Submission};
use lazy_attn_types::{KvPolicy, RequestId, TenantSalt, Timestamp};

const MS: u64 = 1000;
const START: Timestamp = Timestamp(0);

fn bounded(max_waiting_tokens: u64) -> Scheduler {
    let admission = AdmissionPolicy::default();
    scheduler_with(Bounds {
        num_blocks: 1000,
        max_step_tokens: 100,
        max_running: 2,
        max_waiting: 100,
        max_waiting_tokens,
        admission,
        kv_policy: KvPolicy::Lazy,
    })
}

fn due(id: u64, num_tokens: u32, deadline: Timestamp) -> Submission {
    Submission { deadline: Some(deadline), ..submission(id, &[Text(id as u32, num_tokens)], 4, 1) }
}

/// A step of `millis` that starts at `now`, in which every row goes on up to its fourth token.
fn step(scheduler: &mut Scheduler, now: &mut Timestamp, millis: u64) -> Vec<Rejected> {
    let plan = scheduler.plan(*now);
    let rejected = plan.rejected.clone();
    let outcomes = go_on(&plan, 4);
    now.0 += millis * MS;
    scheduler.commit(plan, &outcomes, *now);
    scheduler.check_invariants();
    rejected
}

#[test]
fn tokens_that_wait_are_bounded_and_a_document_is_counted_once() {
    let mut scheduler = bounded(100);
    let with =
        |id: u64, document, text| submission(id, &[Doc(document, 60), Text(100 + id as u32, text)], 1, 1);
    scheduler.submit(with(1, 1, 21), START).unwrap();
    // The last token of a prompt is no segment: 60 + 20, and 20 more for the same document.
    assert_eq!(scheduler.stats().waiting_tokens, 80);
    scheduler.submit(with(2, 1, 21), START).unwrap();
    assert_eq!(scheduler.stats().waiting_tokens, 100);
    let error = SchedError::BacklogFull { waiting_tokens: 100, needed_tokens: 1, max_tokens: 100 };
    assert_eq!(scheduler.submit(with(3, 1, 2), START), Err(error));
    let error = SchedError::BacklogFull { waiting_tokens: 100, needed_tokens: 61, max_tokens: 100 };
    assert_eq!(scheduler.submit(with(3, 2, 2), START), Err(error));
    scheduler.cancel(RequestId(1), START);
    assert_eq!(scheduler.stats().waiting_tokens, 80, "the document still waits for request 2");
    scheduler.submit(with(4, 1, 21), START).unwrap();
    scheduler.cancel(RequestId(2), START);
    scheduler.cancel(RequestId(4), START);
    assert_eq!(scheduler.stats().waiting_tokens, 0);
}

#[test]
fn a_request_larger_than_the_bound_is_taken_when_nobody_waits() {
    let mut scheduler = bounded(10);
    assert_eq!(scheduler.submit(submission(1, &[Text(1, 50)], 1, 1), START), Ok(()));
}

#[test]
fn tokens_stop_waiting_when_they_start() {
    let mut scheduler = bounded(1000);
    let (mut now, mut id) = (START, 0);
    for length in [50, 40, 30] {
        id += 1;
        scheduler.submit(submission(id, &[Doc(1, 60), Text(id as u32 + 5, length)], 4, 1), now).unwrap();
    }
    assert_eq!(scheduler.stats().waiting_tokens, 60 + 49 + 39 + 29);
    step(&mut scheduler, &mut now, 1);
    // Two of three run, and the one that waits has its document in the cache.
    let left = scheduler.stats().waiting_tokens;
    assert!([29, 39, 49].contains(&left), "{left}");
}

#[test]
fn a_deadline_that_the_measured_pace_cannot_meet_is_refused_with_the_estimate() {
    let mut scheduler = bounded(u64::MAX);
    let mut now = START;
    // Nothing measured: taken.
    scheduler.submit(due(1, 100, Timestamp(900 * MS)), now).unwrap();
    // 100 prompt tokens in 100 ms.
    step(&mut scheduler, &mut now, 100);
    scheduler.submit(submission(2, &[Text(2, 301)], 4, 1), now).unwrap();
    // 300 tokens wait in front of its own 100, at 1 ms each.
    let at = |millis| Timestamp(now.0 + millis * MS);
    let error = SchedError::DeadlineUnmeetable {
        estimate_micros: 400 * MS,
        tokens_ahead: 400,
        left_micros: 399 * MS,
    };
    assert_eq!(scheduler.submit(due(3, 100, at(399)), now), Err(error));
    assert_eq!(scheduler.submit(due(3, 100, at(400)), now), Ok(()));
    let late = scheduler.submit(due(4, 1, now), now);
    assert_eq!(late, Err(SchedError::DeadlineExceeded { late_micros: 0 }));
}

#[test]
fn what_others_wait_for_counts_by_turns_and_what_goes_later_does_not() {
    let mut scheduler = bounded(u64::MAX);
    let mut now = START;
    scheduler.submit(submission(1, &[Text(1, 100)], 4, 1), now).unwrap();
    step(&mut scheduler, &mut now, 100);
    for id in 2..12 {
        let low = submission(id, &[Text(id as u32, 101)], 4, 1);
        scheduler.submit(Submission { priority: -1, ..low }, now).unwrap();
    }
    let at = |millis| Some(Timestamp(now.0 + millis * MS));
    let high = |deadline| Submission { deadline, ..submission(20, &[Text(20, 50)], 4, 1) };
    assert!(scheduler.submit(high(at(49)), now).is_err());
    let other = |deadline| Submission { tenant: TenantSalt([1; 32]), ..high(deadline) };
    // Its 50 tokens and 50 of the tenant that waits.
    assert!(scheduler.submit(other(at(99)), now).is_err());
    assert_eq!(scheduler.submit(other(at(100)), now), Ok(()));
    scheduler.cancel(RequestId(20), now);
    assert_eq!(scheduler.submit(high(at(50)), now), Ok(()));
}

#[test]
fn a_deadline_ends_a_request_that_waits_and_one_that_runs_and_frees_their_blocks() {
    let mut scheduler = bounded(u64::MAX);
    let mut now = START;
    scheduler.submit(due(1, 20, Timestamp(15 * MS)), now).unwrap();
    scheduler.submit(submission(2, &[Text(2, 20)], 9, 1), now).unwrap();
    scheduler.submit(due(3, 20, Timestamp(15 * MS)), now).unwrap();
    assert_eq!(step(&mut scheduler, &mut now, 10), []);
    assert_eq!((scheduler.stats().running, scheduler.stats().waiting), (2, 1));
    assert_eq!(step(&mut scheduler, &mut now, 10), []);
    // 20 ms: five too late for both.
    let late =
        |id| Rejected { request: RequestId(id), error: SchedError::DeadlineExceeded { late_micros: 5 * MS } };
    let plan = scheduler.plan(now);
    assert_eq!(plan.rejected, [late(1), late(3)]);
    assert_eq!(plan.runs.len(), 1, "only request 2 runs on");
    scheduler.commit(plan, &[Outcome::Finished], now);
    assert!(scheduler.is_idle());
    assert_eq!(scheduler.kv().stats().blocks_leased, 0);
}
