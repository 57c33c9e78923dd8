//! The decoder: every supported family is this one.
//!
//! ```text
//! x = embedding[token]
//! per layer:  q, k, v = W_qkv norm(x);  k, v -> store;  x += W_o attend(q);  x += W_down (silu(W_gate n) * W_up n), n = norm(x)
//! logits = W_head norm(x)                                   of the wanted rows only
//! ```
//!
//! Each row of each operation is computed in an order that does not depend on the other rows of the step, so a
//! sequence's logits are the same, bit by bit, whatever it is batched with and however its prompt is cut into runs.
//!
//! Reading order: [`Decoder`] (this file), `layer` (weights of one layer), `ops` (norms and the rest).

mod layer;
mod ops;

use lazy_attn::{AttnError, AttnParams, BlockCopy, CpuAttention, KvStore, Plan, RopeTable};
use lazy_attn_types::{StepInput, TokenId};
use rayon::prelude::*;

use self::{
    layer::{Layer, Loader},
    ops::Norm,
};
use super::{
    linear::{Activations, Linear, WeightDtype},
    simd::CpuIsa,
};
use crate::{ModelConfig, ModelError, config::HeadWeights, weights::TensorSource};

/// Tokens of a step from which embeddings are looked up in parallel.
const MIN_PARALLEL_TOKENS: usize = 32;

/// Weights of a decoder, and the memory its steps reuse.
#[derive(Debug)]
pub(super) struct Decoder {
    isa: CpuIsa,
    hidden_size: usize,
    embedding: Linear,
    layers: Vec<Layer>,
    final_norm: Norm,
    /// `None` if the embedding is the head.
    head: Option<Linear>,
    attention: CpuAttention,
    scratch: Scratch,
}

/// Activations of a step; they grow to the largest step and stay.
#[derive(Debug, Default)]
struct Scratch {
    /// The residual stream, `[num_tokens, hidden_size]`.
    x: Vec<f32>,
    /// `[num_tokens, hidden_size]`
    normed: Vec<f32>,
    /// `[num_tokens, num_q_heads * head_dim]`
    q: Vec<f32>,
    /// `[num_tokens, num_kv_heads * head_dim]`
    k: Vec<f32>,
    /// `[num_tokens, num_kv_heads * head_dim]`
    v: Vec<f32>,
    /// `[num_tokens, num_q_heads * head_dim]`
    attended: Vec<f32>,
    /// What a branch adds to `x`, `[num_tokens, hidden_size]`.
    delta: Vec<f32>,
    /// `[num_tokens, intermediate_size]`
    gate: Vec<f32>,
    /// `[num_tokens, intermediate_size]`
    up: Vec<f32>,
    /// Memory that trades places with a matrix whose rows are picked.
    spare: Vec<f32>,
    acts: Activations,
}

impl Decoder {
    /// Reads and packs every tensor, on every thread of the current rayon pool.
    pub(super) fn load(
        config: &ModelConfig,
        source: &dyn TensorSource,
        dtype: WeightDtype,
    ) -> Result<Decoder, ModelError> {
        let loader = Loader { config, source, dtype };
        let head = match config.head {
            HeadWeights::Tied => None,
            HeadWeights::Untied => Some(loader.vocabulary("lm_head")?),
        };
        let params = AttnParams {
            num_q_heads: config.num_q_heads as u32,
            rope: RopeTable::from_inv_freq(&config.rope.inv_freq())?,
            softmax_scale: config.rope.softmax_scale() / (config.head_dim as f32).sqrt(),
        };
        Ok(Decoder {
            isa: CpuIsa::detect(),
            hidden_size: config.hidden_size,
            embedding: loader.vocabulary("model.embed_tokens")?,
            layers: (0..config.num_layers).map(|index| loader.layer(index)).collect::<Result<_, _>>()?,
            final_norm: loader.norm("model.norm", config.hidden_size)?,
            head,
            attention: CpuAttention::new(params),
            scratch: Scratch::default(),
        })
    }

