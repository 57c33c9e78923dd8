//! Exponentials and sums over a row, written so that the compiler turns the loops into vector code.

use std::f32::consts::LOG2_E;

/// Accumulators of one sum; also the width the loops are unrolled to.
const NUM_LANES: usize = 8;

/// A row of logits on its way to a distribution.
pub(super) struct Row<'a> {
    /// `[vocab_size]`.
    pub(super) logits: &'a [f32],
    /// The largest of them.
    pub(super) max: f32,
    /// Above 0.
    pub(super) temperature: f32,
}

impl Row<'_> {
    /// `exp((logit - max) / temperature)`: the share of the most likely token.
    pub(super) fn weight(&self, logit: f32) -> f32 {
        exp_nonpositive((logit - self.max) / self.temperature)
    }
}

/// The weight of every token of `row`.
pub(super) fn weights(row: &Row<'_>, out: &mut Vec<f32>) {
    out.clear();
    out.extend(row.logits.iter().map(|&logit| row.weight(logit)));
}

/// Sum of `values`, accumulated in f64.
pub(super) fn sum(values: &[f32]) -> f64 {
    sum_by(values, |value| value)
}

/// Sum of the weights of all tokens of `row`.
pub(super) fn total_weight(row: &Row<'_>) -> f64 {
    sum_by(row.logits, |logit| row.weight(logit))
}

fn sum_by(values: &[f32], to: impl Fn(f32) -> f32) -> f64 {
    let mut lanes = [0.0f64; NUM_LANES];
    let (chunks, rest) = values.as_chunks::<NUM_LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(to(value));
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(to(value));
    }
    lanes.iter().sum()
}

/// Logarithm of the sum of the exponentials of `logits`, which hold at least one finite value.
pub(super) fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits[argmax(logits)];
    f64::from(max) + total_weight(&Row { logits, max, temperature: 1.0 }).ln()
}

/// Index of the largest of `logits`, the first of equal ones; 0 if there is none.
pub(super) fn argmax(logits: &[f32]) -> usize {
    // The largest first and then its place: the first pass is vector code, the second ends early.
    let larger = |max: f32, logit: f32| if logit > max { logit } else { max };
    let mut lanes = [f32::NEG_INFINITY; NUM_LANES];
    let (chunks, rest) = logits.as_chunks::<NUM_LANES>();
    for chunk in chunks {
        for lane in 0..NUM_LANES {
            lanes[lane] = larger(lanes[lane], chunk[lane]);
        }
    }
    let max = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger);
    let is_possible = max > f32::NEG_INFINITY;
    logits.iter().position(|&logit| is_possible && logit == max).unwrap_or(0)
}

/// `exp(x)` for `x <= 0` to about one unit in the last place, 0 below the smallest normal number.
///
/// The same bits on every machine, which a call into its mathematical library would not give: `x = n ln 2 + r` and
/// `exp(x) = 2^n exp(r)` with `|r| <= ln 2 / 2`. The Taylor series of `exp(r)` ends at `r^7 / 7!`: what is left out is
/// below `r^8 / 8!`, a tenth of half a unit in the last place.
fn exp_nonpositive(x: f32) -> f32 {
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has few bits, so that its product with n is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const MIN: f32 = -87.0;
    let clamped = x.max(MIN);
    let n = (clamped * LOG2_E + ROUND) - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let series = 1.0 / 720.0 + r * (1.0 / 5040.0);
    let series = 1.0 / 120.0 + r * series;
    let series = 1.0 / 24.0 + r * series;
    let series = 1.0 / 6.0 + r * series;
    let series = 0.5 + r * series;
    let exp_r = 1.0 + (r + r * r * series);
    let power = f32::from_bits(((n as i32 + 127) << 23) as u32);
    if x < MIN { 0.0 } else { exp_r * power }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ends_of_the_exponential_are_exact() {
        assert_eq!(exp_nonpositive(0.0), 1.0);
        assert_eq!(exp_nonpositive(-0.0), 1.0);
        assert_eq!(exp_nonpositive(-88.0), 0.0);
        assert_eq!(exp_nonpositive(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn the_first_of_equal_logits_is_the_largest() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]), 1);
        assert_eq!(argmax(&[f32::NEG_INFINITY, -5.0, -0.0, 0.0]), 2);
        assert_eq!(argmax(&[f32::NEG_INFINITY]), 0);
    }

    proptest! {
        #[test]
        fn the_largest_of_any_row_is_the_one_that_reading_in_order_finds(
            row in prop::collection::vec(prop_oneof![Just(f32::NEG_INFINITY), -3.0f32..3.0, Just(2.0)], 0..40),
        ) {
            let first = (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b]));
            prop_assert_eq!(argmax(&row), first.unwrap_or(0));
        }

        #[test]
        fn the_exponential_is_within_two_units_in_the_last_place(x in -87.0f32..=0.0) {
            let exact = f64::from(x).exp();
            // The argument reduction, the series and its last step each round once or twice at 2^-24 relative.
            let tolerance = 4.0 * f64::from(f32::EPSILON) / 2.0;
            prop_assert!((f64::from(exp_nonpositive(x)) / exact - 1.0).abs() <= tolerance, "{}", x);
        }

        #[test]
        fn sums_equal_a_plain_f64_sum(values in prop::collection::vec(0.0f32..1.0, 0..100)) {
            let exact: f64 = values.iter().map(|&value| f64::from(value)).sum();
            // Both add at most 100 f64 numbers below 1, each addition within 2^-53 of at most 100.
            prop_assert!((sum(&values) - exact).abs() <= 100.0 * 100.0 * f64::EPSILON);
        }

        #[test]
        fn log_sum_exp_equals_the_f64_one(logits in prop::collection::vec(-60.0f32..60.0, 1..200)) {
            let exact = logits.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln();
            // Each exponential is within 2 ulp, and its rounded argument `logit - max` within 2^-24 * 120.
            let tolerance = (2.0 + 120.0) * f64::from(f32::EPSILON);
            prop_assert!((log_sum_exp(&logits) - exact).abs() <= tolerance);
        }
    }
}
