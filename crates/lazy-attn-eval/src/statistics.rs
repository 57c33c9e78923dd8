//! Intervals of means by the bootstrap (Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979).
//!
//! Questions are drawn with replacement, [`NUM_RESAMPLES`] times; the interval is that of the percentiles. Differences
//! between modes are taken question by question, so what makes a question hard cancels.

use serde::Serialize;

use crate::random::Random;

/// Draws of a whole question set.
pub const NUM_RESAMPLES: usize = 2000;
/// Share of resamples inside an interval.
pub const CONFIDENCE: f64 = 0.95;

/// A mean with the interval in which it lies with probability [`CONFIDENCE`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The mean difference of two modes over the same questions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    /// First less second, with its interval.
    #[serde(flatten)]
    pub estimate: Estimate,
    /// Two-sided: how often a resample's difference has the other sign or is 0, doubled; at least
    /// `1 / (NUM_RESAMPLES + 1)`.
    pub p_value: f64,
}

impl Estimate {
    /// The mean of `values`, 0 if there are none.
    #[must_use]
    pub fn of(values: &[f64], seed: u64) -> Estimate {
        let means = resampled_means(values, seed);
        Estimate::within(values, &means)
    }

    fn within(values: &[f64], sorted_means: &[f64]) -> Estimate {
        let tail = (1.0 - CONFIDENCE) / 2.0;
        Estimate {
            mean: mean(values),
            low: percentile(sorted_means, tail),
            high: percentile(sorted_means, 1.0 - tail),
        }
    }

    /// The same in other units.
    #[must_use]
    pub fn times(self, factor: f64) -> Estimate {
        Estimate { mean: self.mean * factor, low: self.low * factor, high: self.high * factor }
    }
}

impl Difference {
    /// The mean of `first[i] - second[i]`.
    ///
    /// # Panics
    /// If the two are not of one length: they are of the same questions.
    #[must_use]
    pub fn of(first: &[f64], second: &[f64], seed: u64) -> Difference {
        assert_eq!(first.len(), second.len(), "a paired comparison is over the same questions");
        let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
        let means = resampled_means(&differences, seed);
        let estimate = Estimate::within(&differences, &means);
        let num_against = |against: fn(f64) -> bool| means.iter().filter(|&&mean| against(mean)).count();
        let num_against = num_against(|mean| mean <= 0.0).min(num_against(|mean| mean >= 0.0));
        // One more on both sides: a bootstrap of finite size shows no probability of 0 (Davison & Hinkley, 1997, 4.2).
        let p_value = (2.0 * (num_against + 1) as f64 / (NUM_RESAMPLES + 1) as f64).min(1.0);
        Difference { estimate, p_value }
    }

    /// The same in other units.
    #[must_use]
    pub fn times(self, factor: f64) -> Difference {
        Difference { estimate: self.estimate.times(factor), ..self }
    }
}

/// The mean, 0 of nothing.
#[must_use]
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// The median (the upper one of an even number), 0 of nothing.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    percentile(&sorted, 0.5)
}

/// Means of resamples, ascending.
fn resampled_means(values: &[f64], seed: u64) -> Vec<f64> {
    if values.is_empty() {
        return Vec::new();
    }
    let mut random = Random::new(seed);
    let mut resampled_mean = || {
        let sum: f64 = values.iter().map(|_| *random.pick(values)).sum();
        sum / values.len() as f64
    };
    let mut means: Vec<f64> = (0..NUM_RESAMPLES).map(|_| resampled_mean()).collect();
    means.sort_by(f64::total_cmp);
    means
}

/// The entry of `sorted` below which `share` of the others lie; 0 of nothing.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let index = (sorted.len() as f64 * share) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_of_zeros_and_ones_is_that_of_the_normal_approximation() {
        // 300 of 1000 are 1: standard error sqrt(0.3 * 0.7 / 1000) = 0.01449, so 0.3 +- 0.0284. The ends of a bootstrap
        // of 2000 scatter by less than a tenth of that: 3 sigma of a 2.5 % quantile are 3 * 0.0597 * 0.01449 = 0.0026.
        let values: Vec<f64> = (0..1000).map(|i| f64::from(u8::from(i % 10 < 3))).collect();
        let estimate = Estimate::of(&values, 1);
        assert!((estimate.mean - 0.3).abs() < 1e-12);
        assert!((estimate.low - 0.2716).abs() < 0.0036, "{estimate:?}");
        assert!((estimate.high - 0.3284).abs() < 0.0036, "{estimate:?}");
    }

    #[test]
    fn a_difference_that_every_question_shows_is_certain_and_noise_is_not() {
        let hard: Vec<f64> = (0..100).map(f64::from).collect();
        let better: Vec<f64> = hard.iter().map(|x| x + 1.0).collect();
        let certain = Difference::of(&better, &hard, 2);
        assert_eq!((certain.estimate.mean, certain.estimate.low, certain.estimate.high), (1.0, 1.0, 1.0));
        assert!(certain.p_value < 0.002);
        let noise: Vec<f64> = (0..100).map(|i| f64::from(i % 2)).collect();
        let other: Vec<f64> = (0..100).map(|i| f64::from((i + 1) % 2)).collect();
        let none = Difference::of(&noise, &other, 2);
        assert!(none.p_value > 0.5 && none.estimate.low < 0.0 && none.estimate.high > 0.0, "{none:?}");
        assert_eq!(Difference::of(&hard, &hard, 2).p_value, 1.0);
    }

    #[test]
    fn ninety_five_percent_intervals_hold_the_truth_about_that_often() {
        // 400 sets of 60 coins with p = 0.4. With all resamples the percentile interval of 60 such coins, ends included, holds
        // 0.4 in 96.46 % of the sets (summed over the binomial distribution); 3.3 standard deviations around 385.9 of 400 are
        // [373.7, 398.0].
        let mut random = Random::new(5);
        let holds = |random: &mut Random, seed: u64| {
            let coins: Vec<f64> = (0..60).map(|_| f64::from(u8::from(random.below(10) < 4))).collect();
            let estimate = Estimate::of(&coins, seed);
            estimate.low <= 0.4 && 0.4 <= estimate.high
        };
        let num_right = (0..400).filter(|&seed| holds(&mut random, seed)).count();
        assert!((374..=398).contains(&num_right), "{num_right} of 400");
    }

    #[test]
    fn nothing_has_a_mean_of_zero() {
        assert_eq!(Estimate::of(&[], 0), Estimate { mean: 0.0, low: 0.0, high: 0.0 });
        assert_eq!((median(&[]), median(&[3.0, 1.0, 2.0])), (0.0, 2.0));
    }
}
