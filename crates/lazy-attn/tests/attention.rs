//! The CPU kernels against the oracle.

// Helpers outside test functions may unwrap too.
#![allow(clippy::unwrap_used)]

#[macro_use]
mod common;

use common::{
    LAYER, SHAPE, Scenario, Shape, assert_matches_oracle, bits, deviation, first_difference, metamorphic,
};
use lazy_attn::{CpuIsa, KvDtype};

fn run(scenario: &Scenario) -> Vec<f32> {
    scenario.run(scenario.config(), CpuIsa::detect())
}

fn check(scenario: &Scenario) {
    assert_matches_oracle(scenario, CpuIsa::detect());
}

/// As it is, and in f32, where nothing hides behind rounding.
fn check_and_widen(scenario: &Scenario) {
    check(scenario);
    check(&Scenario { shape: Shape { dtype: KvDtype::F32, ..scenario.shape }, ..scenario.clone() });
}

every_case!(check_and_widen);

/// Views begin with a block on CUDA devices.
#[test]
fn views_begin_inside_blocks() {
    common::cases::views_begin_inside_blocks().iter().for_each(check_and_widen);
}

#[test]
fn shifts_change_no_bit() {
    metamorphic::assert_shifts_change_no_bit(run);
}

#[test]
fn segments_may_be_split() {
    metamorphic::assert_segments_may_be_split(run);
}

#[test]
fn segments_may_be_listed_in_any_order() {
    metamorphic::assert_segments_may_be_listed_in_any_order(run);
}

#[test]
fn other_documents_change_no_bit() {
    metamorphic::assert_other_documents_change_no_bit(run);
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
fn every_instruction_set_is_within_the_same_tolerance() {
    for isa in CpuIsa::available() {
        for dtype in [KvDtype::F32, KvDtype::F16, KvDtype::Bf16] {
            let shape = Shape { dtype, group_size: 7, ..SHAPE };
            let scenario = Scenario::new(shape, &[40, 270]).request(0, &[0, 1], 3, 1);
            assert_matches_oracle(&scenario.request(7, &[1, 0], 0, 20), isa);
        }
    }
}

/// The CUDA kernels count a window from where the query is turned, so that an executor of theirs refuses views under one.
#[test]
fn windows_end_where_they_say_in_views() {
    let scenario = Scenario::new(SHAPE, &[40, 600]).request(0, &[0, 1], 5, 1).seeing(1, 37..570);
    let scenario = scenario.request(3, &[1, 0], 2, 20).seeing(0, 320..600);
    let scenario = scenario.request(9, &[1], 1, 1).seeing(0, 32..570);
    for window in [1, 5, 35, 36, 64, 300, 563, 600, 640, 5000] {
        check(&Scenario { window: Some(window), ..scenario.clone() });
    }
}

#[test]
fn keys_deviate_by_their_distance_and_slots_behind_the_last_token_do_not_count() {
    for dtype in [KvDtype::F32, KvDtype::F16, KvDtype::Bf16] {
        let shapes = deviation::scenarios(Shape { dtype, ..SHAPE });
        for scenario in shapes.into_iter().chain([deviation::scenario(Shape { dtype, ..SHAPE })]) {
            let (attention, mut store) = scenario.backend(scenario.config(), CpuIsa::detect());
            store.fill(0.5);
            let mut is_encoded = false;
            scenario.run_steps(scenario.config(), |plan, rows| {
                if !std::mem::replace(&mut is_encoded, true) {
                    attention.append(&mut store, LAYER, plan, &rows.k, &rows.v).unwrap();
                }
                vec![]
            });
            deviation::check(&scenario, |blocks| store.key_deviation(blocks));
        }
    }
}

/// Requests that look at their documents in another way, beside one that does not: over long and short runs, views, documents
/// of which a window or a view hides everything, and texts between documents.
fn focusing(shape: Shape) -> Vec<Scenario> {
    let scenario = Scenario::new(shape, &[40, 300, 23, 0]);
    let scenario = scenario.request(0, &[0, 1, 2], 3, 1).focusing((0.5, 0.75), 0..3);
    let scenario = scenario.request(9, &[2, 1, 3], 0, 20).focusing((2.0, 1.5), 0..3);
    let scenario = scenario.request(5, &[0, 1], 5, 1);
    let scenario = scenario.request(7, &[0, 1], 2, 1).focusing((1.0, 0.5), 1..2);
    let scenario = scenario.request(7, &[1, 0], 2, 40).focusing((0.1, 1.0), 0..1).seeing(0, 32..270);
    let scenario = scenario.request(1, &[3], 4, 2).focusing((0.5, 2.0), 0..1);
    let windows = [1, 30, 64, 300].map(|window| Scenario { window: Some(window), ..scenario.clone() });
    let large = Scenario { query_size: 1024.0, ..scenario.clone() };
    windows.into_iter().chain([scenario, large]).collect()
}

#[test]
fn documents_are_looked_at_as_each_request_says() {
    for dtype in [KvDtype::F32, KvDtype::F16] {
        focusing(Shape { dtype, ..SHAPE }).iter().for_each(check);
    }
}

#[test]
fn a_focus_of_others_changes_no_bit_and_an_own_one_does() {
    for scenario in focusing(SHAPE) {
        let together = bits(&run(&scenario));
        let mut plain = scenario.clone();
        plain.requests.iter_mut().for_each(|request| request.focused = None);
        let plain = bits(&run(&plain));
        let row = (SHAPE.num_kv_heads * SHAPE.group_size * SHAPE.head_dim) as usize;
        let mut first = 0;
        for request in &scenario.requests {
            let end = first + request.num_tokens as usize * row;
            let alone = Scenario { requests: vec![request.clone()], ..scenario.clone() };
            assert_eq!(first_difference(&bits(&run(&alone)), &together[first..end]), None, "{request:?}");
            let sees_documents = scenario.window.is_none() && request.documents.len() > 1;
            if request.focused.is_none() || sees_documents {
                let is_same = together[first..end] == plain[first..end];
                assert_eq!(is_same, request.focused.is_none(), "{request:?}");
            }
            first = end;
        }
    }
}

#[test]
fn an_empty_step_is_fine() {
    let scenario = Scenario::new(SHAPE, &[5]);
    assert!(bits(&scenario.run(scenario.config(), CpuIsa::detect())).is_empty());
}
