//! The source of chance: SplitMix64, which is a hash of a counter, so that any place of a sequence can be had alone.

/// What the counter grows by: the odd number next to 2^64 over the golden ratio.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
const fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a sequence of random numbers is for: sequences of one seed and different purposes have nothing in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Which rank each document has.
    Ranks = 1,
    /// Which documents a request takes, and their order.
    Requests = 2,
    /// When requests arrive.
    Arrivals = 3,
    /// The tokens of a document.
    Document = 4,
    /// The tokens of a question.
    Query = 5,
}

/// A sequence of random numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rng {
    counter: u64,
}

impl Rng {
    /// Sequence `index` of `seed` for `purpose`.
    #[must_use]
    pub fn new(seed: u64, purpose: Purpose, index: u64) -> Rng {
        Rng {
            counter: mix(mix(seed.wrapping_add((purpose as u64).wrapping_mul(STEP)))
                .wrapping_add(index.wrapping_mul(STEP))),
        }
    }

    /// 64 uniform bits.
    pub fn bits(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(STEP);
        mix(self.counter)
    }

    /// Uniform in `0..bound`, by multiplication; 0 for a bound of 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        // The upper half of a product of 32 and 64 bits is below the bound.
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u32
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Exponential with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    /// Puts `items` into a uniformly random order (Fisher and Yates, from the end).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            // More items than a u32 counts do not fit a trace.
            let other = self.below(end as u32 + 1) as usize;
            items.swap(end, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_those_of_the_documentation() {
        // As the Python of docs/workloads.md computes them.
        let mut rng = Rng::new(7, Purpose::Document, 3);
        let first: Vec<u32> = (0..4).map(|_| rng.below(1000)).collect();
        assert_eq!(first, DOCUMENTED);
    }

    const DOCUMENTED: [u32; 4] = [721, 326, 313, 450];

    #[test]
    fn the_mean_of_an_exponential_is_one() {
        let mut rng = Rng::new(1, Purpose::Arrivals, 0);
        let mean = (0..10_000).map(|_| rng.exponential()).sum::<f64>() / 1e4;
        // The standard error is 0.01.
        assert!((mean - 1.0).abs() < 0.04, "{mean}");
    }
}
