//! The CUDA kernels against the oracle. Needs a device.

// Helpers outside test functions may unwrap and panic too.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../common/mod.rs"]
#[macro_use]
mod common;
mod copies;
mod deviation;
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
use lazy_attn::{KvDtype, PlanConfig};

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
fn reading_alone_takes_every_stage_and_ends() {
    for dtype in [KvDtype::Bf16, KvDtype::F16, KvDtype::Fp8E4m3] {
        for head_dim in [64, 128] {
            let shape = Shape { dtype, head_dim, rotary_dim: head_dim, ..SHAPE };
            for max_workers in [1, u32::MAX] {
                let scenario = Scenario::new(shape, &[1000, 1, 65]).request(5, &[0, 1, 2, 0], 3, 1);
                let scenario = Scenario { max_workers, ..scenario.request(0, &[2, 1], 200, 1) };
                let mut gpu = Gpu::new(&scenario);
                let mut prepared = gpu.query(&scenario);
                gpu.probe(&prepared);
                // A stage too many or too few would keep the device waiting for ever; nothing is written.
                gpu.device.synchronize().unwrap();
                let poison = vec![0xFFFF; prepared.out.len()];
                assert!(gpu.device.stream().clone_dtoh(&prepared.out).unwrap() == poison);
                assert!(gpu.attend(&mut prepared) != poison);
            }
        }
    }
}

#[test]
fn a_hundred_repetitions_give_the_same_bits() {
    check_repetitions(SHAPE, 100);
}

/// Scenarios that a tool can watch thread by thread: every tile class, and one thread block a head, so that stages, queries and
/// everything else in shared memory is used again and again.
pub(crate) fn for_the_sanitizer(shape: Shape, longest: u32) -> Vec<Scenario> {
    let scenarios = [64, 128].map(|head_dim| {
        let shape = Shape { head_dim, rotary_dim: head_dim, num_kv_heads: 1, ..shape };
        // Encoding: 128 rows, 64 and 20. Then one query over parts that turn its queries, and tails of their own over a shared document.
        let scenario = Scenario::new(shape, &[longest, 16, 5, 70]).request(0, &[0, 1, 2], 3, 1);
        let scenario = (0..3).fold(scenario, |scenario, index| scenario.request(9 * index, &[3], 20, 1));
        Scenario { max_workers: 1, ..scenario.request(4, &[1, 0], 0, 30) }
    });
    scenarios.into()
}

#[test]
fn a_small_scenario_for_the_sanitizer() {
    for_the_sanitizer(SHAPE, 300).iter().for_each(check);
}
