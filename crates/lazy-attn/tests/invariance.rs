//! What must not change a bit: positions of the whole, company, division of work, threads.

// Helpers outside test functions may unwrap too.
#![allow(clippy::unwrap_used)]

mod common;

use common::{SHAPE, Scenario, Shape, bits, first_difference, proptest_config};
use lazy_attn::{CpuIsa, KvDtype, PartialsPer, PlanConfig};
use lazy_attn_types::{SharedReads, StepInput};
use proptest::{prelude::*, sample::select};

fn run(scenario: &Scenario) -> Vec<u32> {
    run_as(scenario, scenario.config())
}

fn run_as(scenario: &Scenario, config: PlanConfig) -> Vec<u32> {
    bits(&scenario.run(config, CpuIsa::detect()))
}

/// Every request reads its documents on its own.
fn run_apart(scenario: &Scenario) -> Vec<u32> {
    let apart = |input: StepInput| StepInput { shared_reads: SharedReads::Apart, ..input };
    bits(&scenario.run_changed(scenario.config(), CpuIsa::detect(), apart))
}

/// Documents and requests that share some of them; small runs and long ones, short documents and long ones.
fn scenarios() -> impl Strategy<Value = Scenario> {
    let shape = (select(vec![KvDtype::F32, KvDtype::F16, KvDtype::Bf16]), 1u32..5, select(vec![4, 16, 64]));
    let shape =
        shape.prop_map(|(dtype, group_size, block_size)| Shape { dtype, group_size, block_size, ..SHAPE });
    let documents = prop::collection::vec(prop_oneof![1u32..40, 200u32..600], 1..5);
    let tokens = prop_oneof![Just(1u32), 1u32..5, 17u32..40];
    let request = (prop::collection::vec(any::<prop::sample::Index>(), 0..4), 0u32..40, tokens, 0u32..1000);
    let window = prop_oneof![2 => Just(None), 1 => (1u32..900).prop_map(Some)];
    (shape, documents, prop::collection::vec(request, 1..4), window, 0u32..6).prop_map(
        |(shape, documents, requests, window, views)| {
            let mut scenario = Scenario::new(shape, &documents);
            for (chosen, num_stored, num_tokens, base) in requests {
                let chosen: Vec<usize> = chosen.iter().map(|index| index.index(documents.len())).collect();
                scenario = scenario.request(base, &chosen, num_stored, num_tokens);
            }
            Scenario { window, ..scenario.with_views(views) }
        },
    )
}

/// Ways to divide work, all with the canonical unit of the CPU.
fn divisions() -> impl Strategy<Value = (u32, u32, u32, u32)> {
    (1u32..40, 1u32..50, 1u32..30, 0u32..300)
}

fn divided(scenario: &Scenario, division: (u32, u32, u32, u32)) -> PlanConfig {
    let (target_items, max_item_tokens, max_shared_run_tokens, min_shared_tokens) = division;
    PlanConfig {
        target_items,
        max_item_tokens,
        max_shared_run_tokens,
        min_shared_tokens,
        ..scenario.config()
    }
}

proptest! {
    #![proptest_config(proptest_config(32))]

    #[test]
    fn shifting_every_position_changes_no_bit(scenario in scenarios(), shift in 1u32..1 << 29) {
        let mut shifted = scenario.clone();
        for request in &mut shifted.requests {
            request.tail_start += shift;
            for (_, start) in &mut request.documents {
                *start += shift;
            }
        }
        prop_assert_eq!(first_difference(&run(&scenario), &run(&shifted)), None);
    }

    #[test]
    fn reading_a_document_once_for_all_or_once_for_each_changes_no_bit(scenario in scenarios()) {
        prop_assert_eq!(first_difference(&run(&scenario), &run_apart(&scenario)), None);
    }

    #[test]
    fn a_request_gets_the_same_bits_alone_and_in_a_batch(scenario in scenarios()) {
        let together = run(&scenario);
        let mut alone = Vec::new();
        for request in &scenario.requests {
            alone.extend(run(&Scenario { requests: vec![request.clone()], ..scenario.clone() }));
        }
        prop_assert_eq!(first_difference(&together, &alone), None);
    }

    #[test]
    fn dividing_the_work_otherwise_changes_no_bit(scenario in scenarios(), division in divisions()) {
        let otherwise = run_as(&scenario, divided(&scenario, division));
        prop_assert_eq!(first_difference(&run(&scenario), &otherwise), None);
    }

    #[test]
    fn one_partial_per_item_stays_within_the_tolerance(scenario in scenarios(), division in divisions()) {
        let config = PlanConfig { partials: PartialsPer::Item, ..divided(&scenario, division) };
        let got = scenario.run(config, CpuIsa::detect());
        for (got, (want, tolerance)) in got.into_iter().zip(scenario.oracle()) {
            prop_assert!((f64::from(got) - want).abs() <= tolerance);
        }
    }

    #[test]
    fn running_a_text_in_chunks_gives_the_bits_of_running_it_whole(
        scenario in scenarios(),
        length in 2u32..60,
        cut in any::<prop::sample::Index>(),
    ) {
        let cut = 1 + cut.index(length as usize - 1) as u32;
        let with_tail = |num_stored: u32| {
            let mut request = scenario.requests[0].clone();
            (request.num_stored, request.num_tokens) = (num_stored, length - num_stored);
            run(&Scenario { requests: vec![request], ..scenario.clone() })
        };
        let (whole, rest) = (with_tail(0), with_tail(cut));
        prop_assert_eq!(first_difference(&whole[whole.len() - rest.len()..], &rest), None);
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let scenario = Scenario::new(SHAPE, &[300, 700]).request(0, &[0, 1], 3, 1).request(0, &[1, 0], 0, 40);
    let with_threads = |num_threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
        pool.install(|| run(&scenario))
    };
    assert_eq!(with_threads(1), with_threads(3));
}

#[test]
fn the_block_size_changes_no_bit() {
    let with_blocks_of = |block_size| {
        let shape = Shape { block_size, ..SHAPE };
        run(&Scenario::new(shape, &[300, 33]).request(0, &[0, 1], 3, 1).request(0, &[1, 0], 0, 20))
    };
    let want = with_blocks_of(16);
    for block_size in [1, 2, 4, 8, 32, 64, 128, 256] {
        assert_eq!(with_blocks_of(block_size), want, "blocks of {block_size}");
    }
}
