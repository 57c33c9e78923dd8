//! The planner: everything is covered exactly once, in order, whatever the division.

// Helpers outside test functions may unwrap too.
#![allow(clippy::unwrap_used)]

mod common;

use std::{collections::BTreeMap, num::NonZeroU32};

use common::{SHAPE, Scenario, coverage, proptest_config};
use expect_test::expect;
use lazy_attn::{PartialsPer, Plan, PlanConfig, Planner, plan::Coverage};
use lazy_attn_types::{BlockSize, SharedReads, StepInput};
use proptest::{prelude::*, sample::select};

#[derive(Debug, Clone)]
struct Case {
    scenario: Scenario,
    config: PlanConfig,
}

fn cases() -> impl Strategy<Value = Case> {
    let documents = prop::collection::vec(prop_oneof![1u32..40, 200u32..900], 1..6);
    let tokens = prop_oneof![3 => Just(1u32), 1 => 1u32..8, 1 => 17u32..80];
    let request = (prop::collection::vec(any::<prop::sample::Index>(), 0..6), 0u32..600, tokens);
    let config = (
        select(vec![16u32, 32, 64, 256]),
        any::<bool>(),
        1u32..40,
        1u32..50,
        1u32..30,
        0u32..300,
        prop_oneof![2 => Just(None), 1 => (1u32..900).prop_map(NonZeroU32::new)],
    );
    (documents, prop::collection::vec(request, 0..6), config, 0u32..6).prop_map(
        |(documents, requests, config, views)| {
            let mut scenario = Scenario::new(SHAPE, &documents);
            for (chosen, num_stored, num_tokens) in requests {
                let chosen: Vec<usize> = chosen.iter().map(|index| index.index(documents.len())).collect();
                scenario = scenario.request(num_stored, &chosen, num_stored, num_tokens);
            }
            let scenario = scenario.with_views(views);
            let (
                unit_tokens,
                per_unit,
                target_items,
                max_item_tokens,
                max_shared_run_tokens,
                min_shared,
                window,
            ) = config;
            let config = PlanConfig {
                block_size: BlockSize::DEFAULT,
                unit_tokens,
                partials: if per_unit { PartialsPer::Unit } else { PartialsPer::Item },
                target_items,
                max_item_tokens,
                max_shared_run_tokens,
                min_shared_tokens: min_shared,
                window,
            };
            Case { scenario, config }
        },
    )
}

/// Every (token, handle, local index, distance) the contract lets a query see, and how often.
fn visible(input: &StepInput, window: Option<NonZeroU32>) -> BTreeMap<(u32, u64, u32, i64), u32> {
    let mut seen = BTreeMap::new();
    for run in &input.runs {
        let views = input.segments_of(run);
        for t in 0..run.num_tokens {
            let local = run.first_local + t;
            let position = i64::from(views[views.len() - 1].start.0 + local);
            for (index, view) in views.iter().enumerate() {
                let end = if index + 1 == views.len() { local + 1 } else { view.num_tokens };
                for key in view.first_seen..end {
                    let key_position = i64::from(view.start.0 + key);
                    if window.is_none_or(|window| key_position > position - i64::from(window.get())) {
                        let distance = position - i64::from(view.start.0);
                        *seen.entry((run.first_token + t, view.handle.0, key, distance)).or_default() += 1;
                    }
                }
            }
        }
    }
    seen
}

/// Where in the context each slot of the plan begins: (token, distance from the segment, first key).
fn slot_places(plan: &Plan) -> BTreeMap<u32, (u32, i64, u32)> {
    let unit_tokens = plan.config().unit_tokens;
    let mut places = BTreeMap::new();
    for item in plan.items() {
        for (index, &row) in plan.rows_of(item).iter().enumerate() {
            let units = plan.parts_of(item).iter().flat_map(|part| {
                part.units(unit_tokens).map(move |unit| {
                    (row.token, i64::from(part.distance(row)), part.num_skipped + unit.begin)
                })
            });
            let first = item.first_slot + index as u32 * item.slots_per_row;
            for (slot, place) in (first..first + item.slots_per_row).zip(units) {
                assert!(places.insert(slot, place).is_none(), "slot {slot} has two owners");
            }
        }
    }
    places
}

