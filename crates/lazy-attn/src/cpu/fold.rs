//! The canonical fold: how the results of units become the result of a row.
//!
//! An item that covers all of a row folds as it goes, the merge step folds what items left behind; both do it here, so
//! that a cut between units cannot be seen in the bits.

use crate::isa::{Isa, exp2, larger};

/// Elements of a partial: `head_dim` sums, the largest score, the sum of probabilities.
pub(super) fn record_elements(head_dim: usize) -> usize {
    head_dim + 2
}

/// A result that is being folded: the one of a row so far, or of one unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Weight {
    /// Largest score, base 2.
    pub(super) max: f32,
    /// Sum of probabilities relative to it; zero means that no key was seen.
    pub(super) sum: f32,
}

impl Weight {
    pub(super) const EMPTY: Weight = Weight { max: f32::NEG_INFINITY, sum: 0.0 };

    /// Splits a record into its sums of values and its weight.
    #[inline(always)]
    pub(super) fn split(record: &[f32]) -> (&[f32], Weight) {
        let (out, weight) = record.split_at(record.len() - 2);
        (out, Weight { max: weight[0], sum: weight[1] })
    }

    /// Writes the weight into its record.
    #[inline(always)]
    pub(super) fn write(self, record: &mut [f32]) {
        let at = record.len() - 2;
        record[at] = self.max;
        record[at + 1] = self.sum;
    }

    /// Folds `unit` with its sums `unit_out` into `self` with its sums `out`. A unit of which nothing was seen changes
    /// no bit, and the first unit is taken as it is.
    #[inline(always)]
    pub(super) fn fold<I: Isa>(&mut self, out: &mut [f32], unit: Weight, unit_out: &[f32]) {
        if unit.sum == 0.0 {
            return;
        }
        if self.sum == 0.0 {
            out.copy_from_slice(unit_out);
            *self = unit;
            return;
        }
        let max = larger(self.max, unit.max);
        let keep = exp2::<I>(self.max - max);
        let add = exp2::<I>(unit.max - max);
        *self = Weight { max, sum: I::mul_add(self.sum, keep, unit.sum * add) };
        for (out, &unit_out) in out.iter_mut().zip(unit_out) {
            *out = I::mul_add(*out, keep, unit_out * add);
        }
    }

    /// The fold of one unit that weighs as if its log-sum-exp were `scale` times what it is; its sums go to `scaled`.
    #[inline(always)]
    pub(super) fn with_lse_times(self, scale: f32, out: &[f32], scaled: &mut [f32]) -> Weight {
        if self.sum == 0.0 {
            return self;
        }
        let share = 1.0 / self.sum;
        for (scaled, &out) in scaled.iter_mut().zip(out) {
            *scaled = out * share;
        }
        Weight { max: (self.max + self.sum.log2()) * scale, sum: 1.0 }
    }

    /// Divides the sums by the sum of probabilities; a row that saw nothing becomes zeros.
    #[inline(always)]
    pub(super) fn normalise(self, out: &mut [f32]) {
        if self.sum == 0.0 {
            out.fill(0.0);
            return;
        }
        let scale = 1.0 / self.sum;
        for value in out {
            *value *= scale;
        }
    }
}
