//! The inner kernel: a tile of `R` query rows against one unit of keys.
//!
//! ```text
//! s_j = <q, k_j>          m = max s_j          p_j = 2^(s_j - m)          l = sum p_j          o = sum p_j v_j
//! ```
//!
//! `q` carries `softmax_scale * log2(e)`. The order of operations of a row depends on the row and the unit only, never on
//! `R`, on the other rows of the tile or on how the rows were grouped; keys that only other rows see enter as `p = 0`.

// Loops over an index keep several arrays in lockstep, which is what the vectoriser looks for.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use lazy_attn_types::BlockId;

use super::element::Element;
use crate::isa::{Isa, LANES, exp2, reduce_max, reduce_sum, window};
use crate::rope::MAX_ROTARY_DIM;

/// Most keys of a unit.
pub(super) const MAX_UNIT: usize = 256;
/// Most rows of a tile.
pub(super) const MAX_TILE: usize = 8;

const MAX_DIM: usize = MAX_ROTARY_DIM;

/// Where the keys and values of a unit are.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnitKeys<'a, E> {
    /// The layer: `[num_blocks, num_kv_heads, 2, head_dim * block_size]`.
    pub(super) layer: &'a [E],
    /// Blocks of the segment from its token 0 on.
    pub(super) blocks: &'a [BlockId],
    /// Elements from one block to the next.
    pub(super) block_elements: usize,
    /// Where the KV head begins inside a block.
    pub(super) head_at: usize,
    pub(super) block_size: usize,
    pub(super) head_dim: usize,
    /// Segment-local index of the unit's first key.
    pub(super) first_key: usize,
    /// Keys of the unit.
    pub(super) num_keys: usize,
}

impl<'a, E: Element> UnitKeys<'a, E> {
    /// Keys `[head_dim][block_size]` and values `[block_size][head_dim]` of the block that holds key `index` of the
    /// unit, and the slot of that key.
    #[inline(always)]
    pub(super) fn locate(&self, index: usize) -> (&'a [E], &'a [E], usize) {
        let local = self.first_key + index;
        // Block sizes are powers of two; a division here would cost as much as a vector of scores.
        let entry = local >> self.block_size.trailing_zeros();
        let slot = local & (self.block_size - 1);
        let at = self.blocks[entry].0 as usize * self.block_elements + self.head_at;
        let half = self.block_size * self.head_dim;
        let (keys, values) = self.layer[at..at + 2 * half].split_at(half);
        (keys, values, slot)
    }
}

/// What a tile reads, and what is worth fetching meanwhile.
///
/// Blocks are scattered, so the hardware does not see the next one coming. While scores are computed the values of the
/// same keys are fetched, while values are summed the keys of the next unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reads<'a, E> {
    pub(super) unit: UnitKeys<'a, E>,
    /// Its keys, rotated, if they are stored raw: `[keys / 16, head_dim, 16]`; else empty.
    pub(super) turned: &'a [f32],
    pub(super) next: Option<UnitKeys<'a, E>>,
    /// Whether other tiles have read, or fetched, all of this before.
    pub(super) is_fetched: bool,
}

/// Keys of the unit a row sees, counted from the unit's first key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Bounds {
    pub(super) begin: u32,
    pub(super) end: u32,
}

/// Working memory of a tile; about 50 KB, one per task, on its stack.
#[repr(align(64))]
pub(super) struct Tile {
    /// Rotated and scaled queries, `[head_dim][R]`.
    pub(super) q: [f32; MAX_DIM * MAX_TILE],
    /// Scores, then probabilities, `[R][MAX_UNIT]`.
    scores: [[f32; MAX_UNIT]; MAX_TILE],
    /// Sums of values, `[R][head_dim]`.
    pub(super) out: [[f32; MAX_DIM]; MAX_TILE],
    /// Largest score per row.
    pub(super) max: [f32; MAX_TILE],
    /// Sum of probabilities per row; zero for a row that sees nothing.
    pub(super) sum: [f32; MAX_TILE],
    /// Sixteen keys of blocks smaller than that, `[head_dim][16]`.
    stage: [f32; MAX_DIM * LANES],
}

impl Tile {
    pub(super) const ZERO: Tile = Tile {
        q: [0.0; MAX_DIM * MAX_TILE],
        scores: [[0.0; MAX_UNIT]; MAX_TILE],
        out: [[0.0; MAX_DIM]; MAX_TILE],
        max: [0.0; MAX_TILE],
        sum: [0.0; MAX_TILE],
        stage: [0.0; MAX_DIM * LANES],
    };

