//! The bounds of an engine, as plain data.

use lazy_attn_kv::{EvictionPolicy, IdleCopies, KvCache, KvConfig};
use lazy_attn_sched::{AdmissionPolicy, SchedConfig};
use lazy_attn_types::{ExecutorInfo, KvPolicy, ParamError, SharedReads};

/// Everything that can be set about an engine. Flags mirror these fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// Most tokens one step runs; the executor's own bound applies too.
    pub max_step_tokens: u32,
    /// Most sequences that run at once.
    pub max_running: u32,
    /// Most requests that wait.
    pub max_waiting: usize,
    /// Most prompt tokens to compute that may wait, each document counted once.
    pub max_waiting_tokens: u64,
    /// Most parts of one request.
    pub max_parts: usize,
    /// Who is admitted next.
    pub admission: AdmissionPolicy,
    /// Most of the KV blocks, in percent, that pinned documents may keep.
    pub max_pinned_percent: u32,
    /// Which cached segment goes when blocks are needed.
    pub eviction: EvictionPolicy,
    /// How KV is reused. The executor must be able to store keys as [`KvPolicy::stored_keys`] says.
    pub kv_policy: KvPolicy,
    /// Who reads a document that several sequences of a step see: for comparison with kernels that group no readers.
    pub shared_reads: SharedReads,
    /// From it and the request's id the seed of a request that brings none is made.
    pub seed: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            max_step_tokens: 512,
            max_running: 64,
            max_waiting: 256,
            max_waiting_tokens: 1 << 20,
            max_parts: 256,
            admission: AdmissionPolicy::default(),
            max_pinned_percent: 50,
            eviction: EvictionPolicy::CostAware,
            kv_policy: KvPolicy::Lazy,
            shared_reads: SharedReads::Once,
            seed: 0,
        }
    }
}

impl EngineConfig {
    /// Checks the bounds against each other and against the executor's.
    ///
    /// # Errors
    /// [`ParamError`] naming the first bound that cannot work.
    pub fn validate(&self, info: &ExecutorInfo) -> Result<(), ParamError> {
        let error = |field, value: u64, allowed| ParamError { field, value: value.to_string(), allowed };
        if self.max_parts == 0 {
            return Err(error("engine.max_parts", 0, "at least 1"));
        }
        if self.max_waiting == 0 {
            return Err(error("engine.max_waiting", 0, "at least 1"));
        }
        if self.max_running == 0 {
            return Err(error("engine.max_running", 0, "at least 1"));
        }
        if self.max_pinned_percent > 100 {
            let value = u64::from(self.max_pinned_percent);
            return Err(error("engine.max_pinned_percent", value, "from 0 to 100"));
        }
        if !info.stored_keys.contains(&self.kv_policy.stored_keys()) {
            let (value, allowed) = (self.kv_policy.to_string(), "one whose keys the executor can store");
            return Err(ParamError { field: "engine.kv_policy", value, allowed });
        }
        let step_tokens = self.step_tokens(info);
        if step_tokens <= self.max_running {
            let (value, allowed) =
                (u64::from(step_tokens), "above engine.max_running (the executor's bound applies)");
            return Err(error("engine.max_step_tokens", value, allowed));
        }
        Ok(())
    }

    /// An empty cache over the blocks of the executor.
    pub(crate) fn kv(&self, info: &ExecutorInfo) -> KvCache {
        let max_pinned = u64::from(info.num_blocks) * u64::from(self.max_pinned_percent) / 100;
        let config = KvConfig {
            num_blocks: info.num_blocks,
            block_size: info.block_size,
            kv_bytes_per_token: info.kv_bytes_per_token,
            // At most `num_blocks`.
            max_pinned_blocks: max_pinned as u32,
            policy: self.eviction,
        };
        KvCache::new(config).with_idle_copies(IdleCopies::under(self.kv_policy))
    }

    pub(crate) fn scheduler(&self, info: &ExecutorInfo) -> SchedConfig {
        SchedConfig {
            max_step_tokens: self.step_tokens(info),
            max_running: self.max_running,
            max_waiting: self.max_waiting,
            max_waiting_tokens: self.max_waiting_tokens,
            admission: self.admission,
            kv_policy: self.kv_policy,
        }
    }

    fn step_tokens(&self, info: &ExecutorInfo) -> u32 {
        self.max_step_tokens.min(info.max_step_tokens)
    }
}

#[cfg(test)]
mod tests {
    use lazy_attn_testkit::{FakeConfig, FakeExecutor};
    use lazy_attn_types::{Executor, StoredKeys};

    use super::*;

    #[test]
    fn bounds_are_refused_one_past_what_works() {
        let executor = FakeExecutor::new(FakeConfig { max_step_tokens: 65, ..FakeConfig::default() });
        let refused = |change: fn(&mut EngineConfig)| {
            let mut config = EngineConfig::default();
            change(&mut config);
            config.validate(executor.info()).map_err(|error| error.field)
        };
        assert_eq!(refused(|_| ()), Ok(()));
        assert_eq!(refused(|c| c.max_running = 65), Err("engine.max_step_tokens"));
        assert_eq!(refused(|c| c.max_running = 0), Err("engine.max_running"));
        assert_eq!(refused(|c| c.max_waiting = 0), Err("engine.max_waiting"));
        assert_eq!(refused(|c| c.max_pinned_percent = 101), Err("engine.max_pinned_percent"));
        assert_eq!(refused(|c| c.max_parts = 0), Err("engine.max_parts"));
    }

    #[test]
    fn a_policy_needs_an_executor_that_can_store_keys_for_it() {
        let executor = FakeExecutor::new(FakeConfig::default());
        let rotated = ExecutorInfo { stored_keys: &[StoredKeys::Rotated], ..executor.info().clone() };
        let refused = |kv_policy, info: &ExecutorInfo| {
            let config = EngineConfig { kv_policy, ..EngineConfig::default() };
            config.validate(info).map_err(|error| error.field)
        };
        for policy in KvPolicy::ALL {
            assert_eq!(refused(policy, executor.info()), Ok(()));
            let expected = if policy == KvPolicy::RotateKeys { Err("engine.kv_policy") } else { Ok(()) };
            assert_eq!(refused(policy, &rotated), expected);
        }
    }
}
