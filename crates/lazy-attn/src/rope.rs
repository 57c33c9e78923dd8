//! Rotation angles as fixed-point turns.
//!
//! An angle `position * inv_freq` grows without bound, and a float loses it: at position 131 000 an f32 product is off
//! by 1e-3 radians. Here a frequency is a fraction of a turn with 64 bits behind the point, so that the product with an
//! integer position, modulo one turn, is exact integer arithmetic, and its top 32 bits are the angle.

use crate::{
    error::AttnError,
    isa::{Isa, cos_sin},
};

/// Largest `rotary_dim`.
pub const MAX_ROTARY_DIM: usize = 256;

const MAX_PAIRS: usize = MAX_ROTARY_DIM / 2;

/// Cosines and sines of one rotation; entries past the pairs of the table mean nothing.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub(crate) struct Angles {
    pub(crate) cos: [f32; MAX_PAIRS],
    pub(crate) sin: [f32; MAX_PAIRS],
}

impl Angles {
    pub(crate) const ZERO: Angles = Angles { cos: [1.0; MAX_PAIRS], sin: [0.0; MAX_PAIRS] };
}

/// The frequencies of a model, from which the rotation of any position follows.
///
/// Pairs are half-split: element `i` turns with element `i + rotary_dim / 2`. What lies past `rotary_dim` is not
/// rotated (partial rotary).
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// `round(inv_freq / 2 pi * 2^64)` per pair.
    turns: Vec<u64>,
}

impl RopeTable {
    /// The table of `inv_freq` (radians per position), one entry per pair; every scaling that only changes
    /// frequencies (linear, llama3, yarn) is already in them. An empty slice rotates nothing.
    ///
    /// # Errors
    /// [`AttnError::Unsupported`] for more than `MAX_ROTARY_DIM / 2` pairs or a frequency outside `[0, 2 pi)`.
    pub fn from_inv_freq(inv_freq: &[f32]) -> Result<RopeTable, AttnError> {
        if inv_freq.len() > MAX_PAIRS {
            let rule = "at most 256 dimensions rotate";
            return Err(AttnError::Unsupported {
                what: "rotary_dim",
                value: 2 * inv_freq.len() as u64,
                rule,
            });
        }
        let mut turns = Vec::with_capacity(inv_freq.len());
        for (pair, &radians) in inv_freq.iter().enumerate() {
            let fraction = f64::from(radians) / std::f64::consts::TAU;
            if !(0.0..1.0).contains(&fraction) {
                let rule = "inverse frequencies lie in [0, 2 pi)";
                return Err(AttnError::Unsupported {
                    what: "inv_freq at this index",
                    value: pair as u64,
                    rule,
                });
            }
            turns.push((fraction * 2f64.powi(64)).round() as u64);
        }
        Ok(RopeTable { turns })
    }

    /// Turns per position of every pair, times 2^64: what devices rotate by.
    #[must_use]
    pub fn turns(&self) -> &[u64] {
        &self.turns
    }

    /// Dimensions that rotate.
    #[must_use]
    pub fn rotary_dim(&self) -> usize {
        2 * self.turns.len()
    }

    /// `(cos, sin)` of every pair after moving by `distance` positions; for tests and tools, not for speed.
    #[must_use]
    pub fn cos_sin(&self, distance: i32) -> Vec<(f32, f32)> {
        let mut angles = Angles::ZERO;
        self.angles::<crate::isa::Portable>(distance, &mut angles);
        angles.cos.into_iter().zip(angles.sin).take(self.turns.len()).collect()
    }

    #[inline(always)]
    pub(crate) fn angles<I: Isa>(&self, distance: i32, out: &mut Angles) {
        // Two's complement: a negative distance turns backwards.
        let distance = i64::from(distance) as u64;
        let outputs = out.cos.iter_mut().zip(&mut out.sin);
        for (&turn, (cos, sin)) in self.turns.iter().zip(outputs) {
            let turn = (turn.wrapping_mul(distance) >> 32) as u32;
            (*cos, *sin) = cos_sin::<I>(turn);
        }
    }

    /// Rotates `row` (`[head_dim]`) into `out`, times `scale`.
    #[inline(always)]
    pub(crate) fn rotate<I: Isa>(&self, angles: &Angles, scale: f32, row: &[f32], out: &mut [f32]) {
        let pairs = self.turns.len();
        let (low, rest) = row.split_at(pairs);
        let (high, rest) = rest.split_at(pairs);
        let (out_low, out_rest) = out.split_at_mut(pairs);
        let (out_high, out_rest) = out_rest.split_at_mut(pairs);
        let (cos, sin) = (&angles.cos[..pairs], &angles.sin[..pairs]);
        for pair in 0..pairs {
            let (x, y) = (low[pair] * scale, high[pair] * scale);
            out_low[pair] = I::mul_add(x, cos[pair], -(y * sin[pair]));
            out_high[pair] = I::mul_add(y, cos[pair], x * sin[pair]);
        }
        for (out, &value) in out_rest.iter_mut().zip(rest) {
            *out = value * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn inv_freq(base: f64, pairs: usize) -> Vec<f32> {
        (0..pairs).map(|i| base.powf(-(i as f64) / pairs as f64) as f32).collect()
    }

    proptest! {
        #[test]
        fn angles_are_right_to_a_millionth_at_any_position(position in -(1i32 << 30)..=1 << 30, log_base in 2.0f64..7.0) {
            let inv_freq = inv_freq(10f64.powf(log_base), 32);
            let table = RopeTable::from_inv_freq(&inv_freq).unwrap();
            for (&(cos, sin), &radians) in table.cos_sin(position).iter().zip(&inv_freq) {
                // The reference is good to 2e-7 here: half an ulp of 2^30 radians, and the rounding of tau.
                let angle = (f64::from(radians) * f64::from(position)) % std::f64::consts::TAU;
                prop_assert!((f64::from(cos) - angle.cos()).abs() < 1e-6);
                prop_assert!((f64::from(sin) - angle.sin()).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn dimensions_past_the_rotary_ones_pass_through() {
        let table = RopeTable::from_inv_freq(&inv_freq(1e4, 2)).unwrap();
        let mut angles = Angles::ZERO;
        table.angles::<crate::isa::Portable>(5, &mut angles);
        let mut out = [0.0; 6];
        table.rotate::<crate::isa::Portable>(&angles, 2.0, &[1.0, 1.0, 0.0, 0.0, 3.0, 4.0], &mut out);
        assert_eq!(out[4..], [6.0, 8.0]);
        assert!((out[0] - 2.0 * 5f32.cos()).abs() < 1e-5 && (out[2] - 2.0 * 5f32.sin()).abs() < 1e-5);
    }

    #[test]
    fn frequencies_outside_one_turn_and_too_many_pairs_are_refused() {
        assert!(RopeTable::from_inv_freq(&[-0.1]).is_err());
        assert!(RopeTable::from_inv_freq(&[f32::NAN]).is_err());
        assert!(RopeTable::from_inv_freq(&[7.0]).is_err());
        assert!(RopeTable::from_inv_freq(&[0.5; 129]).is_err());
        assert_eq!(RopeTable::from_inv_freq(&[0.5; 128]).unwrap().rotary_dim(), 256);
    }
}
