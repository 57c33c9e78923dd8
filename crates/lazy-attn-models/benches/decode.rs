//! The embedded model: loading, a prompt of 512 tokens, and single tokens behind it.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::num::NonZeroUsize;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lazy_attn::KvDtype;
use lazy_attn_models::cpu::{CpuExecutor, CpuOptions, KvBudget, WeightDtype};
use lazy_attn_models::{LoadOptions, LoadedModel, ModelRef, Silent, load};
use lazy_attn_testkit::{Pool, RunSpec, StepBuilder};
use lazy_attn_types::{Executor, StepInput, TokenId};

const PROMPT_TOKENS: u32 = 512;

fn executor(model: &LoadedModel, weight_dtype: WeightDtype) -> CpuExecutor {
    let options = CpuOptions {
        weight_dtype,
        kv_dtype: Some(KvDtype::F16),
        kv_budget: KvBudget::Blocks(256),
        num_threads: NonZeroUsize::new(2),
        ..CpuOptions::default()
    };
    CpuExecutor::new(lazy_attn_models::ModelParts::from(model), &options, &Silent).unwrap()
}

/// A prompt, and one token behind `context_tokens` of it; both write one segment.
fn steps(executor: &CpuExecutor, context_tokens: u32) -> (StepInput, StepInput) {
    let mut pool = Pool::scattered(executor.info().num_blocks, executor.info().block_size, 1);
    let segment = pool.allocate(PROMPT_TOKENS + 1);
    let tokens: Vec<TokenId> = (0..PROMPT_TOKENS).map(|i| TokenId(i * 37 % 8192)).collect();
    let step = |tokens: &[TokenId], first_local| {
        let mut builder = StepBuilder::new();
        let outputs = vec![tokens.len() as u32 - 1];
        builder.push(&RunSpec { context: vec![(&segment, 0)], tokens, first_local, outputs });
        builder.finish()
    };
    (step(&tokens, 0), step(&tokens[..1], context_tokens))
}

fn embedded(c: &mut Criterion) {
    let model = load(&ModelRef::Embedded, &LoadOptions::default()).unwrap();
    let mut group = c.benchmark_group("embedded");
    for (name, dtype) in [("q4_0", WeightDtype::Auto), ("q8_0", WeightDtype::Q8_0), ("f32", WeightDtype::F32)]
    {
        group.bench_function(format!("load_{name}"), |b| b.iter(|| executor(&model, dtype)));
        let mut executor = executor(&model, dtype);
        println!("{name}: a step of one token reads {} bytes of weights", executor.weight_bytes_per_step());
        let (prompt, _) = steps(&executor, 0);
        group.throughput(Throughput::Elements(u64::from(PROMPT_TOKENS)));
        group.bench_function(format!("prefill_512_{name}"), |b| {
            b.iter(|| executor.execute(&prompt).unwrap());
        });
        group.throughput(Throughput::Elements(1));
        for context in [16, PROMPT_TOKENS] {
            let (_, token) = steps(&executor, context);
            group.bench_function(format!("decode_behind_{context}_{name}"), |b| {
                b.iter(|| executor.execute(&token).unwrap());
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(15).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = embedded
}
criterion_main!(benches);
