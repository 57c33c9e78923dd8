//! The cases that every backend is tested with: [`every_case`] makes a test of each, which hands its scenarios to a check.

use std::ops::Range;

use lazy_attn::KvDtype;

use super::{Scenario, Shape};

/// What kernels of every backend take.
pub(crate) const SHAPE: Shape = Shape {
    num_kv_heads: 2,
    group_size: 4,
    head_dim: 128,
    rotary_dim: 128,
    block_size: 16,
    dtype: KvDtype::Bf16,
};

/// `every_case!(check)`: a test for each function of this module, whose scenarios it hands to `check`.
#[allow(unused_macros)]
macro_rules! every_case {
    ($check:path) => {
        every_case! { $check:
            plain_causal_attention_is_one_segment
            documents_are_read_at_any_place_in_any_order
            every_dtype_head_dim_and_block_size_works
            every_gqa_ratio_works
            partial_rotary_works
            lengths_around_the_borders_of_blocks_and_tiles_work
            thousands_of_segments_and_one_document_twice_work
            many_requests_read_one_document_at_different_places
            two_hundred_and_fifty_six_requests_read_one_document
            documents_placed_at_the_same_start_do_not_disturb_each_other
            empty_documents_are_passed_over
            views_show_a_range_of_a_document
            contexts_that_see_other_ranges_of_one_document_do_not_disturb_each_other
            runs_that_store_what_they_read_work_at_any_length
            rows_around_the_borders_of_tile_classes_work
            windows_end_where_they_say
            positions_up_to_two_to_the_thirty_are_exact
            large_and_equal_scores_neither_overflow_nor_drown_the_others
        }
    };
    ($check:path: $($case:ident)*) => {
        $(#[test]
        fn $case() {
            for scenario in $crate::common::cases::$case() {
                $check(&scenario);
            }
        })*
    };
}

pub(crate) fn plain_causal_attention_is_one_segment() -> Vec<Scenario> {
    let run = |base, num_tokens| Scenario::new(SHAPE, &[]).request(base, &[], 0, num_tokens);
    vec![run(0, 70), run(300, 5), run(700, 1)]
}

pub(crate) fn documents_are_read_at_any_place_in_any_order() -> Vec<Scenario> {
    let documents = [40, 23, 300];
    vec![Scenario::new(SHAPE, &documents).request(0, &[0, 1, 2], 3, 1).request(0, &[2, 1, 0], 0, 4)]
}

pub(crate) fn every_dtype_head_dim_and_block_size_works() -> Vec<Scenario> {
    let mut all = Vec::new();
    for dtype in [KvDtype::F16, KvDtype::Bf16] {
        for (head_dim, block_size) in [(64, 16), (64, 32), (64, 64), (128, 16), (128, 32), (128, 64)] {
            let shape = Shape { dtype, head_dim, rotary_dim: head_dim, block_size, ..SHAPE };
            let scenario = Scenario::new(shape, &[40, 270, 16]).request(5, &[0, 1, 2], 3, 1);
            all.push(scenario.request(0, &[1, 0], 0, 20));
        }
    }
    all
}

pub(crate) fn every_gqa_ratio_works() -> Vec<Scenario> {
    let of = |group_size| {
        let shape = Shape { group_size, ..SHAPE };
        Scenario::new(shape, &[40, 133]).request(0, &[0, 1], 3, 1).request(0, &[1, 0], 2, 9)
    };
    (1..=16).map(of).collect()
}

pub(crate) fn partial_rotary_works() -> Vec<Scenario> {
    let of = |(head_dim, rotary_dim)| {
        let shape = Shape { head_dim, rotary_dim, ..SHAPE };
        Scenario::new(shape, &[40, 133]).request(9, &[0, 1], 3, 1).request(0, &[1, 0], 2, 9)
    };
    [(64, 32), (64, 16), (128, 64), (128, 96), (128, 0)].map(of).into()
}

