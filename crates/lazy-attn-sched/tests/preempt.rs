//! Tails that grow, and who gives way when blocks run out.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, not only the tests themselves

mod common;

use common::Part::{Doc, Text};
use common::{NOW, Part, context, go_on, run_to_end, scheduler, step, submission};
use expect_test::expect;
use lazy_attn_kv::Scope;
use lazy_attn_sched::{Outcome, SchedError, Scheduler, StepPlan, Submission, Work};
use lazy_attn_types::{RequestId, SequenceId, Timestamp, TokenId};

/// Steps in which everybody goes on, until one preempts; that one is committed too.
fn until_preemption(scheduler: &mut Scheduler) -> Vec<SequenceId> {
    for _ in 0..100 {
        let plan = scheduler.plan(NOW);
        let preempted: Vec<SequenceId> = plan.preempted.iter().map(|preempted| preempted.sequence).collect();
        close(scheduler, plan);
        if !preempted.is_empty() {
            return preempted;
        }
    }
    panic!("nobody was preempted in 100 steps");
}

fn close(scheduler: &mut Scheduler, plan: StepPlan) {
    let outcomes: Vec<Outcome> = plan.rows().map(|run| Outcome::Continue(TokenId(run.first_local))).collect();
    scheduler.commit(plan, &outcomes, NOW);
    scheduler.check_invariants();
}

fn submit(scheduler: &mut Scheduler, id: u64, parts: &[Part], priority: i32) {
    let submission = Submission { priority, ..submission(id, parts, 16, 1) };
    scheduler.submit(submission, NOW).unwrap();
}

