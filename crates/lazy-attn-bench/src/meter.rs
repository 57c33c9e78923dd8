//! What the engine tells that a reader of one request cannot see.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lazy_attn_engine::{Observation, Observer};

/// How often one resident token was read by several sequences of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sharing {
    /// Document tokens attended, each document once per sequence that read it, over all steps that decoded.
    pub attended_tokens: u64,
    /// The same, each document once.
    pub distinct_tokens: u64,
    /// Most sequences that read one document in one step.
    pub largest_group: u32,
}

impl Sharing {
    /// Sequences per resident document token: 1 if nobody shares; nothing if no step decoded over a document.
    #[must_use]
    pub fn factor(&self) -> Option<f64> {
        (self.distinct_tokens > 0).then(|| self.attended_tokens as f64 / self.distinct_tokens as f64)
    }
}

/// What was observed over a run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observed {
    /// Sharing in the decoding steps.
    pub sharing: Sharing,
    /// Most bytes of KV that were owned.
    pub peak_kv_bytes: u64,
    /// Most bytes of KV that running requests held.
    pub peak_leased_bytes: u64,
    /// Steps, and their time.
    pub num_steps: u64,
    /// From the plan to the commit of each, together.
    pub step_time: Duration,
    /// Most sequences in a step.
    pub max_sequences: u32,
    /// Times a sequence gave its blocks away.
    pub preemptions: u64,
    /// Segments evicted.
    pub evictions: u64,
    /// Tokens of documents run to encode them.
    pub tokens_encoded: u64,
    /// Tokens whose stored keys were rotated to another position instead.
    pub tokens_reencoded: u64,
}

/// An observer that sums up.
#[derive(Debug, Default)]
pub struct Meter {
    observed: Mutex<Observed>,
}

impl Meter {
    /// What was observed so far.
    #[must_use]
    pub fn observed(&self) -> Observed {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Observer for Meter {
    fn observe(&self, observation: &Observation<'_>) {
        // Plain numbers survive a panic elsewhere.
        let mut observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        match *observation {
            Observation::Sharing { attended_tokens, distinct_tokens } => {
                observed.sharing.attended_tokens += attended_tokens;
                observed.sharing.distinct_tokens += distinct_tokens;
            }
            Observation::DocumentGroup { num_sequences } => {
                observed.sharing.largest_group = observed.sharing.largest_group.max(num_sequences);
            }
            Observation::Step { took, num_sequences, .. } => {
                observed.num_steps += 1;
                observed.step_time += took;
                observed.max_sequences = observed.max_sequences.max(num_sequences);
            }
            Observation::State(stats) => {
                let kv = &stats.sched.kv;
                let owned = u64::from(kv.blocks_total - kv.blocks_free);
                let leased_bytes = kv.bytes * u64::from(kv.blocks_leased) / owned.max(1);
                observed.peak_kv_bytes = observed.peak_kv_bytes.max(kv.bytes);
                observed.peak_leased_bytes = observed.peak_leased_bytes.max(leased_bytes);
                observed.preemptions = stats.sched.preemptions;
                observed.evictions = kv.evictions;
                observed.tokens_encoded = stats.tokens_encoded;
                observed.tokens_reencoded = stats.tokens_reencoded;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_is_readers_per_resident_token() {
        let meter = Meter::default();
        assert_eq!(meter.observed().sharing.factor(), None);
        meter.observe(&Observation::Sharing { attended_tokens: 300, distinct_tokens: 100 });
        meter.observe(&Observation::Sharing { attended_tokens: 100, distinct_tokens: 100 });
        meter.observe(&Observation::DocumentGroup { num_sequences: 3 });
        let sharing = meter.observed().sharing;
        assert_eq!((sharing.factor(), sharing.largest_group), (Some(2.0), 3));
    }
}
