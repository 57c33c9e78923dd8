//! Behaviour of the scheduler, one sentence a test.

mod common;

use std::collections::HashMap;

use common::Part::{Doc, Text};
use common::{NOW, go_on, run_to_end, scheduler, step, submission};
use lazy_attn_kv::{EvictionPolicy, KvCache, KvConfig, ReserveRequest, Scope};
use lazy_attn_sched::{
    AdmissionPolicy, Outcome, Rejected, SchedConfig, SchedError, Scheduler, Submission, Work,
};
use lazy_attn_types::{BlockSize, KvPolicy, RequestId, SequenceId, TokenId};

#[test]
fn a_request_larger_than_the_pool_is_refused_with_the_numbers() {
    let mut scheduler = scheduler(8, 32, 4);
    // 3 + 3 blocks of documents, 1 of text, and a tail of 1 or 2.
    let parts = [Doc(1, 9), Doc(2, 12), Text(3, 5)];
    assert_eq!(scheduler.submit(submission(1, &parts, 4, 1), NOW), Ok(()));
    let refused = scheduler.submit(submission(2, &parts, 5, 1), NOW);
    assert_eq!(refused, Err(SchedError::NeverFits { needed: 9, total: 8 }));
    run_to_end(&mut scheduler, 4);
}

#[test]
fn the_queue_takes_as_many_requests_as_it_may_and_not_one_more() {
    let mut scheduler = scheduler(8, 32, 4);
    for id in 0..8 {
        assert_eq!(scheduler.submit(submission(id, &[Text(1, 3)], 1, 2), NOW), Ok(()));
    }
    let refused = scheduler.submit(submission(8, &[Text(1, 3)], 1, 1), NOW);
    assert_eq!(refused, Err(SchedError::QueueFull { waiting: 8 }));
}

#[test]
fn a_submission_without_sequences_is_refused() {
    let mut scheduler = scheduler(8, 32, 4);
    let refused = scheduler.submit(submission(1, &[Text(1, 3)], 1, 0), NOW);
    assert!(matches!(refused, Err(SchedError::Config { field: "sequences", .. })), "{refused:?}");
}

#[test]
fn a_submission_without_tokens_fills_its_segments_and_ends() {
    let mut scheduler = scheduler(8, 8, 4);
    scheduler.submit(submission(1, &[Doc(1, 11), Text(2, 1)], 0, 1), NOW).unwrap();
    step(&mut scheduler, 0);
    step(&mut scheduler, 0);
    let plan = scheduler.plan(NOW);
    assert!(plan.runs.is_empty() && plan.filled == [SequenceId(100)], "{plan}");
    scheduler.commit(plan, &[], NOW);
    let kv = scheduler.kv().stats();
    assert!(scheduler.is_idle() && (kv.blocks_cached, kv.blocks_leased) == (3, 0), "{kv:?}");
}

#[test]
fn a_tail_takes_a_block_when_its_next_token_needs_one_and_fills_it_to_the_last_slot() {
    let mut scheduler = scheduler(3, 32, 4);
    // One block of text; the last prompt token and 8 generated ones but the last fill the other two.
    scheduler.submit(submission(1, &[Text(1, 5)], 8, 1), NOW).unwrap();
    for num_free in [1, 1, 1, 1, 0, 0, 0] {
        step(&mut scheduler, 8);
        assert_eq!(scheduler.kv().stats().blocks_free, num_free);
    }
    step(&mut scheduler, 8);
    assert!(scheduler.is_idle());
}

#[test]
fn a_cancelled_request_gives_back_every_block_at_once() {
    let mut scheduler = scheduler(32, 8, 4);
    for (id, num_steps) in [(1, 0), (2, 1), (3, 3), (4, 5)] {
        let name = id as u32;
        scheduler.submit(submission(id, &[Doc(name, 9), Text(50 + name, 5)], 9, 2), NOW).unwrap();
        for _ in 0..num_steps {
            step(&mut scheduler, 9);
        }
        scheduler.cancel(RequestId(id), NOW);
        scheduler.check_invariants();
        assert!(scheduler.is_idle());
        assert_eq!(scheduler.kv().stats().blocks_leased, 0);
    }
}

#[test]
fn a_cancellation_during_a_step_gives_blocks_back_when_the_step_is_closed() {
    let mut scheduler = scheduler(32, 32, 4);
    scheduler.submit(submission(1, &[Text(1, 5)], 9, 1), NOW).unwrap();
    let plan = scheduler.plan(NOW);
    scheduler.cancel(RequestId(1), NOW);
    assert!(!scheduler.is_idle() && !scheduler.is_running(SequenceId(100)));
    let outcomes = go_on(&plan, 9);
    scheduler.commit(plan, &outcomes, NOW);
    assert!(scheduler.is_idle());
    assert_eq!(scheduler.kv().stats().blocks_leased, 0);
}

#[test]
fn a_request_that_bypasses_the_cache_reads_nothing_and_leaves_nothing() {
    let mut scheduler = scheduler(64, 64, 4);
    let parts = [Doc(1, 9), Text(2, 5)];
    scheduler.submit(submission(1, &parts, 1, 1), NOW).unwrap();
    run_to_end(&mut scheduler, 1);
    let before = scheduler.kv().stats();
    let private = Submission { scope: Scope::Private(RequestId(2)), ..submission(2, &parts, 1, 2) };
    scheduler.submit(private, NOW).unwrap();
    let plan = scheduler.plan(NOW);
    let num_computed: u32 = plan.runs.iter().map(|run| run.num_tokens).sum();
    // Both samples share 9 + 4 tokens of segments and run one last prompt token each.
    assert_eq!(num_computed, 13 + 2);
    let outcomes = go_on(&plan, 1);
    scheduler.commit(plan, &outcomes, NOW);
    let after = scheduler.kv().stats();
    assert_eq!((after.blocks_free, after.segments), (before.blocks_free, before.segments));
}

