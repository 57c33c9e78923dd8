//! Two requests share a document: it is encoded once, and the table of every step shows who did what.
//!
//! `cargo run -p lazy-attn-sched --example two_requests`

use std::error::Error;
use std::sync::Arc;

use lazy_attn_kv::{EvictionPolicy, KvCache, KvConfig, Scope};
use lazy_attn_sched::{AdmissionPolicy, Outcome, SchedConfig, Scheduler, Submission};
use lazy_attn_types::{
    AttentionMode, BlockSize, Context, ContextBuilder, Fingerprint, KeySpace, KvPolicy, RequestId,
    SegmentKind, SequenceId, TenantSalt, Timestamp, TokenId,
};

fn context(question: u32) -> Result<Context, Box<dyn Error>> {
    let keys = KeySpace::new(TenantSalt::SINGLE_USER, Fingerprint::of(&[("model", b"example")]));
    let mut builder = ContextBuilder::new(keys, AttentionMode::Block);
    builder.push(SegmentKind::Document, (0..40).map(TokenId).collect())?;
    builder.push(SegmentKind::Text, (question..question + 6).map(TokenId).collect())?;
    Ok(builder.finish()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let block_size = BlockSize::DEFAULT;
    let policy = EvictionPolicy::CostAware;
    let kv = KvCache::new(KvConfig {
        num_blocks: 32,
        block_size,
        kv_bytes_per_token: 1024,
        max_pinned_blocks: 16,
        policy,
    });
    let admission = AdmissionPolicy::default();
    let config = SchedConfig {
        max_step_tokens: 32,
        max_running: 8,
        max_waiting: 8,
        max_waiting_tokens: 1000,
        admission,
        kv_policy: KvPolicy::Lazy,
    };
    let mut scheduler = Scheduler::new(config, kv)?;
    for (id, question) in [(1, 100), (2, 200)] {
        scheduler.submit(
            Submission {
                request: RequestId(id),
                sequences: vec![SequenceId(id)],
                context: Arc::new(context(question)?),
                max_tokens: 3,
                scope: Scope::Shared,
                tenant: TenantSalt::SINGLE_USER,
                priority: 0,
                deadline: None,
            },
            Timestamp(0),
        )?;
    }
    while !scheduler.is_idle() {
        let plan = scheduler.plan(Timestamp(0));
        print!("{plan}");
        // Here an executor would run the step; this one always answers token 7.
        let outcome =
            |first_local| if first_local == 2 { Outcome::Finished } else { Outcome::Continue(TokenId(7)) };
        let outcomes: Vec<Outcome> = plan.rows().map(|run| outcome(run.first_local)).collect();
        scheduler.commit(plan, &outcomes, Timestamp(0));
    }
    println!("{:#?}", scheduler.stats());
    Ok(())
}
