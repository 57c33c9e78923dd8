//! How fast prompts are computed, measured.

/// Of what was measured so far, one part in this many is forgotten with each further step.
const FORGET: u64 = 16;

/// Prompt tokens and the time of the steps that ran them; decodes in the same steps take their share of that time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    num_tokens: u64,
    micros: u64,
}

impl Pace {
    /// A step ran `num_tokens` prompt tokens in `micros`.
    pub(crate) fn note(&mut self, num_tokens: u32, micros: u64) {
        if num_tokens > 0 {
            self.num_tokens = self.num_tokens - self.num_tokens / FORGET + u64::from(num_tokens);
            self.micros = (self.micros - self.micros / FORGET).saturating_add(micros);
        }
    }

    /// Nanoseconds per prompt token; 0 before anything was measured.
    pub(crate) fn token_nanos(&self) -> u64 {
        self.micros_for(1000).unwrap_or(0)
    }

    /// Time for `num_tokens` prompt tokens, once anything was measured.
    pub(crate) fn micros_for(&self, num_tokens: u64) -> Option<u64> {
        let total = u128::from(num_tokens) * u128::from(self.micros);
        let micros = total.checked_div(u128::from(self.num_tokens))?;
        Some(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_estimated_before_anything_was_measured() {
        let mut pace = Pace::default();
        pace.note(0, 500);
        assert_eq!(pace.micros_for(10), None);
        assert_eq!(pace.token_nanos(), 0);
    }

    #[test]
    fn a_steady_pace_is_what_is_estimated_and_a_new_one_replaces_the_old() {
        let mut pace = Pace::default();
        (0..100).for_each(|_| pace.note(64, 6400));
        let micros = pace.micros_for(1000).unwrap();
        // What is forgotten is rounded down, by less than 16 of the 16 * 64 tokens that are remembered.
        assert!((98_000..102_000).contains(&micros), "{micros}");
        (0..200).for_each(|_| pace.note(64, 640));
        let micros = pace.micros_for(1000).unwrap();
        assert!((9_800..10_200).contains(&micros), "{micros}");
    }
}
