//! Cost of planning: a step of many sequences over many documents.

#![allow(clippy::unwrap_used)] // a bench stops where its setup fails

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use lazy_attn_kv::{EvictionPolicy, KvCache, KvConfig, Scope};
use lazy_attn_sched::{AdmissionPolicy, Outcome, SchedConfig, Scheduler, StepPlan, Submission};
use lazy_attn_types::{
    AttentionMode, BlockSize, ContextBuilder, Fingerprint, KeySpace, RequestId, SegmentKind, SequenceId,
    TenantSalt, Timestamp, TokenId,
};

const NUM_RUNNING: u32 = 256;
const DOCUMENTS_EACH: u32 = 10;
const NUM_DOCUMENTS: u32 = 64;
const DOCUMENT_TOKENS: u32 = 512;
/// More than any bench runs.
const MAX_TOKENS: u32 = 1 << 20;
const NOW: Timestamp = Timestamp(0);

/// A question over ten of the documents, whose last token opens the tail.
fn submission(id: u32) -> Submission {
    let keys = KeySpace::new(TenantSalt::SINGLE_USER, Fingerprint::of(&[]));
    let mut prompt = ContextBuilder::new(keys, AttentionMode::Block);
    for index in 0..DOCUMENTS_EACH {
        let name = (id + index) % NUM_DOCUMENTS;
        let tokens = (0..DOCUMENT_TOKENS).map(|at| TokenId(name * DOCUMENT_TOKENS + at));
        prompt.push(SegmentKind::Document, tokens.collect()).unwrap();
    }
    prompt.push(SegmentKind::Text, (0..32).map(|at| TokenId(1_000_000 + id * 32 + at)).collect()).unwrap();
    Submission {
        request: RequestId(u64::from(id)),
        sequences: vec![SequenceId(u64::from(id))],
        context: Arc::new(prompt.finish().unwrap()),
        max_tokens: MAX_TOKENS,
        scope: Scope::Shared,
        tenant: TenantSalt::SINGLE_USER,
        priority: 0,
        deadline: None,
    }
}

fn go_on(scheduler: &mut Scheduler, plan: StepPlan) {
    let outcomes: Vec<Outcome> = plan.rows().map(|_| Outcome::Continue(TokenId(7))).collect();
    scheduler.commit(plan, &outcomes, NOW);
}

/// `NUM_RUNNING` sequences that decode and `num_waiting` that wait, with `num_slots` slots to spare.
fn busy(num_slots: u32, num_waiting: u32) -> Scheduler {
    let kv = KvCache::new(KvConfig {
        // Every tail and every document, and too little for one tail more.
        num_blocks: NUM_RUNNING * (MAX_TOKENS / 256) + MAX_TOKENS / 512,
        block_size: BlockSize::new(256).unwrap(),
        kv_bytes_per_token: 1,
        max_pinned_blocks: u32::MAX,
        policy: EvictionPolicy::CostAware,
    });
    let config = SchedConfig {
        max_step_tokens: 8192,
        max_running: NUM_RUNNING + num_slots,
        max_waiting: 1000,
        max_waiting_tokens: u64::MAX,
        admission: AdmissionPolicy::default(),
    };
    let mut scheduler = Scheduler::new(config, kv).unwrap();
    (0..NUM_RUNNING).for_each(|id| scheduler.submit(submission(id), NOW).unwrap());
    loop {
        let plan = scheduler.plan(NOW);
        let is_done = plan.rows().count() == NUM_RUNNING as usize;
        go_on(&mut scheduler, plan);
        if is_done {
            break;
        }
    }
    (0..num_waiting).for_each(|id| scheduler.submit(submission(NUM_RUNNING + id), NOW).unwrap());
    scheduler
}

/// Time of `plan` alone; the commit between two plans is not counted.
fn plans(c: &mut Criterion, id: &str, mut scheduler: Scheduler) {
    c.benchmark_group("plan").bench_function(id, |bencher| {
        bencher.iter_custom(|num_iterations| {
            (0..num_iterations)
                .map(|_| {
                    let start = std::time::Instant::now();
                    let plan = black_box(scheduler.plan(NOW));
                    let elapsed = start.elapsed();
                    go_on(&mut scheduler, plan);
                    elapsed
                })
                .sum()
        });
    });
}

fn benches(c: &mut Criterion) {
    plans(c, "256_decodes_10_documents", busy(0, 0));
    // A slot is free, but the head of the line does not fit: everybody who waits is looked up in every step.
    plans(c, "256_decodes_10_documents_256_wait_for_blocks", busy(1, 256));
}

criterion_group!(all, benches);
criterion_main!(all);
