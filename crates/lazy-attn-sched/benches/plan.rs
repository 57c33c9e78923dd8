//! Cost of planning: a step of many sequences over many documents.

#![allow(clippy::unwrap_used)] // a bench stops where its setup fails

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use lazy_attn_kv::{EvictionPolicy, KvCache, KvConfig, Scope};
use lazy_attn_sched::{AdmissionPolicy, Outcome, SchedConfig, Scheduler, StepPlan, Submission};
use lazy_attn_types::{
    AttentionMode, BlockSize, ContextBuilder, Fingerprint, KeySpace, KvPolicy, RequestId, SegmentKind,
    SequenceId, TenantSalt, Timestamp, TokenId,
};

const NUM_RUNNING: u32 = 256;
const DOCUMENTS_EACH: u32 = 10;
const NUM_DOCUMENTS: u32 = 64;
const DOCUMENT_TOKENS: u32 = 512;
const BLOCK_TOKENS: u32 = 16;
/// Steps until everything starts anew, fewer than a sequence may run.
const ROUND_STEPS: u64 = 192;
const MAX_TOKENS: u32 = 256;
/// Blocks of the longest tail.
const TAIL_BLOCKS: u32 = MAX_TOKENS / BLOCK_TOKENS;
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

/// How much KV there is, and who waits for it.
#[derive(Clone, Copy)]
struct Load {
    /// Blocks besides those of the prompts.
    tail_blocks: u32,
    num_slots: u32,
    num_waiting: u32,
}

/// The requests that run, and a request that does not fit beside them.
struct Requests {
    running: Vec<Submission>,
    large: Submission,
}

impl Requests {
    fn new() -> Requests {
        let keys = KeySpace::new(TenantSalt::SINGLE_USER, Fingerprint::of(&[]));
        let mut prompt = ContextBuilder::new(keys, AttentionMode::Block);
        prompt.push(SegmentKind::Document, (0..70_000).map(TokenId).collect()).unwrap();
        prompt.push(SegmentKind::Text, [TokenId(1)].into()).unwrap();
        let running: Vec<Submission> = (0..NUM_RUNNING).map(submission).collect();
        let large = Submission { context: Arc::new(prompt.finish().unwrap()), ..running[0].clone() };
        Requests { running, large }
    }

    /// `NUM_RUNNING` sequences that decode.
    fn start(&self, load: Load) -> Scheduler {
        let block_size = BlockSize::new(BLOCK_TOKENS).unwrap();
        let prompts = NUM_DOCUMENTS * (DOCUMENT_TOKENS / BLOCK_TOKENS) + NUM_RUNNING * 2;
        let kv = KvCache::new(KvConfig {
            num_blocks: prompts + load.tail_blocks,
            block_size,
            kv_bytes_per_token: 1,
            max_pinned_blocks: u32::MAX,
            policy: EvictionPolicy::CostAware,
        });
        let config = SchedConfig {
            max_step_tokens: 8192,
            max_running: NUM_RUNNING + load.num_slots,
            max_waiting: 1000,
            max_waiting_tokens: u64::MAX,
            admission: AdmissionPolicy::default(),
            kv_policy: KvPolicy::Lazy,
        };
        let mut scheduler = Scheduler::new(config, kv).unwrap();
        self.running.iter().for_each(|request| scheduler.submit(request.clone(), NOW).unwrap());
        loop {
            let plan = scheduler.plan(NOW);
            let is_done = plan.rows().count() == NUM_RUNNING as usize;
            go_on(&mut scheduler, plan);
            if is_done {
                break;
            }
        }
        for id in NUM_RUNNING..NUM_RUNNING + load.num_waiting {
            let id = u64::from(id);
            let (request, sequences) = (RequestId(id), vec![SequenceId(id)]);
            scheduler.submit(Submission { request, sequences, ..self.large.clone() }, NOW).unwrap();
        }
        scheduler
    }
}

/// Time of `plan` alone, the one that `percent` of the steps stay within: a mean would count what else the machine does.
/// The commit between two plans is not counted. Tails grow, so every so many steps all starts anew.
fn plans(c: &mut Criterion, id: &str, load: Load, percent: usize) {
    let requests = Requests::new();
    c.benchmark_group("plan").bench_function(id, |bencher| {
        bencher.iter_custom(|num_iterations| {
            let mut times = Vec::new();
            for round in 0..num_iterations.div_ceil(ROUND_STEPS) {
                let mut scheduler = requests.start(load);
                for _ in round * ROUND_STEPS..num_iterations.min((round + 1) * ROUND_STEPS) {
                    let start = Instant::now();
                    let plan = black_box(scheduler.plan(NOW));
                    times.push(start.elapsed());
                    go_on(&mut scheduler, plan);
                }
            }
            times.sort_unstable();
            times[(times.len() - 1) * percent / 100].mul_f64(num_iterations as f64)
        });
    });
}

fn benches(c: &mut Criterion) {
    let roomy = Load { tail_blocks: NUM_RUNNING * TAIL_BLOCKS, num_slots: 0, num_waiting: 0 };
    plans(c, "256_decodes_10_documents", roomy, 50);
    // A slot is free, but the head of the line does not fit: everybody who waits is looked up when the cache changes.
    let waiting = Load { num_slots: 1, num_waiting: 256, ..roomy };
    plans(c, "256_decodes_10_documents_256_wait_for_blocks", waiting, 50);
    // Half of the blocks that the tails come to need: most sequences give way in the end.
    let scarce = Load { tail_blocks: NUM_RUNNING * TAIL_BLOCKS / 2, ..roomy };
    plans(c, "256_decodes_10_documents_and_half_of_their_blocks", scarce, 50);
    plans(c, "256_decodes_10_documents_and_half_of_their_blocks_p99", scarce, 99);
}

criterion_group!(all, benches);
criterion_main!(all);
