//! Counters, gauges and histograms of atomics. Every cell stands alone, so relaxed order suffices.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Takes over a number that somebody else counts.
    pub(super) fn follow(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that comes and goes; holds the bits of a float.
#[derive(Debug, Default)]
pub(super) struct Gauge(AtomicU64);

impl Gauge {
    pub(super) fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// What the observed integers stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Microseconds, shown as seconds.
    Micros,
    /// A number of things.
    Count,
}

/// How often a value was at most each bound.
#[derive(Debug)]
pub(super) struct Histogram {
    pub(super) unit: Unit,
    /// Ascending.
    pub(super) bounds: &'static [u64],
    /// One per bound, not cumulative, and one for what is above the last.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// From a fast step on a device to a long answer.
const MICROS: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// Up to the largest step anybody configures.
const COUNTS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192];

impl Histogram {
    /// Of durations.
    pub(super) fn durations() -> Histogram {
        Histogram::new(Unit::Micros, MICROS)
    }

    /// Of numbers of things.
    pub(super) fn counts() -> Histogram {
        Histogram::new(Unit::Count, COUNTS)
    }

    fn new(unit: Unit, bounds: &'static [u64]) -> Histogram {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { unit, bounds, buckets, sum: AtomicU64::new(0) }
    }

    pub(super) fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// How many values were at most each bound, and then how many there were at all.
    pub(super) fn cumulative(&self) -> Vec<u64> {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let running = counts.scan(0, |total, count| {
            *total += count;
            Some(*total)
        });
        running.collect()
    }

    pub(super) fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_at_its_own_bound_and_at_every_larger_one() {
        let histogram = Histogram::new(Unit::Count, &[1, 2, 4]);
        [0, 1, 2, 3, 4, 5].into_iter().for_each(|value| histogram.observe(value));
        assert_eq!((histogram.cumulative(), histogram.sum()), (vec![2, 3, 5, 6], 15));
    }

    #[test]
    fn bounds_ascend() {
        assert!(MICROS.is_sorted_by(|a, b| a < b) && COUNTS.is_sorted_by(|a, b| a < b));
    }
}