#[test]
fn what_pins_keep_from_ever_fitting_is_rejected_and_the_next_request_runs() {
    let block_size = BlockSize::new(4).unwrap();
    let policy = EvictionPolicy::CostAware;
    let mut kv = KvCache::new(KvConfig {
        num_blocks: 8,
        block_size,
        kv_bytes_per_token: 1,
        max_pinned_blocks: u32::MAX,
        policy,
    });
    let pinned = submission(9, &[Doc(9, 16), Text(1, 1)], 1, 1).needs(KvPolicy::Lazy);
    let mut granted = kv.reserve(&ReserveRequest { segments: &pinned, tail_tokens: 0 }, NOW).unwrap();
    let reference = granted.segments.remove(0).reference;
    kv.mark_computed(reference.handle(), 16);
    kv.release(reference, NOW);
    kv.release_tail(granted.tail);
    kv.pin(pinned[0].key).unwrap();
    let admission = AdmissionPolicy::Fcfs;
    let bounds = SchedConfig {
        max_step_tokens: 32,
        max_running: 4,
        max_waiting: 4,
        max_waiting_tokens: 100,
        admission,
        kv_policy: KvPolicy::Lazy,
    };
    let mut scheduler = Scheduler::new(bounds, kv).unwrap();
    // 5 blocks of text and 1 of tail fit a pool of 8, but not beside 4 pinned ones.
    scheduler.submit(submission(1, &[Text(1, 19)], 4, 2), NOW).unwrap();
    scheduler.submit(submission(2, &[Text(2, 3)], 4, 1), NOW).unwrap();
    let plan = scheduler.plan(NOW);
    let error = SchedError::NeverFits { needed: 6, total: 4 };
    assert_eq!(plan.rejected, [Rejected { request: RequestId(1), error }]);
    assert_eq!(plan.admitted.len(), 1);
    let outcomes = go_on(&plan, 4);
    scheduler.commit(plan, &outcomes, NOW);
    run_to_end(&mut scheduler, 4);
}

#[test]
fn short_texts_cannot_hold_a_document_back() {
    let mut scheduler = scheduler(1000, 8, 4);
    scheduler.submit(submission(1, &[Doc(1, 40), Text(2, 2)], 1, 1), NOW).unwrap();
    let mut encoded = 0;
    for id in 2..200 {
        // A fresh long text arrives in every step.
        let _ = scheduler.submit(submission(id, &[Text(id as u32 + 10, 30)], 1, 1), NOW);
        let plan = scheduler.plan(NOW);
        encoded +=
            plan.runs.iter().filter(|run| run.work == Work::Encode).map(|run| run.num_tokens).sum::<u32>();
        let outcomes = go_on(&plan, 1);
        scheduler.commit(plan, &outcomes, NOW);
        if encoded == 40 {
            // A quarter of 8 tokens a step.
            assert_eq!(id, 2 + 20 - 1);
            return;
        }
    }
    panic!("only {encoded} of 40 tokens were encoded");
}

#[test]
fn every_decode_fits_a_step_at_the_most_running_sequences() {
    let mut scheduler = scheduler(64, 5, 4);
    scheduler.submit(submission(1, &[Text(1, 2)], 5, 4), NOW).unwrap();
    let mut per_sequence: HashMap<_, u32> = HashMap::new();
    while !scheduler.is_idle() {
        let plan = scheduler.plan(NOW);
        assert!(plan.num_tokens() <= 5);
        plan.rows().for_each(|run| *per_sequence.entry(run.sequence).or_default() += 1);
        let outcomes = go_on(&plan, 5);
        scheduler.commit(plan, &outcomes, NOW);
    }
    assert!(per_sequence.len() == 4 && per_sequence.values().all(|&rows| rows == 5));
}

#[test]
#[should_panic(expected = "every plan is closed by one commit or abort")]
fn planning_twice_without_closing_is_refused() {
    let mut scheduler = scheduler(8, 8, 4);
    let _first = scheduler.plan(NOW);
    let _second = scheduler.plan(NOW);
}

#[test]
#[should_panic(expected = "a commit has one outcome per row")]
fn a_commit_without_an_outcome_for_a_row_is_refused() {
    let mut scheduler = scheduler(8, 8, 4);
    scheduler.submit(submission(1, &[Text(1, 2)], 5, 1), NOW).unwrap();
    let plan = scheduler.plan(NOW);
    scheduler.commit(plan, &[], NOW);
}

#[test]
#[should_panic(expected = "ends after its 1 tokens")]
fn a_sequence_never_goes_on_past_its_tokens() {
    let mut scheduler = scheduler(8, 8, 4);
    scheduler.submit(submission(1, &[Text(1, 2)], 1, 1), NOW).unwrap();
    let plan = scheduler.plan(NOW);
    scheduler.commit(plan, &[Outcome::Continue(TokenId(1))], NOW);
}