proptest! {
    #![proptest_config(proptest_config(200))]

    #[test]
    fn every_visible_key_is_covered_exactly_once(case in cases()) {
        let input = case.scenario.query_step();
        let plan = Planner::new(case.config).unwrap().plan(&input);
        prop_assert_eq!(coverage(&plan), visible(&input, case.config.window));
    }

    #[test]
    fn slots_are_unique_in_bounds_and_merged_once_in_the_order_of_the_context(case in cases()) {
        let plan = case.scenario.plan(case.config);
        let places = slot_places(&plan);
        prop_assert!(places.keys().copied().eq(0..plan.num_slots()), "slots have gaps");
        let mut merged = 0;
        for token in 0..plan.num_tokens() {
            let list: Vec<_> = plan.merge_list(token as usize).iter().map(|slot| places[slot]).collect();
            prop_assert!(list.iter().all(|place| place.0 == token));
            if case.config.partials == PartialsPer::Unit {
                // Documents lie one behind the other: the farther from the query, the earlier in the context.
                prop_assert!(list.is_sorted_by_key(|&(_, distance, begin)| (-distance, begin)));
            }
            prop_assert!(!list.is_empty());
            merged += list.len();
        }
        prop_assert_eq!(merged as u32, plan.num_slots());
    }

    #[test]
    fn whole_items_are_all_that_their_rows_have(case in cases()) {
        let plan = case.scenario.plan(case.config);
        for item in plan.items() {
            let is_alone = plan.rows_of(item).iter().all(|row| plan.merge_list(row.token as usize).len() == 1);
            prop_assert!(item.coverage == Coverage::Partial || (is_alone && item.slots_per_row == 1));
            prop_assert!(plan.rows_of(item).len() as u32 <= case.config.max_item_tokens);
        }
    }

    #[test]
    fn writes_go_to_the_own_segment_token_by_token(case in cases()) {
        let input = case.scenario.query_step();
        let plan = Planner::new(case.config).unwrap().plan(&input);
        let mut written = BTreeMap::new();
        for write in plan.writes() {
            for index in 0..write.num_tokens {
                let place = (write.block, write.first_slot + index, write.first_local + index);
                prop_assert!(written.insert(write.first_token + index, place).is_none());
            }
        }
        for run in &input.runs {
            let own = input.segments_of(run).last().unwrap();
            for t in 0..run.num_tokens {
                let local = run.first_local + t;
                let (entry, slot) = BlockSize::DEFAULT.locate(local);
                let want = (input.blocks_of(own)[entry as usize], slot, local);
                prop_assert_eq!(written.remove(&(run.first_token + t)), Some(want));
            }
        }
        prop_assert!(written.is_empty());
        prop_assert!(plan.writes().is_sorted_by_key(|write| (write.block, write.first_slot)));
    }
}

