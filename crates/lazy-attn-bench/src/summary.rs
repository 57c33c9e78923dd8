//! Many samples as a few numbers.

use serde::{Deserialize, Serialize};

/// Mean, spread and percentiles, in the unit of the samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Number of samples.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Standard deviation.
    pub std: f64,
    /// Half are at most this.
    pub p50: f64,
    /// Nine tenths are.
    pub p90: f64,
    /// 99 of 100 are.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// Of `samples`; nothing if there are none.
    #[must_use]
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Option<Summary> {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let max = *sorted.last()?;
        let count = sorted.len();
        let mean = sorted.iter().sum::<f64>() / count as f64;
        let variance = sorted.iter().map(|sample| (sample - mean).powi(2)).sum::<f64>() / count as f64;
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|part| percentile(&sorted, part));
        Some(Summary { count, mean, std: variance.sqrt(), p50, p90, p99, max })
    }
}

/// The place `part` of the way through `sorted`, which is not empty, by linear interpolation as `numpy.percentile` does.
fn percentile(sorted: &[f64], part: f64) -> f64 {
    let place = part * (sorted.len() - 1) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_interpolated() {
        let summary = Summary::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((summary.count, summary.mean, summary.p50, summary.max), (4, 2.5, 2.5, 4.0));
        assert!((summary.p99 - 3.97).abs() < 1e-12 && (summary.std - 1.25f64.sqrt()).abs() < 1e-12);
        assert_eq!(Summary::of([7.0]).map(|one| (one.p50, one.p99, one.std)), Some((7.0, 7.0, 0.0)));
        assert_eq!(Summary::of([]), None);
    }
}