#[test]
fn whoever_gave_way_goes_on_before_anybody_new_and_runs_its_tail_again() {
    let mut scheduler = scheduler(7, 16, 4);
    scheduler.submit(submission(1, &[Text(1, 5)], 12, 1), NOW).unwrap();
    scheduler.submit(submission(2, &[Text(2, 5)], 12, 1), NOW).unwrap();
    (0..8).for_each(|_| drop(step(&mut scheduler, 12)));
    // Both tails have two full blocks, and one block is left.
    scheduler.submit(submission(3, &[Doc(3, 4), Text(3, 1)], 12, 1), NOW).unwrap();
    let mut first = step(&mut scheduler, 12);
    scheduler.check_invariants();
    first += &run_to_end(&mut scheduler, 12);
    expect![[r#"
        step 8: 1 of 16 tokens, 1 running, 1 waiting
          preempt sequence-200 12 tokens lost
          decode  sequence-100 segment 2   8..9     sees [1]
        step 9: 1 of 16 tokens, 1 running, 1 waiting
          decode  sequence-100 segment 2   9..10    sees [1]
        step 10: 1 of 16 tokens, 1 running, 1 waiting
          decode  sequence-100 segment 2   10..11   sees [1]
        step 11: 1 of 16 tokens, 1 running, 1 waiting
          decode  sequence-100 segment 2   11..12   sees [1]
        step 12: 13 of 16 tokens, 2 running, 0 waiting
          resume  sequence-200 [Hit]
          admit   sequence-300 [Miss]
          rerun   sequence-200 segment 5   0..8     sees [3]
          encode  sequence-300 segment 6   0..4     sees []
          first   sequence-300 segment 7   0..1     sees [6]
        step 13: 2 of 16 tokens, 2 running, 0 waiting
          decode  sequence-200 segment 5   8..9     sees [3]
          decode  sequence-300 segment 7   1..2     sees [6]
        step 14: 2 of 16 tokens, 2 running, 0 waiting
          decode  sequence-200 segment 5   9..10    sees [3]
          decode  sequence-300 segment 7   2..3     sees [6]
        step 15: 2 of 16 tokens, 2 running, 0 waiting
          decode  sequence-200 segment 5   10..11   sees [3]
          decode  sequence-300 segment 7   3..4     sees [6]
        step 16: 2 of 16 tokens, 2 running, 0 waiting
          decode  sequence-200 segment 5   11..12   sees [3]
          decode  sequence-300 segment 7   4..5     sees [6]
        step 17: 1 of 16 tokens, 1 running, 0 waiting
          decode  sequence-300 segment 7   5..6     sees [6]
        step 18: 1 of 16 tokens, 1 running, 0 waiting
          decode  sequence-300 segment 7   6..7     sees [6]
        step 19: 1 of 16 tokens, 1 running, 0 waiting
          decode  sequence-300 segment 7   7..8     sees [6]
        step 20: 1 of 16 tokens, 1 running, 0 waiting
          decode  sequence-300 segment 7   8..9     sees [6]
        step 21: 1 of 16 tokens, 1 running, 0 waiting
          decode  sequence-300 segment 7   9..10    sees [6]
        step 22: 1 of 16 tokens, 1 running, 0 waiting
          decode  sequence-300 segment 7   10..11   sees [6]
        step 23: 1 of 16 tokens, 1 running, 0 waiting
          decode  sequence-300 segment 7   11..12   sees [6]
    "#]]
    .assert_eq(&first);
}

#[test]
fn the_lowest_priority_gives_way_and_the_longest_running_never() {
    for (priorities, expected) in [([0, 0, 0], 300), ([0, 1, 2], 200), ([-9, 5, 4], 300), ([-9, 4, 5], 200)] {
        let mut scheduler = scheduler(10, 16, 4);
        for (id, priority) in (1..).zip(priorities) {
            submit(&mut scheduler, id, &[Text(id as u32, 5)], priority);
            step(&mut scheduler, 16);
        }
        assert_eq!(until_preemption(&mut scheduler)[0], SequenceId(expected), "{priorities:?}");
    }
}

#[test]
fn who_has_the_least_of_its_own_to_compute_again_gives_way() {
    let mut scheduler = scheduler(27, 64, 4);
    // 2 and 4 read one document of 5 blocks; of its own 2 has 12 tokens of text, 3 has 21, 4 has 16.
    submit(&mut scheduler, 1, &[Text(1, 5)], 0);
    submit(&mut scheduler, 2, &[Doc(9, 20), Text(2, 13)], 0);
    submit(&mut scheduler, 3, &[Text(3, 22)], 0);
    submit(&mut scheduler, 4, &[Doc(9, 20), Text(4, 17)], 0);
    step(&mut scheduler, 16);
    assert_eq!(scheduler.stats().running, 4);
    assert_eq!(until_preemption(&mut scheduler), [SequenceId(200)]);
    let key = context(&[Doc(9, 20), Text(1, 1)]).segments()[0].key();
    assert_eq!(scheduler.kv().residency(Scope::Shared, key).unwrap().num_refs, 1, "4 goes on reading");
}

#[test]
fn a_document_half_encoded_for_whoever_gives_way_is_completed_for_who_waits() {
    // 1 has two blocks, the document 12, the tails of 2 and 3 one each; the fourth block that 1 grows by is 2's.
    let mut scheduler = scheduler(19, 4, 3);
    scheduler.submit(submission(1, &[Text(1, 2)], 40, 1), NOW).unwrap();
    step(&mut scheduler, 40);
    submit(&mut scheduler, 2, &[Doc(9, 48), Text(2, 1)], -1);
    submit(&mut scheduler, 3, &[Doc(9, 48), Text(3, 1)], 1);
    let mut encoders = Vec::new();
    let mut victims = Vec::new();
    while encoders.iter().max() != Some(&(48, SequenceId(300))) {
        let plan = scheduler.plan(NOW);
        victims.extend(plan.preempted.iter().map(|preempted| preempted.sequence));
        let encodes = plan.runs.iter().filter(|run| run.work == Work::Encode);
        encoders.extend(encodes.map(|run| (run.first_local + run.num_tokens, run.sequence)));
        close(&mut scheduler, plan);
        assert!(encoders.len() < 30, "{encoders:?}");
    }
    assert_eq!(victims, [SequenceId(200)]);
    assert!(encoders.is_sorted() && encoders[0].1 == SequenceId(200), "progress is kept: {encoders:?}");
}

#[test]
fn a_deadline_and_a_cancellation_reach_who_gave_way() {
    for is_cancelled in [true, false] {
        let mut scheduler = scheduler(6, 16, 4);
        let due = |id| {
            let deadline = (id == 2).then_some(Timestamp(1000));
            Submission { deadline, ..submission(id, &[Text(id as u32, 5)], 12, 1) }
        };
        scheduler.submit(due(1), NOW).unwrap();
        scheduler.submit(due(2), NOW).unwrap();
        assert_eq!(until_preemption(&mut scheduler), [SequenceId(200)]);
        assert_eq!((scheduler.stats().preempted, scheduler.stats().preemptions), (1, 1));
        if is_cancelled {
            scheduler.cancel(RequestId(2), NOW);
        } else {
            let plan = scheduler.plan(Timestamp(1000));
            assert_eq!(plan.rejected[0].request, RequestId(2));
            let outcomes = go_on(&plan, 12);
            scheduler.commit(plan, &outcomes, NOW);
        }
        scheduler.check_invariants();
        assert_eq!(scheduler.stats().preempted, 0);
        run_to_end(&mut scheduler, 12);
        assert_eq!(scheduler.kv().stats().blocks_leased, 0);
    }
}

#[test]
fn a_pin_that_takes_the_last_block_ends_who_needs_it_with_the_numbers() {
    let mut scheduler = scheduler(6, 16, 4);
    let document = [Doc(9, 12), Text(9, 1)];
    scheduler.submit(submission(9, &document, 1, 1), NOW).unwrap();
    run_to_end(&mut scheduler, 1);
    scheduler.submit(submission(1, &[Text(1, 5)], 12, 1), NOW).unwrap();
    step(&mut scheduler, 12);
    scheduler.pin(context(&document).segments()[0].key()).unwrap();
    for _ in 0..7 {
        step(&mut scheduler, 12);
    }
    let plan = scheduler.plan(NOW);
    assert_eq!(plan.rejected[0].error, SchedError::NeverFits { needed: 4, total: 3 });
    scheduler.commit(plan, &[], NOW);
    assert!(scheduler.is_idle());
    scheduler.check_invariants();
}

#[test]
fn nobody_starts_without_a_spare_block_for_everybody_who_may_grow() {
    let mut scheduler = scheduler(6, 16, 4);
    submit(&mut scheduler, 1, &[Text(1, 1)], 0);
    step(&mut scheduler, 16);
    // One block is in use. Its two blocks and a spare one each for itself and 1 leave one.
    submit(&mut scheduler, 2, &[Text(2, 5)], 0);
    // Its two blocks leave one, and there are two to grow beside itself.
    submit(&mut scheduler, 3, &[Text(3, 5)], 0);
    step(&mut scheduler, 16);
    assert_eq!((scheduler.stats().running, scheduler.stats().waiting), (2, 1));
}