    /// Bytes of weights that a step of one token reads.
    pub(super) fn num_bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(|l| [&l.qkv, &l.output, &l.gate_up, &l.down]);
        layers.chain([self.head()]).map(Linear::num_bytes).sum()
    }

    /// Runs a valid step on the current rayon pool; returns the logits of its outputs.
    pub(super) fn step(
        &mut self,
        store: &mut KvStore,
        plan: &Plan,
        input: &StepInput,
    ) -> Result<Vec<f32>, AttnError> {
        self.embed(&input.tokens);
        for index in 0..self.layers.len() {
            self.attend(store, plan, index)?;
            if index + 1 == self.layers.len() {
                // Nothing reads the other rows any more: their keys and values are stored.
                if input.output_tokens.is_empty() {
                    return Ok(Vec::new());
                }
                self.keep_rows(&input.output_tokens);
            }
            self.feed_forward(index);
        }
        let Decoder { isa, scratch: s, .. } = self;
        let normed = sized(&mut s.normed, s.x.len());
        self.final_norm.rows(*isa, &s.x, normed);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let mut logits = vec![0.0; input.output_tokens.len() * head.out_features(0)];
        head.forward(normed, [&mut logits], &mut s.acts);
        Ok(logits)
    }

    /// Brings blocks of the store to other positions.
    pub(super) fn reencode(&self, store: &mut KvStore, copies: &[BlockCopy]) -> Result<(), AttnError> {
        if copies.is_empty() { Ok(()) } else { self.attention.reencode(store, copies) }
    }

    fn head(&self) -> &Linear {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    fn embed(&mut self, tokens: &[TokenId]) {
        let hidden = self.hidden_size;
        let x = &mut self.scratch.x;
        x.resize(tokens.len() * hidden, 0.0);
        let embedding = &self.embedding;
        let lookup = |(x, token): (&mut [f32], &TokenId)| embedding.row(token.0 as usize, x);
        if tokens.len() < MIN_PARALLEL_TOKENS {
            x.chunks_exact_mut(hidden).zip(tokens).for_each(lookup);
        } else {
            x.par_chunks_exact_mut(hidden).zip(tokens).for_each(lookup);
        }
    }

    /// The first half of layer `index`, up to the attended values.
    fn attend(&mut self, store: &mut KvStore, plan: &Plan, index: usize) -> Result<(), AttnError> {
        let Decoder { isa, layers, attention, scratch: s, .. } = self;
        let (isa, layer) = (*isa, &layers[index]);
        let num_tokens = plan.num_tokens() as usize;
        let normed = sized(&mut s.normed, s.x.len());
        layer.input_norm.rows(isa, &s.x, normed);
        let q = sized(&mut s.q, num_tokens * layer.qkv.out_features(0));
        let k = sized(&mut s.k, num_tokens * layer.qkv.out_features(1));
        let v = sized(&mut s.v, num_tokens * layer.qkv.out_features(2));
        layer.qkv.forward(normed, [&mut *q, &mut *k, &mut *v], &mut s.acts);
        if let Some((q_norm, k_norm)) = &layer.qk_norm {
            q_norm.in_place(isa, q);
            k_norm.in_place(isa, k);
        }
        attention.append(store, index as u32, plan, k, v)?;
        s.attended.resize(q.len(), 0.0);
        attention.attend(store, index as u32, plan, q, &mut s.attended)
    }

    /// The second half of layer `index`, over the rows that `x` and `attended` hold.
    fn feed_forward(&mut self, index: usize) {
        let Decoder { isa, layers, scratch: s, .. } = self;
        let (isa, layer) = (*isa, &layers[index]);
        let num_rows = s.x.len() / self.hidden_size;
        let delta = sized(&mut s.delta, s.x.len());
        layer.output.forward(&s.attended, [&mut *delta], &mut s.acts);
        ops::add(isa, &mut s.x, delta);
        let normed = sized(&mut s.normed, s.x.len());
        layer.mlp_norm.rows(isa, &s.x, normed);
        let gate = sized(&mut s.gate, num_rows * layer.gate_up.out_features(0));
        let up = sized(&mut s.up, num_rows * layer.gate_up.out_features(1));
        layer.gate_up.forward(normed, [&mut *gate, &mut *up], &mut s.acts);
        ops::silu_mul(isa, gate, up);
        layer.down.forward(gate, [&mut *delta], &mut s.acts);
        ops::add(isa, &mut s.x, delta);
    }

    /// Keeps the rows `rows` of `x` and `attended`; a row may be wanted twice.
    fn keep_rows(&mut self, rows: &[u32]) {
        let s = &mut self.scratch;
        let num_tokens = s.x.len() / self.hidden_size;
        for matrix in [&mut s.x, &mut s.attended] {
            let width = matrix.len() / num_tokens;
            s.spare.clear();
            for &row in rows {
                s.spare.extend_from_slice(&matrix[row as usize * width..][..width]);
            }
            std::mem::swap(matrix, &mut s.spare);
        }
    }
}

/// The first `len` elements of `buffer`, which grows if it must.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}