    /// Fills `out`, `max` and `sum` of the first `R` rows. At least one row sees a key.
    #[inline(always)]
    pub(super) fn run<I: Isa, E: Element, const R: usize>(
        &mut self,
        reads: &Reads<'_, E>,
        bounds: &[Bounds; R],
    ) {
        let seen = bounds.iter().filter(|row| row.begin < row.end);
        let begin = seen.clone().map(|row| row.begin as usize).min().unwrap_or(0);
        let end = seen.map(|row| row.end as usize).max().unwrap_or(0);
        let groups = begin / LANES * LANES..end;
        for first in groups.clone().step_by(LANES) {
            self.score_group::<I, E, R>(reads, first, end);
        }
        for row in 0..R {
            self.softmax_row::<I>(row, bounds[row], groups.start..end.next_multiple_of(LANES));
            self.out[row][..reads.unit.head_dim].fill(0.0);
        }
        for first in groups.step_by(LANES) {
            self.sum_group::<I, E, R>(reads, first, end);
        }
    }

    /// Scores of sixteen keys from `first` on; those at `end` and beyond mean nothing.
    #[inline(always)]
    fn score_group<I: Isa, E: Element, const R: usize>(
        &mut self,
        reads: &Reads<'_, E>,
        first: usize,
        end: usize,
    ) {
        let keys = &reads.unit;
        let head_dim = keys.head_dim;
        let q = &self.q[..head_dim * R];
        let scores = if let Some(block) = reads.turned.get(first * head_dim..(first + LANES) * head_dim) {
            dot::<I, f32, R>(q, KeyVectors { block, stride: LANES, slot: 0 }, &[])
        } else if keys.block_size >= LANES {
            let (block, values, slot) = keys.locate(first);
            let soon =
                if reads.is_fetched { &[] } else { &values[slot * head_dim..(slot + LANES) * head_dim] };
            dot::<I, E, R>(q, KeyVectors { block, stride: keys.block_size, slot }, soon)
        } else {
            for lane in 0..LANES.min(end - first) {
                let (block, _, slot) = keys.locate(first + lane);
                for dim in 0..head_dim {
                    self.stage[dim * LANES + lane] = block[dim * keys.block_size + slot].widen();
                }
            }
            let block = &self.stage[..head_dim * LANES];
            dot::<I, f32, R>(q, KeyVectors { block, stride: LANES, slot: 0 }, &[])
        };
        for row in 0..R {
            store::<I>(scores[row], &mut self.scores[row], first);
        }
    }

    /// Turns the scores of a row into probabilities relative to the largest it sees; what it does not see becomes zero.
    #[inline(always)]
    fn softmax_row<I: Isa>(&mut self, row: usize, bounds: Bounds, computed: Range<usize>) {
        let scores = &mut self.scores[row][..computed.end];
        let seen =
            bounds.begin.max(computed.start as u32) as usize..bounds.end.min(computed.end as u32) as usize;
        if seen.is_empty() {
            scores[computed].fill(0.0);
            self.sum[row] = 0.0;
            return;
        }
        scores[computed.start..seen.start].fill(f32::NEG_INFINITY);
        scores[seen.end..].fill(f32::NEG_INFINITY);
        let (vectors, _) = scores[computed].as_chunks_mut::<LANES>();
        let mut largest = I::splat(f32::NEG_INFINITY);
        for vector in vectors.iter() {
            largest = I::max(largest, I::load(vector));
        }
        let max = reduce_max::<I>(largest);
        for score in vectors.as_flattened_mut() {
            *score = exp2::<I>(*score - max);
        }
        let mut sum = I::splat(0.0);
        for vector in vectors.iter() {
            sum = I::add(sum, I::load(vector));
        }
        self.max[row] = max;
        self.sum[row] = reduce_sum::<I>(sum);
    }

