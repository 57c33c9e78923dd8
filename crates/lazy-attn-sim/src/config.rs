//! A cluster.

use lazy_attn_kv::{EvictionPolicy, IdleCopies, KvCache, KvConfig};
use lazy_attn_sched::{AdmissionPolicy, SchedConfig, Scheduler};
use lazy_attn_types::{BlockSize, CostModel, KvPolicy};

use crate::{Routing, SimError};

/// Equal workers, and how requests come to them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClusterConfig {
    /// Workers, each with a device, a scheduler and a KV store of its own.
    pub num_workers: u32,
    /// Which worker gets a request.
    pub routing: Routing,
    /// How KV is reused.
    pub policy: KvPolicy,
    /// Blocks of a worker's KV store.
    pub num_blocks: u32,
    /// Tokens of a block.
    pub block_size: BlockSize,
    /// Most tokens of a step.
    pub max_step_tokens: u32,
    /// Most sequences that run at once on a worker.
    pub max_running: u32,
    /// Who is evicted.
    pub eviction: EvictionPolicy,
    /// Who is admitted next on a worker.
    pub admission: AdmissionPolicy,
    /// What steps take.
    pub cost: CostModel,
    /// The first requests of the trace, which fill the stores in steps that take no time and are in no figure.
    pub num_warmup: u32,
}

impl ClusterConfig {
    /// Most workers.
    pub const MAX_WORKERS: u32 = 4096;

    /// One H100 of 80 GB with Llama 3.1 8B in bf16: nine tenths of its memory less the weights hold keys and values.
    #[must_use]
    pub fn llama_8b_on_one_h100() -> ClusterConfig {
        let cost = CostModel::measured_llama_8b_on_h100();
        let block_size = BlockSize::DEFAULT;
        let block_bytes = cost.kv_bytes_per_token * u64::from(block_size.get());
        // 72 GB less 16.06 GB.
        let num_blocks = (55_940_000_000 / block_bytes) as u32;
        ClusterConfig {
            num_workers: 1,
            routing: Routing::Affinity,
            policy: KvPolicy::Lazy,
            num_blocks,
            block_size,
            max_step_tokens: 2048,
            max_running: 256,
            eviction: EvictionPolicy::CostAware,
            admission: AdmissionPolicy::default(),
            cost,
            num_warmup: 0,
        }
    }

    /// Tokens that the store of one worker holds.
    #[must_use]
    pub fn kv_tokens(&self) -> u64 {
        u64::from(self.num_blocks) * u64::from(self.block_size.get())
    }

    /// # Errors
    /// [`SimError::Param`] naming the first number that cannot be.
    pub fn validate(&self) -> Result<(), SimError> {
        let most = Self::MAX_WORKERS;
        if self.num_workers == 0 || self.num_workers > most {
            let (field, value) = ("num_workers", self.num_workers.to_string());
            return Err(SimError::Param { field, value, allowed: "from 1 to 4096" });
        }
        self.scheduler().map(drop)
    }

    /// The scheduler of one worker.
    pub(crate) fn scheduler(&self) -> Result<Scheduler, SimError> {
        let kv = KvCache::new(KvConfig {
            num_blocks: self.num_blocks,
            block_size: self.block_size,
            kv_bytes_per_token: self.cost.kv_bytes_per_token,
            max_pinned_blocks: 0,
            policy: self.eviction,
        });
        let kv = kv.with_idle_copies(IdleCopies::under(self.policy));
        let bounds = SchedConfig {
            max_step_tokens: self.max_step_tokens,
            max_running: self.max_running,
            // A simulated client never gives up, so that overload shows as waiting.
            max_waiting: usize::MAX,
            max_waiting_tokens: u64::MAX,
            admission: self.admission,
            kv_policy: self.policy,
        };
        Ok(Scheduler::new(bounds, kv)?)
    }
}
