//! The engine's idea in its most naive form: a float64 executor over blocks.
//!
//! Keys are stored rotated at segment-local positions; a query at position `p` is rotated by `p - start` for each
//! segment it reads. It shares the dense layers with the oracle and nothing of the attention, so that its agreement
//! with the oracle is the identity `R(p)^T R(start + i) = R(p - start)^T R(i)` put to the test, blocks included.
//! Slow; for tests of the contract and of whole engines on tiny models.

use lazy_attn_types::{
    BlockSize, Capability, ExecError, Executor, ExecutorInfo, Fingerprint, Run, SegmentView, StepInput,
    StepOutput, StoredKeys,
};

use crate::oracle::Oracle;
use crate::oracle::decoder::{add, dot};
use crate::oracle::rope::{frequencies, rotate_by};

/// A float64 executor with a paged KV store and deferred rotation.
#[derive(Debug)]
pub struct DeferredExecutor {
    oracle: Oracle,
    info: ExecutorInfo,
    frequencies: Vec<f64>,
    /// `[layer][slot]`: rotated key and value of every KV head.
    store: Vec<Vec<Option<KeyValue>>>,
}

#[derive(Debug, Clone)]
struct KeyValue {
    key: Vec<f64>,
    value: Vec<f64>,
}

/// One token of a step.
#[derive(Debug, Clone, Copy)]
struct Row {
    run: Run,
    local: u32,
    position: u32,
    slot: usize,
}

impl DeferredExecutor {
    /// An executor for `oracle`'s model with an empty store.
    #[must_use]
    pub fn new(oracle: Oracle, num_blocks: u32, block_size: BlockSize) -> DeferredExecutor {
        let c = &oracle.config;
        let slots = (num_blocks * block_size.get()) as usize;
        let info = ExecutorInfo {
            vocab_size: c.vocab_size as u32,
            num_blocks,
            block_size,
            kv_bytes_per_token: (16 * c.num_layers * c.num_kv_heads * c.head_dim) as u64,
            max_step_tokens: 512,
            max_context_tokens: 1 << 20,
            fingerprint: Fingerprint::of(&[("config", format!("{c:?}").as_bytes())]),
            capability: Capability::Logits,
            stored_keys: &[StoredKeys::Rotated],
        };
        let store = vec![vec![None; slots]; c.num_layers];
        DeferredExecutor { frequencies: frequencies(&c.rope), oracle, info, store }
    }

    fn slot(&self, input: &StepInput, view: &SegmentView, local: u32) -> usize {
        let (entry, slot) = self.info.block_size.locate(local);
        (input.blocks_of(view)[entry as usize].0 * self.info.block_size.get() + slot) as usize
    }

    fn rows(&self, input: &StepInput) -> Vec<Row> {
        let mut rows = Vec::with_capacity(input.tokens.len());
        for run in &input.runs {
            let own = input.segments_of(run)[run.num_segments as usize - 1];
            rows.extend((run.first_local..run.first_local + run.num_tokens).map(|local| Row {
                run: *run,
                local,
                position: own.start.0 + local,
                slot: self.slot(input, &own, local),
            }));
        }
        rows
    }

    fn layer(
        &mut self,
        layer: usize,
        input: &StepInput,
        rows: &[Row],
        hidden: &mut [Vec<f64>],
    ) -> Result<(), ExecError> {
        let prefix = format!("model.layers.{layer}");
        let mut queries = Vec::with_capacity(rows.len());
        for (row, hidden) in rows.iter().zip(hidden.iter()) {
            let normed = self.oracle.norm(&format!("{prefix}.input_layernorm.weight"), hidden);
            let project = |name: &str| {
                let name = format!("{prefix}.self_attn.{name}_proj");
                self.oracle.linear(&name, self.oracle.config.bias.qkv, &normed)
            };
            let (mut query, mut key, value) = (project("q"), project("k"), project("v"));
            self.norm_heads(&format!("{prefix}.self_attn.q_norm.weight"), &mut query);
            self.norm_heads(&format!("{prefix}.self_attn.k_norm.weight"), &mut key);
            self.rotate_heads(i64::from(row.local), &mut key);
            self.store[layer][row.slot] = Some(KeyValue { key, value });
            queries.push(query);
        }
        for ((row, query), hidden) in rows.iter().zip(&queries).zip(hidden.iter_mut()) {
            let mixed = self.attend(layer, input, row, query)?;
            let output_bias = self.oracle.config.bias.output;
            add(hidden, &self.oracle.linear(&format!("{prefix}.self_attn.o_proj"), output_bias, &mixed));
            self.oracle.feed_forward(&prefix, hidden);
        }
        Ok(())
    }