    /// Adds the values of up to sixteen keys from `first` on, stopping at `end`: later slots may be unwritten.
    #[inline(always)]
    fn sum_group<I: Isa, E: Element, const R: usize>(
        &mut self,
        reads: &Reads<'_, E>,
        first: usize,
        end: usize,
    ) {
        let keys = &reads.unit;
        if let Some(next) = reads.next
            && first < next.num_keys
            && keys.block_size >= LANES
        {
            let (block, _, slot) = next.locate(first);
            for row in block.chunks_exact(keys.block_size) {
                fetch::<I, E>(&row[slot..], LANES);
            }
        }
        let run = keys.block_size.min(LANES);
        let last = end.min(first + LANES);
        for at in (first..last).step_by(run) {
            let (_, block, slot) = keys.locate(at);
            let values = &block[slot * keys.head_dim..];
            let count = run.min(last - at);
            let values = &values[..count * keys.head_dim];
            let panel = if R <= 4 { I::PANEL } else { I::PANEL.div_ceil(2) };
            let num_vectors = keys.head_dim / LANES;
            let mut vector = 0;
            if panel == 4 {
                while vector + 4 <= num_vectors {
                    self.accumulate::<I, E, R, 4>(values, keys.head_dim, vector * LANES, at);
                    vector += 4;
                }
            }
            if panel >= 2 {
                while vector + 2 <= num_vectors {
                    self.accumulate::<I, E, R, 2>(values, keys.head_dim, vector * LANES, at);
                    vector += 2;
                }
            }
            while vector < num_vectors {
                self.accumulate::<I, E, R, 1>(values, keys.head_dim, vector * LANES, at);
                vector += 1;
            }
        }
    }

    /// Adds `values` (`[keys][head_dim]`), times the probabilities from key `at` on, to `P` vectors of every row.
    #[inline(always)]
    fn accumulate<I: Isa, E: Element, const R: usize, const P: usize>(
        &mut self,
        values: &[E],
        head_dim: usize,
        dim: usize,
        at: usize,
    ) {
        let mut sums = [[I::splat(0.0); P]; R];
        let mut weights = [&[0.0; LANES]; R];
        for row in 0..R {
            for vector in 0..P {
                sums[row][vector] = I::load(window(&self.out[row], dim + vector * LANES, &f32::ZEROS));
            }
            // Units are whole vectors, so the sixteen weights around `at` lie inside the array.
            weights[row] = window(&self.scores[row], at / LANES * LANES, &f32::ZEROS);
        }
        for (index, value) in values.chunks_exact(head_dim).enumerate() {
            let mut loaded = [I::splat(0.0); P];
            for vector in 0..P {
                loaded[vector] = E::load::<I>(window(value, dim + vector * LANES, &E::ZEROS));
            }
            for row in 0..R {
                let weight = I::splat(weights[row][(at + index) % LANES]);
                for vector in 0..P {
                    sums[row][vector] = I::mul_add_v(weight, loaded[vector], sums[row][vector]);
                }
            }
        }
        for row in 0..R {
            for vector in 0..P {
                store::<I>(sums[row][vector], &mut self.out[row], dim + vector * LANES);
            }
        }
    }
}

#[inline(always)]
fn store<I: Isa>(vector: I::Vector, values: &mut [f32], at: usize) {
    if let Some(out) = values.get_mut(at..).and_then(|tail| tail.first_chunk_mut()) {
        I::store(vector, out);
    }
}

/// Sixteen keys: `block` is `[head_dim][stride]`, they are at `slot` of each row.
struct KeyVectors<'a, E> {
    block: &'a [E],
    stride: usize,
    slot: usize,
}

/// Dot products of `R` queries (`q`: `[head_dim][R]`) with sixteen keys, fetching `soon` meanwhile.
///
/// Even and odd dimensions are summed apart, so that a few rows already fill the multiply-add pipeline.
#[inline(always)]
fn dot<I: Isa, E: Element, const R: usize>(q: &[f32], keys: KeyVectors<'_, E>, soon: &[E]) -> [I::Vector; R] {
    let KeyVectors { block, stride, slot } = keys;
    let mut even = [I::splat(0.0); R];
    let mut odd = [I::splat(0.0); R];
    let (queries, _) = q.as_chunks::<R>();
    for (index, (pair, key)) in queries.chunks_exact(2).zip(block.chunks_exact(2 * stride)).enumerate() {
        if let Some(line) = soon.get(index * 2 * LANES..) {
            fetch::<I, E>(line, 2 * LANES);
        }
        let first = E::load::<I>(window(key, slot, &E::ZEROS));
        let second = E::load::<I>(window(key, stride + slot, &E::ZEROS));
        for row in 0..R {
            even[row] = I::mul_add_v(I::splat(pair[0][row]), first, even[row]);
            odd[row] = I::mul_add_v(I::splat(pair[1][row]), second, odd[row]);
        }
    }
    for row in 0..R {
        even[row] = I::add(even[row], odd[row]);
    }
    even
}

/// Asks for the cache lines of the first `count` of `values`.
#[inline(always)]
fn fetch<I: Isa, E: Element>(values: &[E], count: usize) {
    let per_line = 64 / size_of::<E>();
    for at in (0..count).step_by(per_line) {
        if let Some(value) = values.get(at) {
            I::prefetch(value);
        }
    }
}
