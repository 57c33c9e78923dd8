//! The CUDA kernels against the oracle. Needs a device.

// Helpers outside test functions may unwrap and panic too.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod copies;
mod elementwise;
mod gpu;
mod sampling;

use common::{Scenario, Shape};
use gpu::{Gpu, SHAPE, check, config, run};
use lazy_attn::{KvDtype, PlanConfig};

#[test]
fn plain_causal_attention_is_one_segment() {
    check(&Scenario::new(SHAPE, &[]).request(0, &[], 0, 70));
    check(&Scenario::new(SHAPE, &[]).request(0, &[], 300, 5));
    check(&Scenario::new(SHAPE, &[]).request(0, &[], 700, 1));
}

#[test]
fn documents_are_read_at_any_place_in_any_order() {
    let documents = [40, 23, 300];
    check(&Scenario::new(SHAPE, &documents).request(0, &[0, 1, 2], 3, 1).request(0, &[2, 1, 0], 0, 4));
}

#[test]
fn every_dtype_head_dim_and_block_size_works() {
    for dtype in [KvDtype::F16, KvDtype::Bf16] {
        for (head_dim, block_size) in [(64, 16), (64, 32), (64, 64), (128, 16), (128, 32), (128, 64)] {
            let shape = Shape { dtype, head_dim, rotary_dim: head_dim, block_size, ..SHAPE };
            check(&Scenario::new(shape, &[40, 270, 16]).request(5, &[0, 1, 2], 3, 1).request(
                0,
                &[1, 0],
                0,
                20,
            ));
        }
    }
}

#[test]
fn every_gqa_ratio_works() {
    for group_size in [1, 2, 3, 4, 5, 7, 8, 16] {
        let shape = Shape { group_size, ..SHAPE };
        check(&Scenario::new(shape, &[40, 133]).request(0, &[0, 1], 3, 1).request(0, &[1, 0], 2, 9));
    }
}

#[test]
fn partial_rotary_works() {
    for (head_dim, rotary_dim) in [(64, 32), (64, 16), (128, 64), (128, 96), (128, 0)] {
        let shape = Shape { head_dim, rotary_dim, ..SHAPE };
        check(&Scenario::new(shape, &[40, 133]).request(9, &[0, 1], 3, 1).request(0, &[1, 0], 2, 9));
    }
}

#[test]
fn lengths_around_the_borders_of_blocks_and_tiles_work() {
    let documents = [1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257];
    let all: Vec<usize> = (0..documents.len()).collect();
    let reversed: Vec<usize> = all.iter().rev().copied().collect();
    for head_dim in [64, 128] {
        let shape = Shape { head_dim, rotary_dim: head_dim, ..SHAPE };
        let scenario = Scenario::new(shape, &documents).request(0, &all, 3, 1);
        check(&scenario.request(0, &reversed, 63, 2).request(0, &[4, 5, 6], 127, 3));
    }
    for length in [4095, 4096, 4097] {
        check(&Scenario::new(SHAPE, &[length]).request(0, &[0], 0, 1));
    }
}

#[test]
fn a_thousand_segments_and_one_document_twice_work() {
    let documents: Vec<u32> = (0..1000).map(|index| 1 + index % 19).collect();
    let all: Vec<usize> = (0..1000).collect();
    check(&Scenario::new(Shape { group_size: 2, ..SHAPE }, &documents).request(0, &all, 3, 2));
    for num_tokens in [1, 2] {
        check(&Scenario::new(SHAPE, &[70, 7]).request(0, &[0, 1, 0, 0], 3, num_tokens));
    }
}

#[test]
fn many_requests_read_one_document_at_different_places() {
    for num_requests in [2, 3, 4, 5, 8, 16, 17, 32, 33, 40] {
        let mut scenario = Scenario::new(SHAPE, &[200, 30]);
        for request in 0..num_requests {
            scenario = scenario.request(17 * request, &[request as usize % 2, 0], request, 1);
        }
        check(&scenario);
    }
}

#[test]
fn two_hundred_and_fifty_six_requests_read_one_document() {
    let shape = Shape { num_kv_heads: 1, group_size: 2, ..SHAPE };
    let mut scenario = Scenario::new(shape, &[150]);
    for request in 0..256 {
        scenario = scenario.request(31 * request, &[0], request % 7, 1);
    }
    check(&scenario);
}

#[test]
fn windows_end_where_they_say() {
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
    check(&Scenario::new(SHAPE, &[40, 133]).request(131_071, &[0, 1], 3, 1));
    check(&Scenario::new(SHAPE, &[40, 133]).request((1 << 30) - 400, &[0, 1], 3, 1));
}

#[test]
fn large_scores_neither_overflow_nor_drown_the_others() {
    let scenario = Scenario::new(SHAPE, &[300, 40]).request(0, &[0, 1], 1, 1).request(0, &[1], 0, 20);
    check(&Scenario { query_size: 1024.0, ..scenario.clone() });
    check(&Scenario { query_size: 0.0, ..scenario });
}

#[test]
fn results_do_not_move_with_the_context() {
    let bits = |base| {
        let scenario = Scenario::new(SHAPE, &[300, 40]).request(base, &[0, 1], 40, 1);
        run(&scenario, config(&scenario))
    };
    assert!(bits(0) == bits(7) && bits(0) == bits(100_003));
}

#[test]
fn reading_a_shared_document_once_or_for_each_request_is_the_same_within_rounding() {
    let mut scenario = Scenario::new(SHAPE, &[500, 100]);
    for request in 0..9 {
        scenario = scenario.request(13 * request, &[0, 1], 5 + request, 1);
    }
    let apart = PlanConfig { min_shared_tokens: u32::MAX, ..config(&scenario) };
    let gpu = Gpu::new(&scenario);
    let values = |bits: Vec<u16>| gpu.values(&bits);
    let (together, apart) = (values(run(&scenario, config(&scenario))), values(run(&scenario, apart)));
    for (together, apart) in together.iter().zip(&apart) {
        assert!((together - apart).abs() <= 2f32.powi(-6), "{together} and {apart}");
    }
}

#[test]
fn a_hundred_repetitions_give_the_same_bits() {
    let mut scenario = Scenario::new(SHAPE, &[1500, 333, 64]);
    for request in 0..7 {
        scenario = scenario.request(5 * request, &[0, 1, 2, 1], 90 * request, 1 + request % 3);
    }
    let mut gpu = Gpu::new(&scenario);
    scenario.run_steps(config(&scenario), |plan, rows| {
        let mut prepared = gpu.prepare(plan, rows);
        let first = gpu.attend(&mut prepared);
        for repetition in 0..100 {
            assert!(gpu.attend(&mut prepared) == first, "repetition {repetition} differs");
        }
        Vec::new()
    });
}

#[test]
fn a_small_scenario_for_the_sanitizer() {
    let documents = [70, 16, 5];
    for head_dim in [64, 128] {
        let shape = Shape { head_dim, rotary_dim: head_dim, num_kv_heads: 1, ..SHAPE };
        check(&Scenario::new(shape, &documents).request(0, &[0, 1, 2], 3, 1).request(4, &[1, 0], 0, 30));
    }
}