pub(crate) fn lengths_around_the_borders_of_blocks_and_tiles_work() -> Vec<Scenario> {
    let documents = [1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257];
    let all: Vec<usize> = (0..documents.len()).collect();
    let reversed: Vec<usize> = all.iter().rev().copied().collect();
    let of_dim = |head_dim| {
        let shape = Shape { head_dim, rotary_dim: head_dim, ..SHAPE };
        let scenario = Scenario::new(shape, &documents).request(0, &all, 3, 1);
        scenario.request(0, &reversed, 63, 2).request(0, &[4, 5, 6], 127, 3)
    };
    let of_length = |length| Scenario::new(SHAPE, &[length]).request(0, &[0], 0, 1);
    [64, 128].map(of_dim).into_iter().chain([4095, 4096, 4097].map(of_length)).collect()
}

pub(crate) fn thousands_of_segments_and_one_document_twice_work() -> Vec<Scenario> {
    let many = |count: u32, longest: u32| {
        let documents: Vec<u32> = (0..count).map(|index| 1 + index % longest).collect();
        let all: Vec<usize> = (0..count as usize).collect();
        Scenario::new(Shape { num_kv_heads: 1, group_size: 2, ..SHAPE }, &documents).request(0, &all, 3, 2)
    };
    let twice = |num_tokens| Scenario::new(SHAPE, &[70, 7]).request(0, &[0, 1, 0, 0], 3, num_tokens);
    vec![many(1000, 19), many(4000, 2), twice(1), twice(2)]
}

pub(crate) fn many_requests_read_one_document_at_different_places() -> Vec<Scenario> {
    let of = |num_requests| {
        let scenario = Scenario::new(SHAPE, &[200, 30]);
        (0..num_requests).fold(scenario, |scenario, request| {
            scenario.request(17 * request, &[request as usize % 2, 0], request, 1)
        })
    };
    [2, 3, 4, 5, 8, 16, 17, 32, 33, 64, 65].map(of).into()
}

pub(crate) fn two_hundred_and_fifty_six_requests_read_one_document() -> Vec<Scenario> {
    let scenario = Scenario::new(Shape { num_kv_heads: 1, group_size: 2, ..SHAPE }, &[150]);
    let add = |scenario: Scenario, request: u32| scenario.request(31 * request, &[0], request % 7, 1);
    vec![(0..256).fold(scenario, add)]
}

pub(crate) fn documents_placed_at_the_same_start_do_not_disturb_each_other() -> Vec<Scenario> {
    let mut scenario = Scenario::new(SHAPE, &[50, 40]).request(0, &[0, 1], 3, 2);
    scenario.requests[0].documents[1].1 = 0;
    vec![scenario]
}

pub(crate) fn empty_documents_are_passed_over() -> Vec<Scenario> {
    let scenario = Scenario::new(SHAPE, &[0, 70, 0]);
    vec![scenario.request(4, &[0], 0, 1).request(0, &[0, 1, 2, 0], 3, 1).request(0, &[2, 1, 0], 0, 20)]
}

pub(crate) fn views_show_a_range_of_a_document() -> Vec<Scenario> {
    // Beginnings and ends around the borders of blocks, tiles and units.
    views_of(&[16..300, 64..300, 80..299, 256..300, 272..273, 0..17, 16..16, 0..300], 32, 112)
}

/// For kernels whose views begin anywhere.
#[allow(dead_code)]
pub(crate) fn views_begin_inside_blocks() -> Vec<Scenario> {
    views_of(&[1..300, 8..292, 15..16, 31..290, 79..300, 261..263, 299..300], 37, 107)
}

/// A document of 300 tokens in each of `ranges`, from `other` on beside it, and in two pieces, the middle of which, from `border`
/// on, is another segment, as a recomputed part is.
fn views_of(ranges: &[Range<u32>], other: u32, border: u32) -> Vec<Scenario> {
    let of = |(range, num_tokens): (Range<u32>, u32)| {
        let scenario = Scenario::new(SHAPE, &[300, 40]).request(7, &[0, 1], 3, num_tokens);
        scenario.seeing(0, range).request(0, &[1, 0], 0, 20).seeing(1, other..290)
    };
    let pieces = |num_tokens| {
        let scenario = Scenario::new(SHAPE, &[300, 48]).request(9, &[0, 1, 0], 2, num_tokens);
        let mut scenario = scenario.seeing(0, 0..border).seeing(2, border + 48..300);
        // All where the whole document would be.
        let request = scenario.requests.last_mut().unwrap();
        (request.documents[1].1, request.documents[2].1, request.tail_start) = (9 + border, 9, 9 + 300);
        scenario
    };
    let all = ranges.iter().flat_map(|range| [1, 5, 40].map(|num_tokens| of((range.clone(), num_tokens))));
    all.chain([1, 17].map(pieces)).collect()
}

