//! Keys that are stored raw, and keys that were re-encoded, against the oracle.

// Helpers outside test functions may unwrap too.
#![allow(clippy::unwrap_used)]

mod common;

use common::{LAYER, SHAPE, Scenario, Shape};
use lazy_attn::reencode::reencoded_blocks;
use lazy_attn::{CpuIsa, KvDtype};
use lazy_attn_types::{Position, Reencoding, SegmentHandle, StepInput, StoredKeys};

/// `errors`: how often each of the errors that the tolerance adds up is made at most.
fn assert_close(scenario: &Scenario, got: &[f32], errors: f64) {
    let want = scenario.oracle();
    assert_eq!(got.len(), want.len());
    for (index, (&got, (want, tolerance))) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(
            error <= errors * tolerance,
            "element {index}: {got} is not {want} within {errors} x {tolerance} in {scenario:?}"
        );
    }
}

/// Documents around the borders of blocks and units, read by one and by several, by many rows and by few.
fn scenarios(change: fn(Shape) -> Shape) -> Vec<Scenario> {
    let one = Scenario::new(change(SHAPE), &[1, 16, 300]).request(900, &[0, 1, 2], 3, 2);
    let several = Scenario::new(change(SHAPE), &[40, 270, 33]);
    let several = several.request(1000, &[0, 1, 2], 3, 1).request(800, &[2, 1, 0], 0, 20);
    let window = Scenario { window: Some(290), ..several.clone() };
    vec![one, several, window]
}

fn run_raw(scenario: &Scenario) -> Vec<f32> {
    let raw = |input: StepInput| StepInput { stored_keys: StoredKeys::Raw, ..input };
    scenario.run_changed(scenario.config(), CpuIsa::detect(), raw)
}

#[test]
fn keys_rotated_when_they_are_read_give_what_rotated_keys_give() {
    let changes: [fn(Shape) -> Shape; 5] = [
        |shape| shape,
        |shape| Shape { dtype: KvDtype::F32, ..shape },
        |shape| Shape { block_size: 4, dtype: KvDtype::F32, ..shape },
        |shape| Shape { head_dim: 96, rotary_dim: 24, dtype: KvDtype::F32, ..shape },
        |shape| Shape { rotary_dim: 0, ..shape },
    ];
    for scenario in changes.into_iter().flat_map(scenarios) {
        // A key is rounded before it is rotated instead of behind it.
        assert_close(&scenario, &run_raw(&scenario), 2.0);
    }
}

/// How far document `index` was moved after it was encoded.
fn distance(index: usize) -> i32 {
    [777, -5, 123][index % 3]
}

/// Every document is encoded at position 500 and moved by its distance; so it is read as rotated from elsewhere.
fn run_moved(scenario: &Scenario) -> Vec<f32> {
    let config = scenario.config();
    let (mut attention, mut store) = scenario.backend(config, CpuIsa::detect());
    let num_documents = scenario.documents.len() as u64;
    let is_document = |handle: SegmentHandle| handle.0 < num_documents;
    let (mut encode, mut query) = (scenario.encode_step(), scenario.query_step());
    for view in encode.segments.iter_mut().filter(|view| is_document(view.handle)) {
        (view.start, view.origin) = (Position(500), Position(500));
    }
    for view in query.segments.iter_mut().filter(|view| is_document(view.handle)) {
        let origin = view.start.0 as i32 - distance(view.handle.0 as usize);
        view.origin = Position(u32::try_from(origin).unwrap());
    }
    let moved = encode.segments.iter().filter(|view| is_document(view.handle)).map(|view| Reencoding {
        from: view.handle,
        from_block: view.first_block,
        to: view.handle,
        to_block: view.first_block,
        num_tokens: view.num_tokens,
        distance: distance(view.handle.0 as usize),
    });
    encode.reencodings = moved.collect();
    let copies = reencoded_blocks(&encode, config.block_size);
    let mut num_steps = 0;
    scenario.run_inputs(config, [encode, query], |plan, rows| {
        if num_steps == 1 {
            attention.reencode(&mut store, &copies).unwrap();
        }
        num_steps += 1;
        attention.append(&mut store, LAYER, plan, &rows.k, &rows.v).unwrap();
        let mut out = vec![f32::NAN; rows.q.len()];
        attention.attend(&store, LAYER, plan, &rows.q, &mut out).unwrap();
        out
    })
}

#[test]
fn documents_that_came_to_another_position_give_what_they_give_there() {
    let changes: [fn(Shape) -> Shape; 4] = [
        |shape| shape,
        |shape| Shape { dtype: KvDtype::F32, ..shape },
        |shape| Shape { block_size: 4, dtype: KvDtype::Bf16, ..shape },
        |shape| Shape { head_dim: 96, rotary_dim: 24, dtype: KvDtype::F32, ..shape },
    ];
    for scenario in changes.into_iter().flat_map(scenarios) {
        // A key is rotated and rounded twice.
        assert_close(&scenario, &run_moved(&scenario), 2.0);
    }
}
