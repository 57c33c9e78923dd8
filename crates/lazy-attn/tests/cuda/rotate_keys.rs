//! Keys that are stored as they are, and rotated each time they are read: the comparison path against the oracle.

use lazy_attn::{AttnError, KvDtype, PlanConfig};

use crate::common::{Scenario, Shape, cases::SHAPE};
use crate::gpu::{Gpu, Keys, compare, config, run_over, widen};

/// Items of 16 rows at most; documents are read for each request, or once for those that fit into an item.
fn narrow_config(scenario: &Scenario, min_shared_tokens: u32) -> PlanConfig {
    let max_item_tokens = 16 / scenario.shape.group_size;
    PlanConfig { max_item_tokens, min_shared_tokens, ..config(scenario) }
}

fn check(scenario: &Scenario) {
    for min_shared_tokens in [u32::MAX, 64] {
        let bits = run_over(Keys::Raw, scenario, narrow_config(scenario, min_shared_tokens));
        compare(scenario, &widen(scenario.shape.dtype, &bits));
    }
}

#[test]
fn rotating_keys_as_they_are_read_gives_what_rotating_queries_gives() {
    for dtype in [KvDtype::F16, KvDtype::Bf16] {
        for (head_dim, block_size) in [(64, 16), (64, 64), (128, 16), (128, 32)] {
            let shape = Shape { dtype, head_dim, rotary_dim: head_dim, block_size, ..SHAPE };
            let scenario = Scenario::new(shape, &[40, 270, 1, 64]).request(5, &[0, 1, 2, 3], 3, 1);
            check(&scenario.request(0, &[3, 1, 0], 0, 20).request(900, &[1, 2], 130, 1));
        }
    }
}

#[test]
fn angles_of_rotated_keys_stay_exact_over_long_segments_and_far_away() {
    check(&Scenario::new(SHAPE, &[5000]).request(0, &[0], 0, 1));
    for base in [131_071, (1 << 30) - 900] {
        check(&Scenario::new(SHAPE, &[40, 733]).request(base, &[0, 1], 3, 1));
    }
}

#[test]
fn a_small_scenario_of_rotating_keys_for_the_sanitizer() {
    for scenario in crate::for_the_sanitizer(SHAPE, 150) {
        check(&scenario);
    }
}

#[test]
fn items_too_wide_for_rotating_keys_are_refused() {
    let scenario = Scenario::new(SHAPE, &[]).request(0, &[], 0, 40);
    let mut gpu = Gpu::over(Keys::Raw, &scenario);
    let mut result = Ok(());
    scenario.run_steps(config(&scenario), |plan, rows| {
        if plan.num_tokens() > 0 {
            let mut prepared = gpu.prepare(plan, rows);
            result = gpu.try_launch(&mut prepared);
        }
        Vec::new()
    });
    assert!(matches!(result, Err(AttnError::Unsupported { what: "rows of an item", .. })), "{result:?}");
}
