//! Plans as tables.

mod common;

use common::Part::{Doc, Text};
use common::{NOW, Part, context_at, go_on, run_to_end, scheduler, step, submission};
use expect_test::expect;
use lazy_attn_sched::Submission;
use lazy_attn_types::Exactness;

#[test]
fn documents_text_and_first_token_run_in_one_step_when_they_fit() {
    let mut scheduler = scheduler(32, 32, 4);
    scheduler.submit(submission(1, &[Doc(1, 6), Doc(2, 5), Text(3, 4)], 2, 1), NOW).unwrap();
    expect![[r#"
        step 0: 15 of 32 tokens, 1 running, 0 waiting
          admit   sequence-100 [Miss Miss Miss]
          encode  sequence-100 segment 1   0..6     sees []
          encode  sequence-100 segment 2   0..5     sees []
          prefill sequence-100 segment 3   0..3     sees [1 2]
          first   sequence-100 segment 4   0..1     sees [1 2 3]
        step 1: 1 of 32 tokens, 1 running, 0 waiting
          decode  sequence-100 segment 4   1..2     sees [1 2 3]
    "#]]
    .assert_eq(&run_to_end(&mut scheduler, 2));
}

#[test]
fn long_work_is_cut_into_chunks_and_decodes_go_first() {
    let mut scheduler = scheduler(64, 8, 4);
    scheduler.submit(submission(1, &[Text(1, 3)], 6, 1), NOW).unwrap();
    let first = step(&mut scheduler, 6);
    scheduler.submit(submission(2, &[Doc(2, 11), Text(3, 7)], 6, 1), NOW).unwrap();
    let rest: Vec<String> = (0..4).map(|_| step(&mut scheduler, 6)).collect();
    expect![[r#"
        step 0: 3 of 8 tokens, 1 running, 0 waiting
          admit   sequence-100 [Miss]
          prefill sequence-100 segment 1   0..2     sees []
          first   sequence-100 segment 2   0..1     sees [1]
        step 1: 8 of 8 tokens, 2 running, 0 waiting
          admit   sequence-200 [Miss Miss]
          decode  sequence-100 segment 2   1..2     sees [1]
          encode  sequence-200 segment 3   0..7     sees []
        step 2: 8 of 8 tokens, 2 running, 0 waiting
          decode  sequence-100 segment 2   2..3     sees [1]
          encode  sequence-200 segment 3   7..11    sees []
          prefill sequence-200 segment 4   0..3     sees [3]
        step 3: 5 of 8 tokens, 2 running, 0 waiting
          decode  sequence-100 segment 2   3..4     sees [1]
          prefill sequence-200 segment 4   3..6     sees [3]
          first   sequence-200 segment 5   0..1     sees [3 4]
        step 4: 2 of 8 tokens, 2 running, 0 waiting
          decode  sequence-100 segment 2   4..5     sees [1]
          decode  sequence-200 segment 5   1..2     sees [3 4]
    "#]]
    .assert_eq(&(first + &rest.concat()));
}

#[test]
fn a_document_two_requests_need_is_encoded_once_and_both_go_on_in_that_step() {
    let mut scheduler = scheduler(64, 32, 4);
    scheduler.submit(submission(1, &[Doc(1, 9), Text(2, 3)], 1, 1), NOW).unwrap();
    scheduler.submit(submission(2, &[Doc(1, 9), Text(3, 3)], 1, 1), NOW).unwrap();
    expect![[r#"
        step 0: 15 of 32 tokens, 2 running, 0 waiting
          admit   sequence-100 [Miss Miss]
          admit   sequence-200 [Joined Miss]
          encode  sequence-100 segment 1   0..9     sees []
          prefill sequence-100 segment 2   0..2     sees [1]
          first   sequence-100 segment 3   0..1     sees [1 2]
          prefill sequence-200 segment 4   0..2     sees [1]
          first   sequence-200 segment 5   0..1     sees [1 4]
    "#]]
    .assert_eq(&run_to_end(&mut scheduler, 1));
}

#[test]
fn a_head_waits_for_what_precedes_it_and_the_copy_is_encoded_beside_it() {
    let mut scheduler = scheduler(64, 32, 4);
    let parts = [Text(1, 2), Doc(2, 9), Doc(3, 6), Text(4, 3)];
    let submission = |id| Submission {
        context: context_at(Exactness::Head { num_tokens: 3 }, &parts),
        ..submission(id, &parts, 1, 1)
    };
    scheduler.submit(submission(1), NOW).unwrap();
    let first = run_to_end(&mut scheduler, 1);
    scheduler.submit(submission(2), NOW).unwrap();
    expect![[r#"
        step 0: 26 of 32 tokens, 1 running, 0 waiting
          admit   sequence-100 [Miss Miss Miss Miss Miss Miss]
          prefill sequence-100 segment 1   0..2     sees []
          prefill sequence-100 segment 2   0..3     sees [1]
          encode  sequence-100 segment 3   0..9     sees []
          encode  sequence-100 segment 5   0..6     sees []
          prefill sequence-100 segment 4   0..3     sees [1 2 3]
          prefill sequence-100 segment 6   0..2     sees [1 2 3 4 5]
          first   sequence-100 segment 7   0..1     sees [1 2 3 4 5 6]
        step 1: 1 of 32 tokens, 1 running, 0 waiting
          admit   sequence-200 [Hit Hit Hit Hit Hit Hit]
          first   sequence-200 segment 8   0..1     sees [1 2 3 4 5 6]
    "#]]
    .assert_eq(&(first + &run_to_end(&mut scheduler, 1)));
}

#[test]
fn documents_behind_a_preamble_wait_for_it_and_are_found_at_another_place() {
    let mut scheduler = scheduler(64, 6, 4);
    let submission = |id, parts: &[Part]| Submission {
        context: context_at(Exactness::Preamble, parts),
        ..submission(id, parts, 1, 1)
    };
    scheduler.submit(submission(1, &[Text(1, 8), Doc(2, 4), Doc(3, 5), Text(4, 3)]), NOW).unwrap();
    let first = run_to_end(&mut scheduler, 1);
    scheduler.submit(submission(2, &[Text(1, 8), Doc(3, 5), Doc(2, 4), Text(4, 3)]), NOW).unwrap();
    expect![[r#"
        step 0: 6 of 6 tokens, 1 running, 0 waiting
          admit   sequence-100 [Miss Miss Miss Miss]
          prefill sequence-100 segment 1   0..6     sees []
        step 1: 6 of 6 tokens, 1 running, 0 waiting
          prefill sequence-100 segment 1   6..8     sees []
          encode  sequence-100 segment 2   0..4     sees [1]
        step 2: 6 of 6 tokens, 1 running, 0 waiting
          encode  sequence-100 segment 3   0..5     sees [1]
          prefill sequence-100 segment 4   0..1     sees [1 2 3]
        step 3: 2 of 6 tokens, 1 running, 0 waiting
          prefill sequence-100 segment 4   1..2     sees [1 2 3]
          first   sequence-100 segment 5   0..1     sees [1 2 3 4]
        step 4: 3 of 6 tokens, 1 running, 0 waiting
          admit   sequence-200 [Hit Hit Hit Miss]
          prefill sequence-200 segment 6   0..2     sees [1 3 2]
          first   sequence-200 segment 7   0..1     sees [1 3 2 6]
    "#]]
    .assert_eq(&(first + &run_to_end(&mut scheduler, 1)));
}

#[test]
fn samples_share_documents_and_prompt() {
    let mut scheduler = scheduler(64, 32, 4);
    scheduler.submit(submission(1, &[Doc(1, 9), Text(2, 5)], 2, 3), NOW).unwrap();
    expect![[r#"
        step 0: 16 of 32 tokens, 3 running, 0 waiting
          admit   sequence-100 [Miss Miss]
          admit   sequence-101 [Joined Joined]
          admit   sequence-102 [Joined Joined]
          encode  sequence-100 segment 1   0..9     sees []
          prefill sequence-100 segment 2   0..4     sees [1]
          first   sequence-100 segment 3   0..1     sees [1 2]
          first   sequence-101 segment 4   0..1     sees [1 2]
          first   sequence-102 segment 5   0..1     sees [1 2]
        step 1: 3 of 32 tokens, 3 running, 0 waiting
          decode  sequence-100 segment 3   1..2     sees [1 2]
          decode  sequence-101 segment 4   1..2     sees [1 2]
          decode  sequence-102 segment 5   1..2     sees [1 2]
    "#]]
    .assert_eq(&run_to_end(&mut scheduler, 2));
}

#[test]
fn reordered_documents_are_hits_and_only_the_text_behind_them_is_computed() {
    let mut scheduler = scheduler(64, 32, 4);
    scheduler.submit(submission(1, &[Doc(1, 5), Doc(2, 6), Text(3, 4)], 1, 1), NOW).unwrap();
    run_to_end(&mut scheduler, 1);
    scheduler.submit(submission(2, &[Doc(2, 6), Doc(1, 5), Text(3, 4)], 1, 1), NOW).unwrap();
    expect![[r#"
        step 1: 4 of 32 tokens, 1 running, 0 waiting
          admit   sequence-200 [Hit Hit Miss]
          prefill sequence-200 segment 5   0..3     sees [2 1]
          first   sequence-200 segment 6   0..1     sees [2 1 5]
    "#]]
    .assert_eq(&run_to_end(&mut scheduler, 1));
}

#[test]
fn a_follower_is_promoted_with_the_progress_of_the_cancelled_leader() {
    let mut scheduler = scheduler(64, 8, 4);
    scheduler.submit(submission(1, &[Doc(1, 20), Text(2, 3)], 1, 1), NOW).unwrap();
    scheduler.submit(submission(2, &[Doc(1, 20), Text(3, 3)], 1, 1), NOW).unwrap();
    let first = step(&mut scheduler, 1);
    scheduler.cancel(lazy_attn_types::RequestId(1), NOW);
    scheduler.check_invariants();
    expect![[r#"
        step 0: 8 of 8 tokens, 2 running, 0 waiting
          admit   sequence-100 [Miss Miss]
          admit   sequence-200 [Joined Miss]
          encode  sequence-100 segment 1   0..8     sees []
        step 1: 8 of 8 tokens, 1 running, 0 waiting
          encode  sequence-200 segment 1   8..16    sees []
        step 2: 7 of 8 tokens, 1 running, 0 waiting
          encode  sequence-200 segment 1   16..20   sees []
          prefill sequence-200 segment 4   0..2     sees [1]
          first   sequence-200 segment 5   0..1     sees [1 4]
    "#]]
    .assert_eq(&(first + &run_to_end(&mut scheduler, 1)));
}

#[test]
fn after_a_failed_step_whoever_waited_fills_the_document_from_its_first_token() {
    let mut scheduler = scheduler(64, 8, 4);
    scheduler.submit(submission(1, &[Doc(1, 20), Text(2, 3)], 1, 1), NOW).unwrap();
    scheduler.submit(submission(2, &[Doc(1, 20), Text(3, 3)], 1, 1), NOW).unwrap();
    let first = step(&mut scheduler, 1);
    let plan = scheduler.plan(NOW);
    let failing = plan.to_string();
    let failed = scheduler.abort(plan, NOW);
    scheduler.check_invariants();
    assert_eq!(failed, [lazy_attn_types::SequenceId(100)]);
    expect![[r#"
        step 0: 8 of 8 tokens, 2 running, 0 waiting
          admit   sequence-100 [Miss Miss]
          admit   sequence-200 [Joined Miss]
          encode  sequence-100 segment 1   0..8     sees []
        step 1: 8 of 8 tokens, 2 running, 0 waiting
          encode  sequence-100 segment 1   8..16    sees []
        step 2: 8 of 8 tokens, 1 running, 0 waiting
          encode  sequence-200 segment 1   0..8     sees []
        step 3: 8 of 8 tokens, 1 running, 0 waiting
          encode  sequence-200 segment 1   8..16    sees []
        step 4: 7 of 8 tokens, 1 running, 0 waiting
          encode  sequence-200 segment 1   16..20   sees []
          prefill sequence-200 segment 4   0..2     sees [1]
          first   sequence-200 segment 5   0..1     sees [1 4]
    "#]]
    .assert_eq(&(first + &failing + &run_to_end(&mut scheduler, 1)));
}

#[test]
fn the_head_of_the_line_waits_for_blocks_and_nobody_overtakes_it() {
    let mut scheduler = scheduler(6, 16, 4);
    scheduler.submit(submission(1, &[Text(1, 9)], 4, 1), NOW).unwrap();
    scheduler.submit(submission(2, &[Text(2, 17)], 4, 1), NOW).unwrap();
    scheduler.submit(submission(3, &[Text(3, 2)], 4, 1), NOW).unwrap();
    let plan = scheduler.plan(NOW);
    expect![[r#"
        step 0: 9 of 16 tokens, 1 running, 2 waiting
          admit   sequence-100 [Miss]
          prefill sequence-100 segment 1   0..8     sees []
          first   sequence-100 segment 2   0..1     sees [1]
    "#]]
    .assert_eq(&plan.to_string());
    let outcomes = go_on(&plan, 4);
    scheduler.commit(plan, &outcomes, NOW);
    expect![[r#"
        step 1: 1 of 16 tokens, 1 running, 2 waiting
          decode  sequence-100 segment 2   1..2     sees [1]
        step 2: 1 of 16 tokens, 1 running, 2 waiting
          decode  sequence-100 segment 2   2..3     sees [1]
        step 3: 1 of 16 tokens, 1 running, 2 waiting
          decode  sequence-100 segment 2   3..4     sees [1]
        step 4: 16 of 16 tokens, 1 running, 1 waiting
          admit   sequence-200 [Miss]
          prefill sequence-200 segment 3   0..16    sees []
        step 5: 1 of 16 tokens, 1 running, 1 waiting
          first   sequence-200 segment 4   0..1     sees [3]
        step 6: 1 of 16 tokens, 1 running, 1 waiting
          decode  sequence-200 segment 4   1..2     sees [3]
        step 7: 1 of 16 tokens, 1 running, 1 waiting
          decode  sequence-200 segment 4   2..3     sees [3]
        step 8: 1 of 16 tokens, 1 running, 1 waiting
          decode  sequence-200 segment 4   3..4     sees [3]
        step 9: 2 of 16 tokens, 1 running, 0 waiting
          admit   sequence-300 [Miss]
          prefill sequence-300 segment 5   0..1     sees []
          first   sequence-300 segment 6   0..1     sees [5]
        step 10: 1 of 16 tokens, 1 running, 0 waiting
          decode  sequence-300 segment 6   1..2     sees [5]
        step 11: 1 of 16 tokens, 1 running, 0 waiting
          decode  sequence-300 segment 6   2..3     sees [5]
        step 12: 1 of 16 tokens, 1 running, 0 waiting
          decode  sequence-300 segment 6   3..4     sees [5]
    "#]]
    .assert_eq(&run_to_end(&mut scheduler, 4));
}
