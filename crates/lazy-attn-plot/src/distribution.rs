//! Samples as a cumulative distribution.

/// The steps of the empirical distribution of `samples`: at each value, the part of the samples that is not above it.
/// Samples that are no number are left out.
#[must_use]
pub fn distribution(samples: &[f64]) -> Vec<(f64, f64)> {
    let mut sorted: Vec<f64> = samples.iter().copied().filter(|sample| !sample.is_nan()).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let num_samples = sorted.len() as f64;
    let mut part = 0.0;
    let mut points = Vec::with_capacity(2 * sorted.len());
    for (index, &value) in sorted.iter().enumerate() {
        points.push((value, part));
        part = (index + 1) as f64 / num_samples;
        points.push((value, part));
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_a_step_of_its_part() {
        let points = distribution(&[2.0, f64::NAN, 1.0]);
        assert_eq!(points, [(1.0, 0.0), (1.0, 0.5), (2.0, 0.5), (2.0, 1.0)]);
        assert!(distribution(&[]).is_empty());
    }
}
