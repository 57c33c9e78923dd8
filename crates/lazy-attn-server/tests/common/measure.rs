//! Figures of samples and of the process.

use std::time::Duration;

/// Time below which `percent` of the samples lie.
pub(crate) fn percentile(samples: &mut [Duration], percent: usize) -> Duration {
    assert!(!samples.is_empty(), "nothing was measured");
    samples.sort_unstable();
    samples[(samples.len() * percent / 100).min(samples.len() - 1)]
}

/// Bytes of this process that are in memory.
pub(crate) fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    // The second number; pages of 4 KiB are the smallest there are.
    pages.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Probability that a sample of `longer` is longer than one of `shorter`; a tie counts half. 0.5 if they are alike.
pub(crate) fn area_under_curve(longer: &[Duration], shorter: &[Duration]) -> f64 {
    let mut sorted = shorter.to_vec();
    sorted.sort_unstable();
    let wins = longer.iter().map(|time| {
        let below = sorted.partition_point(|other| other < time);
        let not_above = sorted.partition_point(|other| other <= time);
        (below + not_above) as f64 / 2.0
    });
    wins.sum::<f64>() / (longer.len() * shorter.len()) as f64
}
