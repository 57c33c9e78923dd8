//! Two documents, read in both orders by two requests from one store.
//!
//! `cargo run -p lazy-attn --example attend_two_orders`
//!
//! The documents are encoded once, each alone, at positions 0, 1, 2, ... Then both requests ask in one step; the only
//! thing that differs between them is where each document starts.

use std::error::Error;

use lazy_attn::{AttnParams, CpuAttention, KvDtype, KvLayout, KvStore, PlanConfig, Planner, RopeTable};
use lazy_attn_types::{BlockId, BlockSize, Position, Run, SegmentHandle, SegmentView, StepInput, TokenId};

const HEAD_DIM: u32 = 64;
const NUM_KV_HEADS: u32 = 2;
const NUM_Q_HEADS: u32 = 6;
/// Tokens of the two documents.
const LENGTHS: [u32; 2] = [40, 300];

fn main() -> Result<(), Box<dyn Error>> {
    let block_size = BlockSize::DEFAULT;
    let mut store = KvStore::new(KvLayout {
        num_layers: 1,
        num_blocks: 64,
        block_size,
        num_kv_heads: NUM_KV_HEADS,
        head_dim: HEAD_DIM,
        dtype: KvDtype::Bf16,
    })?;
    let pairs = HEAD_DIM / 2;
    let inv_freq: Vec<f32> = (0..pairs).map(|pair| 10_000f32.powf(-(pair as f32) / pairs as f32)).collect();
    let mut attention = CpuAttention::new(AttnParams {
        num_q_heads: NUM_Q_HEADS,
        rope: RopeTable::from_inv_freq(&inv_freq)?,
        softmax_scale: 1.0 / (HEAD_DIM as f32).sqrt(),
    });
    let planner = Planner::new(PlanConfig::cpu(block_size, NUM_KV_HEADS, 2))?;

    // Encoding: each document is the only segment of its run.
    let mut encode = StepInput::default();
    push_run(&mut encode, &[(0, 0)]);
    push_run(&mut encode, &[(1, 0)]);
    let plan = planner.plan(&encode);
    let kv = numbers(encode.tokens.len() as u32 * NUM_KV_HEADS * HEAD_DIM);
    attention.append(&mut store, 0, &plan, &kv, &kv)?;

    // Asking: the same blocks at two starts, and a tail of one token per request.
    let total = LENGTHS[0] + LENGTHS[1];
    let mut ask = StepInput::default();
    push_run(&mut ask, &[(0, 0), (1, LENGTHS[0]), (2, total)]);
    push_run(&mut ask, &[(1, 0), (0, LENGTHS[1]), (3, total)]);
    let plan = planner.plan(&ask);
    println!("{plan}");
    let kv = numbers(2 * NUM_KV_HEADS * HEAD_DIM);
    attention.append(&mut store, 0, &plan, &kv, &kv)?;
    let one = numbers(NUM_Q_HEADS * HEAD_DIM);
    let q = [one.clone(), one].concat();
    let mut out = vec![0.0; q.len()];
    attention.attend(&store, 0, &plan, &q, &mut out)?;

    let (first, second) = out.split_at(out.len() / 2);
    println!("documents 0, 1: {:?} ...", &first[..4]);
    println!("documents 1, 0: {:?} ...", &second[..4]);
    println!("KV written once: {} bytes per token on {}", store.layout().bytes_per_token(), attention.isa());
    Ok(())
}

/// Appends a run over `segments` (id, start) that writes all tokens of the last one. Segments 0 and 1 are the documents,
/// others are tails of one token; each has blocks of its own.
fn push_run(input: &mut StepInput, segments: &[(u32, u32)]) {
    let first_segment = input.segments.len() as u32;
    let mut num_tokens = 0;
    for &(id, start) in segments {
        num_tokens = LENGTHS.get(id as usize).copied().unwrap_or(1);
        let first_block = input.block_ids.len() as u32;
        let blocks = BlockSize::DEFAULT.blocks_for(num_tokens);
        let first_id = [0, 3, 30, 31][id as usize];
        input.block_ids.extend((first_id..first_id + blocks).map(BlockId));
        input.segments.push(SegmentView {
            handle: SegmentHandle(u64::from(id)),
            first_block,
            num_blocks: blocks,
            first_seen: 0,
            num_tokens,
            start: Position(start),
            origin: Position(start),
        });
    }
    input.runs.push(Run {
        first_token: input.tokens.len() as u32,
        num_tokens,
        first_segment,
        num_segments: segments.len() as u32,
        first_local: 0,
    });
    input.tokens.extend((0..num_tokens).map(TokenId));
}

/// Any numbers in [-1, 1).
fn numbers(count: u32) -> Vec<f32> {
    (0..count).map(|index| (index.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}
