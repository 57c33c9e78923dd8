//! Scalar code that LLVM turns into vectors where a kernel loops over it.

use super::LANES;

/// `e^x` for `x <= 0`, within 3e-7 of the true value, relatively; exactly 1 at 0 and 0 below -87. A NaN stays a NaN.
#[inline(always)]
pub(crate) fn exp_nonpositive(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
    const MAGIC: f32 = 12_582_912.0;
    // ln 2 in two parts: the first has trailing zeros, so its product with an exponent is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let exponent = shifted - MAGIC;
    let rest = exponent.mul_add(-LN2_LOW, exponent.mul_add(-LN2_HIGH, x));
    // Minimax coefficients of the Cephes library for e^r, |r| <= ln 2 / 2.
    let mut poly = 1.987_569_1e-4f32;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5, 1.0, 1.0] {
        poly = poly.mul_add(rest, coefficient);
    }
    let bits = shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23;
    if x < -87.0 { 0.0 } else { poly * f32::from_bits(bits) }
}

/// Sum of the lanes, as a tree: the same order on every machine.
#[inline(always)]
pub(crate) fn reduce_sum(mut lanes: [f32; LANES]) -> f32 {
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_its_stated_error() {
        for step in 0..=870_000 {
            let x = -(step as f32) / 10_000.0;
            let want = f64::from(x).exp();
            let error = (f64::from(exp_nonpositive(x)) - want).abs() / want;
            assert!(error < 3e-7, "e^{x}: relative error {error}");
        }
    }

    #[test]
    fn exp_is_exact_at_its_ends_and_keeps_a_nan() {
        assert_eq!(exp_nonpositive(0.0).to_bits(), 1.0f32.to_bits());
        assert_eq!(exp_nonpositive(f32::NEG_INFINITY), 0.0);
        assert!(exp_nonpositive(f32::NAN).is_nan());
    }

    #[test]
    fn a_sum_takes_every_lane_once() {
        let lanes: [f32; LANES] = std::array::from_fn(|lane| (1u32 << lane) as f32);
        assert_eq!(reduce_sum(lanes), 65535.0);
    }
}
