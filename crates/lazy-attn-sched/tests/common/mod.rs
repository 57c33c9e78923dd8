//! What every test of the scheduler needs: contexts from short descriptions, and a sequence of steps.

#![allow(clippy::unwrap_used, clippy::panic, dead_code)] // each test file uses its own part of this

pub(crate) mod shadow;

use std::sync::Arc;

use lazy_attn_kv::{EvictionPolicy, IdleCopies, KvCache, KvConfig, Scope};
use lazy_attn_sched::{AdmissionPolicy, Outcome, SchedConfig, Scheduler, StepPlan, Submission};
use lazy_attn_types::{
    BlockSize, Context, ContextBuilder, Exactness, Fingerprint, KeySpace, KvPolicy, RequestId, SegmentKind,
    SequenceId, TenantSalt, Timestamp, TokenId,
};

pub(crate) const BLOCK_SIZE: BlockSize = BlockSize::new(4).unwrap();

/// A document (`d`) or a text (`t`) with a name and a length; equal names hold equal tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Doc(u32, u32),
    Text(u32, u32),
}

pub(crate) fn context(parts: &[Part]) -> Arc<Context> {
    context_at(Exactness::Block, parts)
}

/// A context over blocks of 4 tokens, at a rung of the ladder.
pub(crate) fn context_at(exactness: Exactness, parts: &[Part]) -> Arc<Context> {
    let keys = KeySpace::new(TenantSalt::SINGLE_USER, Fingerprint::of(&[]));
    let mut builder = ContextBuilder::new(keys, exactness);
    for &part in parts {
        let (kind, name, num_tokens) = match part {
            Part::Doc(name, num_tokens) => (SegmentKind::Document, name, num_tokens),
            Part::Text(name, num_tokens) => (SegmentKind::Text, name, num_tokens),
        };
        builder.push(kind, (0..num_tokens).map(|at| TokenId(name * 1000 + at)).collect()).unwrap();
    }
    Arc::new(builder.finish().unwrap())
}

/// Request `id` with `num_samples` sequences `100 * id ..`.
pub(crate) fn submission(id: u64, parts: &[Part], max_tokens: u32, num_samples: u64) -> Submission {
    Submission {
        request: RequestId(id),
        sequences: (0..num_samples).map(|index| SequenceId(100 * id + index)).collect(),
        context: context(parts),
        max_tokens,
        scope: Scope::Shared,
        tenant: TenantSalt::SINGLE_USER,
        priority: 0,
        deadline: None,
    }
}

pub(crate) struct Bounds {
    pub(crate) num_blocks: u32,
    pub(crate) max_step_tokens: u32,
    pub(crate) max_running: u32,
    pub(crate) max_waiting: usize,
    pub(crate) max_waiting_tokens: u64,
    pub(crate) admission: AdmissionPolicy,
    pub(crate) kv_policy: KvPolicy,
}

/// A scheduler over blocks of 4 tokens.
pub(crate) fn scheduler_with(bounds: Bounds) -> Scheduler {
    let Bounds { num_blocks, max_step_tokens, max_running, max_waiting, admission, .. } = bounds;
    let block_size = BLOCK_SIZE;
    let policy = EvictionPolicy::CostAware;
    let kv = KvCache::new(KvConfig {
        num_blocks,
        block_size,
        kv_bytes_per_token: 1,
        max_pinned_blocks: u32::MAX,
        policy,
    });
    let max_waiting_tokens = bounds.max_waiting_tokens;
    let kv_policy = bounds.kv_policy;
    let kv = kv.with_idle_copies(IdleCopies::under(kv_policy));
    let config =
        SchedConfig { max_step_tokens, max_running, max_waiting, max_waiting_tokens, admission, kv_policy };
    Scheduler::new(config, kv).unwrap()
}

/// First come, first served, with room for 8 to wait.
pub(crate) fn scheduler(num_blocks: u32, max_step_tokens: u32, max_running: u32) -> Scheduler {
    let (max_waiting, max_waiting_tokens, admission) = (8, u64::MAX, AdmissionPolicy::Fcfs);
    scheduler_with(Bounds {
        num_blocks,
        max_step_tokens,
        max_running,
        max_waiting,
        max_waiting_tokens,
        admission,
        kv_policy: KvPolicy::Lazy,
    })
}

pub(crate) const NOW: Timestamp = Timestamp(0);

/// Plans and commits one step in which every row goes on, except that tail rows at their last token finish.
pub(crate) fn step(scheduler: &mut Scheduler, max_tokens: u32) -> String {
    let plan = scheduler.plan(NOW);
    let text = plan.to_string();
    let outcomes = go_on(&plan, max_tokens);
    scheduler.commit(plan, &outcomes, NOW);
    scheduler.check_invariants();
    text
}

pub(crate) fn go_on(plan: &StepPlan, max_tokens: u32) -> Vec<Outcome> {
    let outcome = |first_local: u32| {
        if first_local + 1 == max_tokens {
            Outcome::Finished
        } else {
            Outcome::Continue(TokenId(first_local))
        }
    };
    plan.rows().map(|run| outcome(run.first_local)).collect()
}

/// The tables of all steps until nothing is left.
pub(crate) fn run_to_end(scheduler: &mut Scheduler, max_tokens: u32) -> String {
    let mut tables = String::new();
    for _ in 0..1000 {
        if scheduler.is_idle() {
            return tables;
        }
        tables += &step(scheduler, max_tokens);
    }
    panic!("still busy after 1000 steps:\n{tables}");
}
