//! The CUDA kernels against the oracle. Needs a device.

// Helpers outside test functions may unwrap and panic too.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../common/mod.rs"]
#[macro_use]
mod common;
mod copies;
mod elementwise;
mod fp8;
mod gpu;
mod graph;
mod products;
mod rotate_keys;
mod sampling;
mod shapes;

use common::{Scenario, Shape, cases::SHAPE, metamorphic};
use gpu::{Gpu, check, check_repetitions, config, run, widen};
use lazy_attn::PlanConfig;

every_case!(check);

/// What the metamorphic tests ask for.
fn result(scenario: &Scenario) -> Vec<f32> {
    widen(scenario.shape.dtype, &run(scenario, config(scenario)))
}

#[test]
fn shifts_change_no_bit() {
    metamorphic::assert_shifts_change_no_bit(result);
}

#[test]
fn segments_may_be_split() {
    metamorphic::assert_segments_may_be_split(result);
}

#[test]
fn segments_may_be_listed_in_any_order() {
    metamorphic::assert_segments_may_be_listed_in_any_order(result);
}

#[test]
fn other_documents_change_no_bit() {
    metamorphic::assert_other_documents_change_no_bit(result);
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
fn blocks_beyond_four_gibibytes_are_found() {
    let block_bytes = SHAPE.num_kv_heads * SHAPE.block_size * SHAPE.head_dim * 2;
    let first_block = u32::MAX / block_bytes + 1;
    let scenario = Scenario::new(SHAPE, &[40, 133]).request(0, &[0, 1], 3, 1).request(0, &[1, 0], 2, 40);
    check(&Scenario { first_block, ..scenario });
}

#[test]
fn a_hundred_repetitions_give_the_same_bits() {
    check_repetitions(SHAPE, 100);
}

#[test]
fn a_small_scenario_for_the_sanitizer() {
    let documents = [70, 16, 5];
    for head_dim in [64, 128] {
        let shape = Shape { head_dim, rotary_dim: head_dim, num_kv_heads: 1, ..SHAPE };
        check(&Scenario::new(shape, &documents).request(0, &[0, 1, 2], 3, 1).request(4, &[1, 0], 0, 30));
    }
}
