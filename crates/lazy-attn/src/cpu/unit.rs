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

use lazy_attn_types::BlockId;

use super::element::Element;
use crate::lanes::{Isa, LANES, Lanes, exp2, window};
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
}

impl<'a, E: Element> UnitKeys<'a, E> {
    /// Keys `[head_dim][block_size]` and values `[block_size][head_dim]` of the block that holds key `index` of the
    /// unit, and the slot of that key.
    #[inline(always)]
    fn locate(&self, index: usize) -> (&'a [E], &'a [E], usize) {
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
        keys: &UnitKeys<'_, E>,
        bounds: &[Bounds; R],
    ) {
        let seen = bounds.iter().filter(|row| row.begin < row.end);
        let begin = seen.clone().map(|row| row.begin as usize).min().unwrap_or(0);
        let end = seen.map(|row| row.end as usize).max().unwrap_or(0);
        let groups = begin / LANES * LANES..end;
        let mut largest = [Lanes::splat(f32::NEG_INFINITY); R];
        for first in groups.clone().step_by(LANES) {
            let scores = self.score_group::<I, E, R>(keys, first, end);
            for row in 0..R {
                let Bounds { begin, end } = bounds[row];
                let at = first as u32;
                let all = begin <= at && at + LANES as u32 <= end;
                let masked = if all { scores[row] } else { scores[row].mask_outside(at, begin, end) };
                largest[row] = largest[row].max(masked);
                masked.store(&mut self.scores[row], first);
            }
        }
        for row in 0..R {
            self.softmax_row::<I>(row, largest[row].reduce_max(), groups.clone());
            self.out[row][..keys.head_dim].fill(0.0);
        }
        for first in groups.step_by(LANES) {
            self.sum_group::<I, E, R>(keys, first, end);
        }
    }

    /// Scores of sixteen keys from `first` on; those at `end` and beyond mean nothing.
    #[inline(always)]
    fn score_group<I: Isa, E: Element, const R: usize>(
        &mut self,
        keys: &UnitKeys<'_, E>,
        first: usize,
        end: usize,
    ) -> [Lanes; R] {
        let head_dim = keys.head_dim;
        if keys.block_size >= LANES {
            let (block, _, slot) = keys.locate(first);
            return dot::<I, E, R>(&self.q[..head_dim * R], block, keys.block_size, slot);
        }
        for lane in 0..LANES.min(end - first) {
            let (block, _, slot) = keys.locate(first + lane);
            for dim in 0..head_dim {
                self.stage[dim * LANES + lane] = block[dim * keys.block_size + slot].widen();
            }
        }
        dot::<I, f32, R>(&self.q[..head_dim * R], &self.stage[..head_dim * LANES], LANES, 0)
    }

    /// Turns the scores of a row into probabilities relative to its largest score.
    #[inline(always)]
    fn softmax_row<I: Isa>(&mut self, row: usize, max: f32, groups: std::ops::Range<usize>) {
        // A row that sees nothing has only -inf; relative to 0 these become zeros instead of NaNs.
        let base = if max == f32::NEG_INFINITY { 0.0 } else { max };
        let mut sum = Lanes::ZERO;
        for first in groups.step_by(LANES) {
            let scores = Lanes::load(&self.scores[row], first);
            let probabilities = scores.map(|score| exp2::<I>(score - base));
            sum = sum.add(probabilities);
            probabilities.store(&mut self.scores[row], first);
        }
        self.max[row] = max;
        self.sum[row] = sum.reduce_sum();
    }

    /// Adds the values of up to sixteen keys from `first` on, stopping at `end`: later slots may be unwritten.
    #[inline(always)]
    fn sum_group<I: Isa, E: Element, const R: usize>(
        &mut self,
        keys: &UnitKeys<'_, E>,
        first: usize,
        end: usize,
    ) {
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
        let mut sums = [[Lanes::ZERO; P]; R];
        let mut weights = [&[0.0; LANES]; R];
        for row in 0..R {
            for vector in 0..P {
                sums[row][vector] = Lanes::load(&self.out[row], dim + vector * LANES);
            }
            // A run shorter than sixteen keys near the unit's end still lies inside the array: units are whole vectors.
            let first = at / LANES * LANES;
            weights[row] = window(&self.scores[row], first, &[0.0; LANES]);
        }
        for (index, value) in values.chunks_exact(head_dim).enumerate() {
            let mut loaded = [Lanes::ZERO; P];
            for vector in 0..P {
                loaded[vector] = E::widen_lanes(window(value, dim + vector * LANES, &E::ZEROS));
            }
            for row in 0..R {
                let weight = Lanes::splat(weights[row][(at + index) % LANES]);
                for vector in 0..P {
                    sums[row][vector] = weight.mul_add::<I>(loaded[vector], sums[row][vector]);
                }
            }
        }
        for row in 0..R {
            for vector in 0..P {
                sums[row][vector].store(&mut self.out[row], dim + vector * LANES);
            }
        }
    }
}

/// Dot products of `R` queries (`q`: `[head_dim][R]`) with sixteen keys at `slot` of `keys` (`[head_dim][stride]`).
///
/// Even and odd dimensions are summed apart, so that a few rows already fill the multiply-add pipeline.
#[inline(always)]
fn dot<I: Isa, E: Element, const R: usize>(q: &[f32], keys: &[E], stride: usize, slot: usize) -> [Lanes; R] {
    let mut even = [Lanes::ZERO; R];
    let mut odd = [Lanes::ZERO; R];
    let (queries, _) = q.as_chunks::<R>();
    for (pair, key) in queries.chunks_exact(2).zip(keys.chunks_exact(2 * stride)) {
        let first = E::widen_lanes(window(key, slot, &E::ZEROS));
        let second = E::widen_lanes(window(key, stride + slot, &E::ZEROS));
        for row in 0..R {
            even[row] = Lanes::splat(pair[0][row]).mul_add::<I>(first, even[row]);
            odd[row] = Lanes::splat(pair[1][row]).mul_add::<I>(second, odd[row]);
        }
    }
    for row in 0..R {
        even[row] = even[row].add(odd[row]);
    }
    even
}
