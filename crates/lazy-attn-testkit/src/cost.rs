//! An executor that computes nothing and knows what the step would have cost: the yardstick of everything around it.
//!
//! The time of a step is that of whichever is slower, memory or arithmetic (the roofline model, Williams et al., 2009): the
//! weights and every distinct segment are read once, each token costs two operations per weight, and each key that a
//! token sees four per element of all heads of all layers. Reading a document once however many sequences share it is the
//! best a kernel can do, so the model flatters the device and is severe with the engine.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lazy_attn_types::{
    BlockSize, Capability, ExecError, Executor, ExecutorInfo, Fingerprint, SampledRow, SegmentView,
    StepInput, StepOutput, TokenId,
};

/// A model on a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CostModel {
    /// Weights that a token meets.
    pub num_weights: f64,
    /// Bytes of a weight.
    pub weight_size: f64,
    /// `num_layers * num_q_heads * head_dim`.
    pub attention_width: f64,
    /// Bytes of keys and values per token.
    pub kv_bytes_per_token: u64,
    /// Bytes per second that kernels reach.
    pub bytes_per_second: f64,
    /// Operations per second that kernels reach.
    pub flops_per_second: f64,
}

impl CostModel {
    /// The shape of Llama 3.1 8B in bf16 on an H100 (3.35 TB/s, 989 TFLOP/s) at 80 % of its bandwidth and 50 % of its
    /// arithmetic.
    #[must_use]
    pub fn llama_8b_on_h100() -> CostModel {
        CostModel {
            num_weights: 8.03e9,
            weight_size: 2.0,
            attention_width: 32.0 * 32.0 * 128.0,
            // Keys and values, 32 layers, 8 heads of 128, 2 bytes.
            kv_bytes_per_token: 2 * 32 * 8 * 128 * 2,
            bytes_per_second: 0.8 * 3.35e12,
            flops_per_second: 0.5 * 989e12,
        }
    }

    /// The time of a step.
    #[must_use]
    pub fn time(&self, input: &StepInput) -> Duration {
        let mut seen = HashSet::new();
        let distinct = input.segments.iter().filter(|view| seen.insert(view.handle));
        let kv_tokens: f64 = distinct.map(|view| f64::from(view.num_tokens)).sum();
        let keys = input.runs.iter().map(|run| {
            let seen = |view: &SegmentView| f64::from(view.num_tokens - view.first_seen);
            let seen: f64 = input.segments_of(run).iter().map(seen).sum();
            seen * f64::from(run.num_tokens)
        });
        let bytes = self.num_weights * self.weight_size + kv_tokens * self.kv_bytes_per_token as f64;
        let products = 2.0 * self.num_weights * input.tokens.len() as f64;
        let flops = products + 4.0 * self.attention_width * keys.sum::<f64>();
        Duration::from_secs_f64((bytes / self.bytes_per_second).max(flops / self.flops_per_second))
    }
}

/// A step, and what happened around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepCost {
    /// What it would have taken.
    pub modelled: Duration,
    /// From the end of the step before to its beginning: all that the engine did in between.
    pub between: Duration,
    /// Rows of logits that were asked for.
    pub num_rows: u32,
}

/// The steps of an executor so far, also after it has moved to another thread.
#[derive(Debug, Clone, Default)]
pub struct CostProbe(Arc<Mutex<Vec<StepCost>>>);

impl CostProbe {
    /// All steps but the first, which has none before it.
    #[must_use]
    pub fn steps(&self) -> Vec<StepCost> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The executor. Every logit is 1, so the greedy token is 0; it is also what is drawn.
#[derive(Debug)]
pub struct CostExecutor {
    model: CostModel,
    info: ExecutorInfo,
    probe: CostProbe,
    last_end: Option<Instant>,
}

impl CostExecutor {
    /// An executor with `num_blocks` blocks of 16 tokens.
    #[must_use]
    pub fn new(model: CostModel, vocab_size: u32, num_blocks: u32) -> CostExecutor {
        let info = ExecutorInfo {
            vocab_size,
            num_blocks,
            block_size: BlockSize::DEFAULT,
            kv_bytes_per_token: model.kv_bytes_per_token,
            max_step_tokens: 8192,
            max_context_tokens: 131_072,
            fingerprint: Fingerprint::of(&[("model", b"cost")]),
            capability: Capability::Logits,
        };
        CostExecutor { model, info, probe: CostProbe::default(), last_end: None }
    }

