//! The CPU kernels against the oracle.

// Helpers outside test functions may unwrap too.
#![allow(clippy::unwrap_used)]

mod common;

use common::{SHAPE, Scenario, Shape, assert_matches_oracle, bits};
use lazy_attn::{CpuIsa, KvDtype};

fn check(scenario: &Scenario) {
    assert_matches_oracle(scenario, CpuIsa::detect());
}

#[test]
fn plain_causal_attention_is_one_segment() {
    check(&Scenario::new(SHAPE, &[]).request(0, &[], 0, 70));
    check(&Scenario::new(SHAPE, &[]).request(0, &[], 300, 5));
}

#[test]
fn documents_are_read_at_any_place_in_any_order() {
    let documents = [40, 23, 300];
    check(&Scenario::new(SHAPE, &documents).request(0, &[0, 1, 2], 3, 1).request(0, &[2, 1, 0], 0, 4));
}

#[test]
fn every_dtype_is_within_its_rounding() {
    for dtype in [KvDtype::F32, KvDtype::F16, KvDtype::Bf16] {
        let shape = Shape { dtype, ..SHAPE };
        check(&Scenario::new(shape, &[40, 270]).request(5, &[0, 1], 3, 1).request(0, &[1, 0], 0, 20));
    }
}

#[test]
fn every_gqa_ratio_works() {
    for group_size in [1, 2, 3, 4, 5, 7, 8, 16] {
        let shape = Shape { group_size, ..SHAPE };
        check(&Scenario::new(shape, &[40, 33]).request(0, &[0, 1], 3, 1).request(0, &[1, 0], 2, 3));
    }
}

#[test]
fn every_head_dim_and_partial_rotary_work() {
    for (head_dim, rotary_dim) in [(16, 16), (64, 32), (80, 80), (96, 24), (112, 112), (128, 128), (256, 64)]
    {
        let shape = Shape { head_dim, rotary_dim, ..SHAPE };
        check(&Scenario::new(shape, &[40, 33]).request(0, &[0, 1], 3, 1).request(0, &[1, 0], 2, 9));
    }
    check(&Scenario::new(Shape { rotary_dim: 0, ..SHAPE }, &[40]).request(0, &[0], 3, 1));
}

#[test]
fn every_block_size_works_at_its_edges() {
    for block_size in [1, 2, 4, 8, 16, 32, 64, 128, 256] {
        let documents = [1, block_size.max(2) - 1, block_size, block_size + 1];
        let shape = Shape { block_size, ..SHAPE };
        let scenario = Scenario::new(shape, &documents);
        check(&scenario.request(0, &[0, 1, 2, 3], 3, 1).request(0, &[3, 2, 1, 0], 0, 3));
    }
}

#[test]
fn sixty_four_documents_and_one_document_twice_work() {
    let documents: Vec<u32> = (0..64).map(|index| 1 + index % 19).collect();
    let all: Vec<usize> = (0..64).collect();
    check(&Scenario::new(SHAPE, &documents).request(0, &all, 3, 2));
    for num_tokens in [1, 2] {
        check(&Scenario::new(SHAPE, &[50, 7]).request(0, &[0, 1, 0, 0], 3, num_tokens));
    }
}

#[test]
fn documents_placed_at_the_same_start_do_not_disturb_each_other() {
    let mut scenario = Scenario::new(SHAPE, &[50, 40]).request(0, &[0, 1], 3, 2);
    scenario.requests[0].documents[1].1 = 0;
    check(&scenario);
}

#[test]
fn windows_end_where_they_say() {
    // The tail token is at position 105: the window reaches a document, its edge, or only the tail.
    for window in [1, 4, 5, 6, 7, 64, 65, 66, 104, 105, 106, 107, 5000] {
        let scenario = Scenario::new(SHAPE, &[40, 60]).request(0, &[0, 1], 5, 1).request(3, &[1, 0], 2, 20);
        check(&Scenario { window: Some(window), ..scenario });
    }
    let long = Scenario::new(SHAPE, &[600, 600]).request(0, &[0, 1], 5, 1).request(9, &[0, 1], 600, 3);
    for window in [255, 256, 257, 511, 512, 513, 700] {
        check(&Scenario { window: Some(window), ..long.clone() });
    }
}

#[test]
fn positions_up_to_two_to_the_thirty_are_exact() {
    check(&Scenario::new(SHAPE, &[40, 33]).request((1 << 30) - 100, &[0, 1], 3, 1));
}

#[test]
fn every_instruction_set_is_within_the_same_tolerance() {
    for isa in CpuIsa::available() {
        for dtype in [KvDtype::F32, KvDtype::F16, KvDtype::Bf16] {
            let shape = Shape { dtype, group_size: 7, ..SHAPE };
            let scenario = Scenario::new(shape, &[40, 270]).request(0, &[0, 1], 3, 1);
            assert_matches_oracle(&scenario.request(7, &[1, 0], 0, 20), isa);
        }
    }
}

#[test]
fn large_scores_neither_overflow_nor_drown_the_others() {
    // Scores of about +-2000: unless they are taken relative to the largest, every power overflows or vanishes.
    let scenario = Scenario::new(SHAPE, &[300, 40]).request(0, &[0, 1], 1, 1).request(0, &[1], 0, 20);
    check(&Scenario { query_size: 1e3, ..scenario });
}

#[test]
fn an_empty_step_is_fine() {
    let scenario = Scenario::new(SHAPE, &[5]);
    assert!(bits(&scenario.run(scenario.config(), CpuIsa::detect())).is_empty());
}