pub(crate) fn contexts_that_see_other_ranges_of_one_document_do_not_disturb_each_other() -> Vec<Scenario> {
    let ranges = [0..200, 16..200, 16..200, 0..200, 96..150, 16..199];
    let add = |scenario: Scenario, (request, range): (u32, Range<u32>)| {
        scenario.request(23 * request, &[request as usize % 2, 0], request, 1).seeing(1, range)
    };
    vec![(0..).zip(ranges).fold(Scenario::new(SHAPE, &[200, 30]), add)]
}

pub(crate) fn runs_that_store_what_they_read_work_at_any_length() -> Vec<Scenario> {
    let run = |num_stored, num_tokens| {
        let scenario = Scenario::new(Shape { num_kv_heads: 1, ..SHAPE }, &[100, 33]);
        scenario.request(50, &[1, 0], num_stored, num_tokens).request(7, &[0, 1], 1, 1)
    };
    let runs = [(0, 1), (15, 1), (16, 1), (17, 16), (0, 17), (63, 64), (60, 65), (0, 129), (40, 300)];
    runs.map(|(num_stored, num_tokens)| run(num_stored, num_tokens)).into()
}

pub(crate) fn rows_around_the_borders_of_tile_classes_work() -> Vec<Scenario> {
    let shape = Shape { num_kv_heads: 1, group_size: 1, ..SHAPE };
    let mut all = Vec::new();
    for rows in [15, 16, 17, 63, 64, 65, 127, 128, 129, 130] {
        let readers = Scenario::new(shape, &[140]);
        let add = |scenario: Scenario, request: u32| scenario.request(3 * request, &[0], 2, 1);
        all.push((0..rows).fold(readers, add));
        all.push(Scenario::new(shape, &[140]).request(9, &[0], 2, rows));
    }
    all
}

pub(crate) fn windows_end_where_they_say() -> Vec<Scenario> {
    // The tail token is at position 105: the window reaches a document, its edge, or only the tail.
    let short = Scenario::new(SHAPE, &[40, 60]).request(0, &[0, 1], 5, 1).request(3, &[1, 0], 2, 20);
    let long = Scenario::new(SHAPE, &[600, 600]).request(0, &[0, 1], 5, 1).request(9, &[0, 1], 600, 3);
    // Some of the rows of an item see keys of a document, others none.
    let scenario = Scenario::new(SHAPE, &[90]);
    let readers = (0..9).fold(scenario, |scenario, request| scenario.request(request, &[0], 20 * request, 1));
    let shorts = [1, 4, 5, 6, 7, 64, 65, 66, 104, 105, 106, 107, 5000].map(|window| (window, &short));
    let longs = [255, 256, 257, 511, 512, 513, 700].map(|window| (window, &long));
    let readers = [1, 30, 90, 130].map(|window| (window, &readers));
    let all = shorts.into_iter().chain(longs).chain(readers);
    all.map(|(window, scenario)| Scenario { window: Some(window), ..scenario.clone() }).collect()
}

pub(crate) fn positions_up_to_two_to_the_thirty_are_exact() -> Vec<Scenario> {
    let at = |base| Scenario::new(SHAPE, &[40, 133]).request(base, &[0, 1], 3, 1);
    vec![at(131_071), at((1 << 30) - 400)]
}

pub(crate) fn large_and_equal_scores_neither_overflow_nor_drown_the_others() -> Vec<Scenario> {
    // Scores of about +-2000: unless they are taken relative to the largest, every power overflows or vanishes.
    let scenario = Scenario::new(SHAPE, &[300, 40]).request(0, &[0, 1], 1, 1).request(0, &[1], 0, 20);
    [1024.0, 0.0].map(|query_size| Scenario { query_size, ..scenario.clone() }).into()
}
