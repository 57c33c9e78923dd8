//! A layer of a candle model over two documents that are encoded once and read in both orders.
//!
//! `cargo run -p lazy-attn --features candle --example candle_op`

use std::error::Error;

use candle_core::{Device, Result, Tensor};
use lazy_attn::{
    AttnParams, CpuAttention, KvDtype, KvLayout, KvStore, PlanConfig, Planner, RopeTable,
    candle::{SegmentAttention, SegmentStep},
};
use lazy_attn_types::{BlockId, BlockSize, Position, Run, SegmentHandle, SegmentView, StepInput, TokenId};

const HIDDEN: usize = 96;
const NUM_Q_HEADS: usize = 6;
const NUM_KV_HEADS: usize = 2;
const HEAD_DIM: usize = 32;
/// Tokens of the two documents, then of the two questions. Each fits into one block, which has the segment's number.
const LENGTHS: [u32; 4] = [14, 9, 4, 4];

/// The attention of one layer, with projections in candle.
struct Layer {
    q_proj: Tensor,
    k_proj: Tensor,
    v_proj: Tensor,
    o_proj: Tensor,
}

impl Layer {
    fn new() -> Result<Layer> {
        let weights = |inputs, outputs, phase| wave(inputs, outputs, phase)? / (inputs as f64).sqrt();
        Ok(Layer {
            q_proj: weights(HIDDEN, NUM_Q_HEADS * HEAD_DIM, 1.0)?,
            k_proj: weights(HIDDEN, NUM_KV_HEADS * HEAD_DIM, 2.0)?,
            v_proj: weights(HIDDEN, NUM_KV_HEADS * HEAD_DIM, 3.0)?,
            o_proj: weights(NUM_Q_HEADS * HEAD_DIM, HIDDEN, 4.0)?,
        })
    }

    /// `hidden`, result: `[num_tokens, HIDDEN]`. No rotation, no mask, no cache: the step has them.
    fn forward(&self, hidden: &Tensor, step: &SegmentStep) -> Result<Tensor> {
        let q = hidden.matmul(&self.q_proj)?; // [num_tokens, num_q_heads * head_dim]
        step.append(0, &hidden.matmul(&self.k_proj)?, &hidden.matmul(&self.v_proj)?)?;
        step.attend(0, &q)?.matmul(&self.o_proj)
    }
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let block_size = BlockSize::DEFAULT;
    let store = KvStore::new(KvLayout {
        num_layers: 1,
        num_blocks: 4,
        block_size,
        num_kv_heads: NUM_KV_HEADS as u32,
        head_dim: HEAD_DIM as u32,
        dtype: KvDtype::F32,
    })?;
    let pairs = HEAD_DIM / 2;
    let inv_freq: Vec<f32> = (0..pairs).map(|pair| 10_000f32.powf(-(pair as f32) / pairs as f32)).collect();
    let rope = RopeTable::from_inv_freq(&inv_freq)?;
    let softmax_scale = 1.0 / (HEAD_DIM as f32).sqrt();
    let kernels = CpuAttention::new(AttnParams { num_q_heads: NUM_Q_HEADS as u32, rope, softmax_scale });
    let attention = SegmentAttention::new(kernels, store);
    let planner = Planner::new(PlanConfig::cpu(block_size, NUM_KV_HEADS as u32, 2))?;
    let layer = Layer::new()?;

    // Each document alone, from position 0 on.
    let documents = step_of(&[&[0], &[1]]);
    let hidden = wave(documents.tokens.len(), HIDDEN, 5.0)?;
    layer.forward(&hidden, &attention.step(planner.plan(&documents)))?;

    // The same question twice, over the documents in either order: no key is computed or moved again.
    let questions = step_of(&[&[0, 1, 2], &[1, 0, 3]]);
    let question = wave(LENGTHS[2] as usize, HIDDEN, 6.0)?;
    let hidden = Tensor::cat(&[&question, &question], 0)?;
    let out = layer.forward(&hidden, &attention.step(planner.plan(&questions)))?;
    for (order, rows) in ["0, 1", "1, 0"].iter().zip(out.chunk(2, 0)?) {
        let last = rows.get(rows.dim(0)? - 1)?.narrow(0, 0, 4)?.to_vec1::<f32>()?;
        println!("documents {order}: {last:?} ...");
    }
    Ok(())
}

/// One run per context; it writes the whole last segment, and the segments follow each other.
fn step_of(contexts: &[&[usize]]) -> StepInput {
    let mut input = StepInput { block_ids: (0..4).map(BlockId).collect(), ..StepInput::default() };
    for &context in contexts {
        let first_segment = input.segments.len() as u32;
        let (mut start, mut num_tokens) = (0, 0);
        for &segment in context {
            start += num_tokens;
            num_tokens = LENGTHS[segment];
            let handle = SegmentHandle(segment as u64);
            let first_block = segment as u32;
            let start = Position(start);
            input.segments.push(SegmentView {
                handle,
                first_block,
                num_blocks: 1,
                first_seen: 0,
                num_tokens,
                start,
                origin: start,
            });
        }
        let (first_token, num_segments) = (input.tokens.len() as u32, context.len() as u32);
        input.runs.push(Run { first_token, num_tokens, first_segment, num_segments, first_local: 0 });
        input.tokens.extend((0..num_tokens).map(TokenId));
    }
    input
}

/// Any numbers in [-1, 1], `[rows, columns]`.
fn wave(rows: usize, columns: usize, phase: f64) -> Result<Tensor> {
    let index = Tensor::arange(0f32, (rows * columns) as f32, &Device::Cpu)?;
    index.affine(0.37 + 0.1 * phase, phase)?.sin()?.reshape((rows, columns))
}
