//! Keys that are stored as they are, and rotated each time they are read; for comparison (MEPIC).
//!
//! Keys are rotated to their places in the segment, so that all rows of an item share the work, wherever their contexts
//! have the segment. Cosines and sines of every place are computed once and kept, as other engines do.

use super::element::Element;
use super::unit::UnitKeys;
use crate::isa::{Isa, LANES, window};
use crate::rope::{Angles, RopeTable};

/// Cosines and sines of places `0..`; grows to the longest segment.
#[derive(Debug, Default)]
pub(super) struct PlaceAngles {
    num_pairs: usize,
    /// `[num_places / 16, num_pairs, 2, 16]`: cosines, then sines.
    values: Vec<f32>,
}

impl PlaceAngles {
    /// Makes room for places below `num_places`.
    pub(super) fn grow<I: Isa>(&mut self, rope: &RopeTable, num_places: usize) {
        self.num_pairs = rope.rotary_dim() / 2;
        let group_elements = self.num_pairs * 2 * LANES;
        if group_elements == 0 {
            return;
        }
        let mut angles = Angles::ZERO;
        for group in self.values.len() / group_elements..num_places.div_ceil(LANES) {
            let begin = self.values.len();
            self.values.resize(begin + group_elements, 0.0);
            let values = &mut self.values[begin..];
            for lane in 0..LANES {
                // A segment is no longer than positions go.
                rope.angles::<I>((group * LANES + lane) as i32, &mut angles);
                for pair in 0..self.num_pairs {
                    values[pair * 2 * LANES + lane] = angles.cos[pair];
                    values[pair * 2 * LANES + LANES + lane] = angles.sin[pair];
                }
            }
        }
    }

    fn of_group(&self, group: usize) -> &[f32] {
        let group_elements = self.num_pairs * 2 * LANES;
        &self.values[group * group_elements..][..group_elements]
    }
}

/// Writes the keys of `unit`, rotated to their places, to `turned`: `[keys / 16, head_dim, 16]`. Keys past the last one of the
/// unit mean nothing.
#[inline(always)]
pub(super) fn turn_keys<I: Isa, E: Element>(
    unit: &UnitKeys<'_, E>,
    angles: &PlaceAngles,
    turned: &mut Vec<f32>,
) {
    let group_elements = unit.head_dim * LANES;
    turned.resize(unit.num_keys.div_ceil(LANES) * group_elements, 0.0);
    for (group, out) in turned.chunks_exact_mut(group_elements).enumerate() {
        load_group::<I, E>(unit, group * LANES, out);
        // Units begin at multiples of sixteen.
        let angles = angles.of_group(unit.first_key / LANES + group);
        let (lows, rest) = out.split_at_mut(angles.len() / 2);
        let rows = lows.chunks_exact_mut(LANES).zip(rest.chunks_exact_mut(LANES));
        for ((low, high), pair) in rows.zip(angles.chunks_exact(2 * LANES)) {
            let (cos, sin) = pair.split_at(LANES);
            for lane in 0..LANES {
                let (x, y) = (low[lane], high[lane]);
                low[lane] = I::mul_add(x, cos[lane], -(y * sin[lane]));
                high[lane] = I::mul_add(y, cos[lane], x * sin[lane]);
            }
        }
    }
}

/// Sixteen keys from `first` on, to `[head_dim, 16]`.
#[inline(always)]
fn load_group<I: Isa, E: Element>(unit: &UnitKeys<'_, E>, first: usize, out: &mut [f32]) {
    if unit.block_size >= LANES {
        let (block, _, slot) = unit.locate(first);
        let (rows, _) = out.as_chunks_mut::<LANES>();
        for (dim, row) in rows.iter_mut().enumerate() {
            I::store(E::load::<I>(window(block, dim * unit.block_size + slot, &E::ZEROS)), row);
        }
        return;
    }
    for lane in 0..LANES.min(unit.num_keys - first) {
        let (block, _, slot) = unit.locate(first + lane);
        for dim in 0..unit.head_dim {
            out[dim * LANES + lane] = block[dim * unit.block_size + slot].widen();
        }
    }
}
