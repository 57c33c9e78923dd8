//! Philox4x32-10, a counter-based generator (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).
//!
//! It has no state to carry: number `n` of a seed is a function of `n` and the seed. So a preempted sequence goes on with
//! the numbers it would have drawn.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const NUM_ROUNDS: u32 = 10;

/// Seed of one sequence's draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceSeed(u64);

impl SequenceSeed {
    /// The seed of sequence `index` of a request seeded with `seed`: their sum, so that any sequence of a request can
    /// be run again alone.
    #[must_use]
    pub fn new(seed: u64, index: u32) -> SequenceSeed {
        SequenceSeed(seed.wrapping_add(u64::from(index)))
    }

    /// As the executor takes it.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The number of `step`, evenly spread over `[0, 1)` with 53 bits.
    pub(super) fn uniform(self, step: u64) -> f64 {
        let [a, b, ..] = philox([low(step), high(step), 0, 0], [low(self.0), high(self.0)]);
        let bits = (u64::from(a) << 32 | u64::from(b)) >> 11;
        bits as f64 / (1u64 << 53) as f64
    }
}

fn low(value: u64) -> u32 {
    (value & u64::from(u32::MAX)) as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for _ in 0..NUM_ROUNDS {
        let products =
            [u64::from(MULTIPLIERS[0]) * u64::from(c[0]), u64::from(MULTIPLIERS[1]) * u64::from(c[2])];
        c = [
            high(products[1]) ^ c[1] ^ k[0],
            low(products[1]),
            high(products[0]) ^ c[3] ^ k[1],
            low(products[0]),
        ];
        k = [k[0].wrapping_add(KEY_STEPS[0]), k[1].wrapping_add(KEY_STEPS[1])];
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_answers_of_the_reference_implementation_hold() {
        // `philox4x32 10` of Random123's kat_vectors: counter, key, answer.
        let cases: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, answer) in cases {
            assert_eq!(philox(counter, key), answer);
        }
    }

    #[test]
    fn numbers_lie_in_the_unit_interval_and_fill_it_evenly() {
        let num_draws = 40_000u32;
        let mut counts = [0u32; 20];
        for step in 0..u64::from(num_draws) {
            let uniform = SequenceSeed::new(7, 3).uniform(step);
            assert!((0.0..1.0).contains(&uniform));
            counts[(uniform * 20.0) as usize] += 1;
        }
        let expected = f64::from(num_draws) / 20.0;
        let chi_square: f64 = counts.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        // 19 degrees of freedom: 1 in 10 000 even generators would exceed 52.0.
        assert!(chi_square < 52.0, "{chi_square}");
    }

    #[test]
    fn a_sequence_is_the_first_sequence_of_the_next_seed() {
        assert_eq!(SequenceSeed::new(5, 2), SequenceSeed::new(7, 0));
        assert_eq!(SequenceSeed::new(u64::MAX, 1), SequenceSeed::new(0, 0));
    }
}