    /// Lets it draw tokens.
    #[must_use]
    pub fn sampling(mut self) -> CostExecutor {
        self.info.capability = Capability::Samples;
        self
    }

    /// The handle to observe it by.
    #[must_use]
    pub fn probe(&self) -> CostProbe {
        self.probe.clone()
    }
}

impl Executor for CostExecutor {
    fn info(&self) -> &ExecutorInfo {
        &self.info
    }

    fn execute(&mut self, input: &StepInput) -> Result<StepOutput, ExecError> {
        let begin = Instant::now();
        input.validate(&self.info)?;
        if let Some(end) = self.last_end {
            // At most `max_step_tokens` rows.
            let num_rows = input.output_tokens.len() as u32;
            let cost = StepCost { modelled: self.model.time(input), between: begin - end, num_rows };
            self.probe.0.lock().unwrap_or_else(PoisonError::into_inner).push(cost);
        }
        // Written here, so that whoever reads them does not pay for the memory's first use.
        let num_token_rows = input.num_token_rows();
        let num_logit_rows = input.output_tokens.len() - num_token_rows;
        let output = StepOutput {
            logits: vec![1.0; num_logit_rows * self.info.vocab_size as usize],
            tokens: vec![SampledRow::Token(TokenId(0)); num_token_rows],
        };
        self.last_end = Some(Instant::now());
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use lazy_attn_types::{BlockId, Position, Run, SegmentHandle};

    use super::*;

    /// `num_rows` sequences that decode over one document of `num_tokens` tokens.
    fn decodes(num_rows: u32, num_tokens: u32) -> StepInput {
        let view = SegmentView {
            handle: SegmentHandle(1),
            first_block: 0,
            num_blocks: num_tokens.div_ceil(16),
            first_seen: 0,
            num_tokens,
            start: Position(0),
        };
        let run = |row: u32| Run {
            first_token: row,
            num_tokens: 1,
            first_segment: row,
            num_segments: 1,
            first_local: num_tokens - 1,
        };
        StepInput {
            tokens: vec![TokenId(0); num_rows as usize],
            runs: (0..num_rows).map(run).collect(),
            segments: vec![view; num_rows as usize],
            block_ids: (0..num_tokens.div_ceil(16)).map(BlockId).collect(),
            output_tokens: (0..num_rows).collect(),
            ..StepInput::default()
        }
    }

    #[test]
    fn a_decode_costs_the_weights_and_a_shared_document_once() {
        let model = CostModel::llama_8b_on_h100();
        let alone = model.time(&decodes(1, 16));
        // 16.06 GB at 2.68 TB/s.
        assert!((5.9..6.1).contains(&(alone.as_secs_f64() * 1e3)), "{alone:?}");
        let (one, eight) = (model.time(&decodes(1, 4096)), model.time(&decodes(8, 4096)));
        assert_eq!(one, eight);
        // 4080 tokens of 128 KiB.
        assert!((0.19..0.21).contains(&((one - alone).as_secs_f64() * 1e3)), "{one:?}");
    }

    #[test]
    fn a_long_prompt_is_bound_by_arithmetic() {
        let model = CostModel::llama_8b_on_h100();
        let mut prompt = decodes(1, 4096);
        prompt.tokens = vec![TokenId(0); 4096];
        prompt.runs[0].num_tokens = 4096;
        prompt.runs[0].first_local = 0;
        // 66 TFLOP of products and 9 of attention.
        assert!(
            (140.0..160.0).contains(&(model.time(&prompt).as_secs_f64() * 1e3)),
            "{:?}",
            model.time(&prompt)
        );
    }
}
