//! The loop over inputs.

use std::collections::HashSet;

use lazy_attn_testkit::SplitMix64;

use crate::mutate::{Material, mutated};
use crate::{Finding, Target, try_input};

/// Most inputs of the pool.
const MAX_POOL: usize = 1024;
/// Bytes of an outcome that tell it from others.
const SIGNATURE_BYTES: usize = 80;

/// An input that a target must not fail on, and how it fails.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{target}, an input of {} bytes: {finding}", input.len())]
pub struct Crash {
    /// Name of the target.
    pub target: &'static str,
    /// The input.
    pub input: Vec<u8>,
    /// What is wrong.
    pub finding: Finding,
}

/// Inputs for one target, one after the other.
#[derive(Debug)]
pub struct Fuzzer {
    target: &'static Target,
    rng: SplitMix64,
    pool: Vec<Vec<u8>>,
    seen: HashSet<String>,
}

impl Fuzzer {
    /// Starts with the seeds of `target`, each of which is run.
    ///
    /// # Errors
    /// [`Crash`] if one of them breaks a bound.
    pub fn new(target: &'static Target, seed: u64) -> Result<Fuzzer, Crash> {
        let mut fuzzer =
            Fuzzer { target, rng: SplitMix64::new(seed), pool: Vec::new(), seen: HashSet::new() };
        for seed in (target.seeds)() {
            fuzzer.run(&seed)?;
            fuzzer.pool.push(seed);
        }
        Ok(fuzzer)
    }

    /// The next input.
    pub fn next_input(&mut self) -> Vec<u8> {
        let material = Material { pool: &self.pool, words: self.target.words };
        mutated(material, &mut self.rng)
    }

    /// Runs `input`, and keeps it if its outcome is new.
    ///
    /// # Errors
    /// [`Crash`] if it breaks a bound.
    pub fn try_next(&mut self, input: Vec<u8>) -> Result<(), Crash> {
        if self.run(&input)? && self.pool.len() < MAX_POOL {
            self.pool.push(input);
        }
        Ok(())
    }

    /// Different outcomes so far.
    #[must_use]
    pub fn num_outcomes(&self) -> usize {
        self.seen.len()
    }

    /// Whether the outcome is a new one.
    fn run(&mut self, input: &[u8]) -> Result<bool, Crash> {
        let crash = |finding| Crash { target: self.target.name, input: input.to_vec(), finding };
        let outcome = try_input(self.target, input).map_err(crash)?;
        Ok(self.seen.insert(signature(&outcome)))
    }
}

/// Numbers and quoted names make no difference between outcomes.
fn signature(outcome: &str) -> String {
    let mut is_quoted = false;
    let kept = outcome.chars().filter(|&c| {
        is_quoted ^= c == '`' || c == '"';
        !is_quoted && !c.is_ascii_digit()
    });
    kept.take(SIGNATURE_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TARGETS;

    #[test]
    fn outcomes_differ_by_their_words_alone() {
        assert_eq!(signature("`a` has 12 entries"), signature("`b` has 7 entries"));
        assert_ne!(signature("`a` has 12 entries"), signature("`a` is missing"));
    }

    #[test]
    fn inputs_with_new_outcomes_are_built_upon() {
        let target = TARGETS.iter().find(|target| target.name == "gguf").unwrap();
        let mut fuzzer = Fuzzer::new(target, 5).unwrap();
        let (pool, outcomes) = (fuzzer.pool.len(), fuzzer.num_outcomes());
        for _ in 0..500 {
            let input = fuzzer.next_input();
            fuzzer.try_next(input).unwrap();
        }
        assert!(fuzzer.num_outcomes() > outcomes + 5 && fuzzer.pool.len() > pool + 5);
    }
}
