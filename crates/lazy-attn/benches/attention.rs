//! Attention on the CPU: decode in bytes of KV per second beside a plain read of as much memory, encode in FLOP/s.
//!
//! Beside criterion's estimate each line gives the best of many passes: on a shared machine that is the figure that means
//! something. Caches are avoided by contexts far larger than the last level and by going through the layers in turn.

// A bench that cannot set up has nothing to say.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use lazy_attn::{AttnParams, CpuAttention, KvDtype, KvLayout, KvStore, PlanConfig, Planner, RopeTable};
use lazy_attn_types::{BlockId, BlockSize, Position, Run, SegmentHandle, SegmentView, StepInput, TokenId};
use rayon::prelude::*;

#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    num_kv_heads: u32,
    group_size: u32,
    head_dim: u32,
}

/// The heads of the embedded model.
const EMBEDDED: Shape = Shape { name: "embedded", num_kv_heads: 3, group_size: 3, head_dim: 64 };
/// The heads of an 8B Llama.
const LLAMA_8B: Shape = Shape { name: "8b", num_kv_heads: 8, group_size: 4, head_dim: 128 };

/// Layers to go through, and tokens of the documents behind each query.
#[derive(Clone, Copy)]
struct Context {
    num_layers: u32,
    documents: u32,
    document_tokens: u32,
}