#[test]
fn a_document_two_requests_read_is_one_item_at_two_distances() {
    let scenario = Scenario::new(SHAPE, &[600, 40, 5]).request(0, &[0, 1, 2], 3, 1).request(0, &[1, 0], 0, 2);
    let config = PlanConfig { target_items: 1, ..scenario.config() };
    expect![[r#"
        3 tokens, 4 items, 16 slots, units of 256 keys
        item 0   part  slots   0..9   keys s0[0..600]@0 | rows 0:648 1:600 2:601
        item 1   part  slots   9..12  keys s1[0..40]@0 | rows 0:48 1:640 2:641
        item 2   part  slots  12..14  keys s2[0..5]@640 s3[0..4]^@645 | rows 0:648
        item 3   part  slots  14..16  keys s4[0..2]^@640 | rows 1:640 2:641
        merge token 0: [0, 1, 2, 9, 12, 13]
        merge token 1: [10, 3, 4, 5, 14]
        merge token 2: [11, 6, 7, 8, 15]
    "#]]
    .assert_eq(&scenario.plan(config).to_string());
}

#[test]
fn a_single_decode_is_cut_for_every_worker() {
    let scenario = Scenario::new(SHAPE, &[512, 512]).request(0, &[0, 1], 100, 1);
    let config = PlanConfig { target_items: 2, ..scenario.config() };
    expect![[r#"
        1 tokens, 2 items, 5 slots, units of 256 keys
        item 0   part  slots   0..2   keys s0[0..512]@0 | rows 0:1124
        item 1   part  slots   2..5   keys s1[0..512]@512 s2[0..101]^@1024 | rows 0:1124
        merge token 0: [0, 1, 2, 3, 4]
    "#]]
    .assert_eq(&scenario.plan(config).to_string());
}

#[test]
fn a_long_run_is_cut_by_tokens_and_each_item_is_whole() {
    let scenario = Scenario::new(SHAPE, &[40]).request(0, &[0], 0, 70);
    let config = PlanConfig { target_items: 1, ..scenario.config() };
    let plan = scenario.plan(config);
    assert!(plan.items().iter().all(|item| item.coverage == Coverage::Whole));
    let lines: Vec<String> = plan.to_string().lines().take(4).map(str::to_owned).collect();
    let heads: Vec<&str> = lines.iter().map(|line| line.split(" | ").next().unwrap()).collect();
    expect![[r#"
        70 tokens, 3 items, 70 slots, units of 256 keys
        item 0   whole slots   0..24  keys s0[0..40]@0 s1[0..24]^@40
        item 1   whole slots  24..48  keys s0[0..40]@0 s1[0..48]^@40
        item 2   whole slots  48..70  keys s0[0..40]@0 s1[0..70]^@40"#]]
    .assert_eq(&heads.join("\n"));
}

#[test]
fn a_window_drops_the_units_before_it() {
    let scenario = Scenario::new(SHAPE, &[600, 600]).request(0, &[0, 1], 0, 1);
    let config = PlanConfig { target_items: 1, window: NonZeroU32::new(301), ..scenario.config() };
    expect![[r#"
        1 tokens, 1 items, 1 slots, units of 256 keys
        item 0   whole slots   0..1   keys s1[256..600]@600 s2[0..1]^@1200 | rows 0:1200
        merge token 0: [0]
    "#]]
    .assert_eq(&scenario.plan(config).to_string());
}

#[test]
fn settings_without_a_meaning_are_refused() {
    let config = Scenario::new(SHAPE, &[]).config();
    for unit_tokens in [0, 8, 24, 512] {
        assert!(Planner::new(PlanConfig { unit_tokens, ..config }).is_err());
    }
    assert!(Planner::new(PlanConfig { target_items: 0, ..config }).is_err());
    assert!(Planner::new(PlanConfig { max_item_tokens: 0, ..config }).is_err());
    assert!(Planner::new(PlanConfig { max_shared_run_tokens: 0, ..config }).is_err());
}

#[test]
fn requests_that_read_apart_share_no_item() {
    let scenario = Scenario::new(SHAPE, &[300]).request(0, &[0], 3, 1).request(700, &[0], 5, 1);
    let planner = Planner::new(scenario.config()).unwrap();
    let num_rows_max = |shared_reads| {
        let plan = planner.plan(&StepInput { shared_reads, ..scenario.query_step() });
        plan.items().iter().map(|item| item.rows.len()).max()
    };
    assert_eq!(num_rows_max(SharedReads::Once), Some(2));
    assert_eq!(num_rows_max(SharedReads::Apart), Some(1));
}
