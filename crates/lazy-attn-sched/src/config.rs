//! The bounds of a scheduler.

use lazy_attn_types::KvPolicy;

use crate::{AdmissionPolicy, SchedError};

/// Bounds, fixed for the scheduler's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedConfig {
    /// Most tokens one step runs.
    pub max_step_tokens: u32,
    /// Most sequences that run at once.
    pub max_running: u32,
    /// Most requests that wait.
    pub max_waiting: usize,
    /// Most prompt tokens to compute that may wait, each segment counted once. A request that finds nobody waiting is
    /// never refused for it.
    pub max_waiting_tokens: u64,
    /// Who is admitted next.
    pub admission: AdmissionPolicy,
    /// How KV is reused: whether a segment is of use at one place only.
    pub kv_policy: KvPolicy,
}

impl SchedConfig {
    /// Checks that every decode fits a step and leaves room to start another sequence.
    ///
    /// # Errors
    /// [`SchedError::Config`] naming the first bound that cannot work.
    pub fn validate(&self) -> Result<(), SchedError> {
        let check = |ok: bool, field, value, allowed| {
            if ok { Ok(()) } else { Err(SchedError::Config { field, value, allowed }) }
        };
        check(self.max_running >= 1, "max_running", u64::from(self.max_running), "at least 1")?;
        check(self.max_waiting >= 1, "max_waiting", self.max_waiting as u64, "at least 1")?;
        if let AdmissionPolicy::Affinity(affinity) = self.admission {
            affinity.validate()?;
        }
        // With a sequence that still prefills at most `max_running - 1` decode, so text and documents both advance.
        let fits = self.max_step_tokens > self.max_running;
        check(fits, "max_step_tokens", u64::from(self.max_step_tokens), "above max_running")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Affinity;

    #[test]
    fn bounds_are_refused_one_past_what_works() {
        let admission = AdmissionPolicy::default();
        let valid = SchedConfig {
            max_step_tokens: 9,
            max_running: 8,
            max_waiting: 1,
            max_waiting_tokens: 0,
            admission,
            kv_policy: KvPolicy::Lazy,
        };
        valid.validate().unwrap();
        let field = |config: SchedConfig| match config.validate() {
            Err(SchedError::Config { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(SchedConfig { max_step_tokens: 8, ..valid }), "max_step_tokens");
        assert_eq!(field(SchedConfig { max_running: 0, ..valid }), "max_running");
        assert_eq!(field(SchedConfig { max_waiting: 0, ..valid }), "max_waiting");
        let affinity = |change: fn(&mut Affinity)| {
            let mut affinity = Affinity::default();
            change(&mut affinity);
            field(SchedConfig { admission: AdmissionPolicy::Affinity(affinity), ..valid })
        };
        assert_eq!(affinity(|affinity| affinity.max_group_percent = 0), "max_group_percent");
        assert_eq!(affinity(|affinity| affinity.max_group_percent = 101), "max_group_percent");
        assert_eq!(affinity(|affinity| affinity.tenant_quantum_tokens = 0), "tenant_quantum_tokens");
    }
}
