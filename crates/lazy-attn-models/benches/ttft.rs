//! What reuse is for: the time to the first token behind 8 documents of 256 tokens, computed and resident.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::num::NonZeroUsize;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use lazy_attn_models::cpu::{CpuExecutor, CpuOptions, KvBudget};
use lazy_attn_models::{LoadOptions, ModelRef, Silent, load};
use lazy_attn_testkit::{Pool, RunSpec, StepBuilder, StoredSegment};
use lazy_attn_types::{Executor, StepInput, TokenId};

const NUM_DOCUMENTS: u32 = 8;
const DOCUMENT_TOKENS: u32 = 256;
const QUESTION_TOKENS: u32 = 32;

fn tokens(seed: u32, num_tokens: u32) -> Vec<TokenId> {
    (0..num_tokens).map(|i| TokenId((seed * 977 + i * 37) % 8192)).collect()
}

/// Encodes as many documents as the step budget takes.
fn encode(documents: &[StoredSegment]) -> StepInput {
    let mut builder = StepBuilder::new();
    for (seed, document) in (1..).zip(documents) {
        let tokens = tokens(seed, DOCUMENT_TOKENS);
        let context = vec![(document, 0)];
        builder.push(&RunSpec { context, tokens: &tokens, first_local: 0, outputs: vec![] });
    }
    builder.finish()
}

/// Runs the question behind all documents, one after the other; the last token's logits choose the answer's first.
fn ask(documents: &[StoredSegment], question: &StoredSegment) -> StepInput {
    let mut builder = StepBuilder::new();
    let mut context: Vec<_> =
        (0..).step_by(DOCUMENT_TOKENS as usize).zip(documents).map(|(s, d)| (d, s)).collect();
    context.push((question, NUM_DOCUMENTS * DOCUMENT_TOKENS));
    let tokens = tokens(0, QUESTION_TOKENS);
    builder.push(&RunSpec { context, tokens: &tokens, first_local: 0, outputs: vec![QUESTION_TOKENS - 1] });
    builder.finish()
}

fn time_to_first_token(c: &mut Criterion) {
    let model = load(&ModelRef::Embedded, &LoadOptions::default()).unwrap();
    let options = CpuOptions {
        kv_budget: KvBudget::Blocks(256),
        num_threads: NonZeroUsize::new(2),
        ..CpuOptions::default()
    };
    let mut executor =
        CpuExecutor::new(lazy_attn_models::ModelParts::from(&model), &options, &Silent).unwrap();
    let mut pool = Pool::scattered(executor.info().num_blocks, executor.info().block_size, 1);
    let documents: Vec<_> = (0..NUM_DOCUMENTS).map(|_| pool.allocate(DOCUMENT_TOKENS)).collect();
    let question = pool.allocate(QUESTION_TOKENS);
    let per_step = (executor.info().max_step_tokens / DOCUMENT_TOKENS) as usize;
    let encodes: Vec<StepInput> = documents.chunks(per_step).map(encode).collect();
    let ask = ask(&documents, &question);

    let mut group = c.benchmark_group("ttft_8x256");
    group.bench_function("computed", |b| {
        b.iter(|| {
            for step in &encodes {
                executor.execute(step).unwrap();
            }
            executor.execute(&ask).unwrap()
        });
    });
    group.bench_function("resident", |b| b.iter(|| executor.execute(&ask).unwrap()));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(15).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = time_to_first_token
}
criterion_main!(benches);