/// What one pass does.
#[derive(Clone, Copy)]
enum Amount {
    Bytes(u64),
    Flop(u64),
    Tokens(u64),
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

const BLOCK_SIZE: BlockSize = BlockSize::DEFAULT;

fn layout(shape: Shape, dtype: KvDtype, num_layers: u32, num_blocks: u32) -> KvLayout {
    KvLayout {
        num_layers,
        num_blocks,
        block_size: BLOCK_SIZE,
        num_kv_heads: shape.num_kv_heads,
        head_dim: shape.head_dim,
        dtype,
    }
}

fn attention(shape: Shape) -> CpuAttention {
    let pairs = shape.head_dim / 2;
    let inv_freq: Vec<f32> = (0..pairs).map(|pair| 10_000f32.powf(-(pair as f32) / pairs as f32)).collect();
    CpuAttention::new(AttnParams {
        num_q_heads: shape.num_kv_heads * shape.group_size,
        rope: RopeTable::from_inv_freq(&inv_freq).unwrap(),
        softmax_scale: 1.0 / (shape.head_dim as f32).sqrt(),
    })
}

/// One query token behind `documents` documents whose blocks are scattered over the pool.
fn decode_step(context: Context) -> StepInput {
    let blocks_each = BLOCK_SIZE.blocks_for(context.document_tokens);
    let num_blocks = blocks_each * context.documents + 1;
    let mut input = StepInput { tokens: vec![TokenId(0)], ..StepInput::default() };
    // An odd stride over a power of two visits every block once, far from its neighbours.
    let pool = num_blocks.next_power_of_two();
    let mut scattered =
        (0..pool).map(|index| index.wrapping_mul(2_654_435_761) % pool).filter(|&b| b < num_blocks);
    for document in 0..=context.documents {
        let is_tail = document == context.documents;
        let num_blocks = if is_tail { 1 } else { blocks_each };
        input.segments.push(SegmentView {
            handle: SegmentHandle(u64::from(document)),
            first_block: input.block_ids.len() as u32,
            num_blocks,
            first_seen: 0,
            num_tokens: if is_tail { 1 } else { context.document_tokens },
            start: Position(document * context.document_tokens),
            origin: Position(document * context.document_tokens),
        });
        input.block_ids.extend(scattered.by_ref().take(num_blocks as usize).map(BlockId));
    }
    input.runs.push(Run {
        first_token: 0,
        num_tokens: 1,
        first_segment: 0,
        num_segments: context.documents + 1,
        first_local: 0,
    });
    input
}

fn values(count: usize) -> Vec<f32> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn num_workers() -> u32 {
    rayon::current_num_threads() as u32
}

/// Sums `memory` on every worker: what the machine can read at all.
fn read_all(memory: &[u64]) -> u64 {
    let share = memory.len().div_ceil(rayon::current_num_threads());
    memory
        .par_chunks(share)
        .map(|part| {
            let mut sums = [0u64; 64];
            for chunk in part.chunks_exact(64) {
                for (sum, value) in sums.iter_mut().zip(chunk) {
                    *sum = sum.wrapping_add(*value);
                }
            }
            sums.into_iter().fold(0, u64::wrapping_add)
        })
        .reduce(|| 0, u64::wrapping_add)
}

/// Estimates with criterion, and prints the best of all its passes in `unit` per second.
fn measure(group: &mut Group<'_>, id: String, amount: Amount, mut work: impl FnMut()) {
    let (count, unit) = match amount {
        Amount::Bytes(count) => (count, "GB/s"),
        Amount::Flop(count) => (count, "GFLOP/s"),
        Amount::Tokens(count) => (count, "Gtoken/s"),
    };
    group.throughput(match amount {
        Amount::Bytes(count) => Throughput::Bytes(count),
        Amount::Flop(count) | Amount::Tokens(count) => Throughput::Elements(count),
    });
    let mut best = Duration::MAX;
    group.bench_function(&id, |b| {
        b.iter_custom(|num_passes| {
            let mut total = Duration::ZERO;
            for _ in 0..num_passes {
                let start = Instant::now();
                work();
                let pass = start.elapsed();
                best = best.min(pass);
                total += pass;
            }
            total
        });
    });
    if best < Duration::MAX {
        let micros = best.as_secs_f64() * 1e6;
        println!("best pass of {id}: {micros:.1} us, {:.4} {unit}", count as f64 / micros / 1e3);
    }
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.sample_size(20).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
    let memory = vec![1u64; 48 << 20];
    let bytes = Amount::Bytes(8 * memory.len() as u64);
    measure(&mut group, "plain_read".into(), bytes, || {
        black_box(read_all(black_box(&memory)));
    });
    drop(memory);
    let long = Context { num_layers: 4, documents: 64, document_tokens: 1024 };
    // What one turn of a conversation over eight documents reads: thirty layers, each far from the last.
    let short = Context { num_layers: 30, documents: 8, document_tokens: 256 };
    // In the second level cache: what the arithmetic alone allows.
    let cached = Context { num_layers: 1, documents: 2, document_tokens: 256 };
    let cases = [
        (EMBEDDED, cached, KvDtype::F32),
        (EMBEDDED, cached, KvDtype::Bf16),
        (LLAMA_8B, Context { documents: 1, document_tokens: 128, ..cached }, KvDtype::Bf16),
        (EMBEDDED, long, KvDtype::Bf16),
        (EMBEDDED, long, KvDtype::F32),
        (EMBEDDED, short, KvDtype::F32),
        (EMBEDDED, short, KvDtype::Bf16),
        (LLAMA_8B, Context { documents: 16, ..long }, KvDtype::Bf16),
        (LLAMA_8B, Context { documents: 16, ..long }, KvDtype::F16),
        (LLAMA_8B, Context { documents: 16, ..long }, KvDtype::F32),
    ];
    for (shape, context, dtype) in cases {
        let input = decode_step(context);
        let layout = layout(shape, dtype, context.num_layers, input.block_ids.len() as u32);
        let mut store = KvStore::new(layout).unwrap();
        store.fill(0.01);
        let config = PlanConfig::cpu(BLOCK_SIZE, shape.num_kv_heads, num_workers());
        let plan = Planner::new(config).unwrap().plan(&input);
        let mut attention = attention(shape);
        let q = values((shape.num_kv_heads * shape.group_size * shape.head_dim) as usize);
        let mut out = vec![0.0; q.len()];
        let num_tokens = u64::from(context.documents * context.document_tokens);
        let bytes = Amount::Bytes(layout.bytes_per_token() * num_tokens);
        let id = format!("{}_{}x{}_{dtype:?}", shape.name, context.documents, context.document_tokens);
        measure(&mut group, id, bytes, || {
            for layer in 0..context.num_layers {
                attention.attend(&store, layer, &plan, &q, &mut out).unwrap();
            }
        });
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    group.sample_size(20).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
    const NUM_TOKENS: u32 = 512;
    for (shape, dtype) in [(EMBEDDED, KvDtype::F32), (EMBEDDED, KvDtype::Bf16), (LLAMA_8B, KvDtype::Bf16)] {
        let blocks = BLOCK_SIZE.blocks_for(NUM_TOKENS);
        let mut input = decode_step(Context { num_layers: 1, documents: 0, document_tokens: 0 });
        input.tokens = vec![TokenId(0); NUM_TOKENS as usize];
        input.segments[0].num_blocks = blocks;
        input.segments[0].num_tokens = NUM_TOKENS;
        input.block_ids = (0..blocks).map(BlockId).collect();
        input.runs[0].num_tokens = NUM_TOKENS;
        let mut store = KvStore::new(layout(shape, dtype, 1, blocks)).unwrap();
        let config = PlanConfig::cpu(BLOCK_SIZE, shape.num_kv_heads, num_workers());
        let plan = Planner::new(config).unwrap().plan(&input);
        let mut attention = attention(shape);
        let kv = values((NUM_TOKENS * shape.num_kv_heads * shape.head_dim) as usize);
        let q = values(kv.len() * shape.group_size as usize);
        let mut out = vec![0.0; q.len()];
        let id = format!("{}_{NUM_TOKENS}_{dtype:?}", shape.name);
        let tokens = Amount::Tokens(u64::from(NUM_TOKENS));
        measure(&mut group, format!("append_{id}"), tokens, || {
            attention.append(&mut store, 0, &plan, &kv, &kv).unwrap();
        });
        // Two products of 2 FLOP per element, over the causal half of the keys.
        let pairs = u64::from(NUM_TOKENS) * u64::from(NUM_TOKENS + 1) / 2;
        let flop = 4 * pairs * u64::from(shape.num_kv_heads * shape.group_size * shape.head_dim);
        measure(&mut group, format!("attend_{id}"), Amount::Flop(flop), || {
            attention.attend(&store, 0, &plan, &q, &mut out).unwrap();
        });
    }
    group.finish();
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);