    fn norm_heads(&self, norm_name: &str, row: &mut [f64]) {
        if self.oracle.config.qk_norm {
            for head in row.chunks_exact_mut(self.oracle.config.head_dim) {
                let normed = self.oracle.norm(norm_name, head);
                head.copy_from_slice(&normed);
            }
        }
    }

    fn rotate_heads(&self, distance: i64, row: &mut [f64]) {
        for head in row.chunks_exact_mut(self.oracle.config.head_dim) {
            rotate_by(&self.oracle.config.rope, &self.frequencies, distance as f64, head);
        }
    }

    /// Attention of one row, by a running softmax over its segments; `[num_q_heads * head_dim]`.
    fn attend(
        &self,
        layer: usize,
        input: &StepInput,
        row: &Row,
        query: &[f64],
    ) -> Result<Vec<f64>, ExecError> {
        let num_q_heads = self.oracle.config.num_q_heads;
        let mut heads = vec![RunningSoftmax::new(self.oracle.config.head_dim); num_q_heads];
        let views = input.segments_of(&row.run);
        for (index, view) in views.iter().enumerate() {
            let mut rotated = query.to_vec();
            self.rotate_heads(i64::from(row.position) - i64::from(view.start.0), &mut rotated);
            let end = if index + 1 == views.len() { row.local + 1 } else { view.num_tokens };
            for local in self.first_visible(row.position, view.start.0).max(view.first_seen)..end {
                let slot = self.slot(input, view, local);
                let stored = self.store[layer][slot].as_ref().ok_or_else(|| {
                    ExecError::InvalidStep(format!("slot {slot} is read and was never written"))
                })?;
                self.absorb(stored, &rotated, &mut heads);
            }
        }
        Ok(heads.iter().flat_map(RunningSoftmax::finish).collect())
    }

    fn first_visible(&self, position: u32, start: u32) -> u32 {
        let window = self.oracle.config.sliding_window;
        window.map_or(0, |window| (position + 1).saturating_sub(window)).saturating_sub(start)
    }

    fn absorb(&self, stored: &KeyValue, query: &[f64], heads: &mut [RunningSoftmax]) {
        let c = &self.oracle.config;
        let scale = (c.head_dim as f64).sqrt().recip();
        for (index, head) in heads.iter_mut().enumerate() {
            let own = index * c.num_kv_heads / c.num_q_heads * c.head_dim;
            let query = &query[index * c.head_dim..][..c.head_dim];
            let score = scale * dot(query, &stored.key[own..][..c.head_dim]);
            head.absorb(score, &stored.value[own..][..c.head_dim]);
        }
    }
}

impl Executor for DeferredExecutor {
    fn info(&self) -> &ExecutorInfo {
        &self.info
    }

    fn execute(&mut self, input: &StepInput) -> Result<StepOutput, ExecError> {
        input.validate(&self.info)?;
        let rows = self.rows(input);
        let mut hidden: Vec<Vec<f64>> = input.tokens.iter().map(|&token| self.oracle.embed(token)).collect();
        for layer in 0..self.oracle.config.num_layers {
            self.layer(layer, input, &rows, &mut hidden)?;
        }
        let wanted = input.output_tokens.iter();
        let logits = wanted.flat_map(|&token| self.oracle.head(&hidden[token as usize]));
        Ok(StepOutput::from_logits(logits.map(|logit| logit as f32).collect()))
    }
}

/// Softmax-weighted sum of values, one key at a time.
#[derive(Debug, Clone)]
struct RunningSoftmax {
    max: f64,
    total: f64,
    sum: Vec<f64>,
}

impl RunningSoftmax {
    fn new(head_dim: usize) -> RunningSoftmax {
        RunningSoftmax { max: f64::NEG_INFINITY, total: 0.0, sum: vec![0.0; head_dim] }
    }

    fn absorb(&mut self, score: f64, value: &[f64]) {
        let max = self.max.max(score);
        let (kept, weight) = ((self.max - max).exp(), (score - max).exp());
        self.max = max;
        self.total = self.total * kept + weight;
        for (sum, value) in self.sum.iter_mut().zip(value) {
            *sum = *sum * kept + weight * value;
        }
    }

    fn finish(&self) -> Vec<f64> {
        self.sum.iter().map(|sum| sum / self.total).collect()
    }
}
