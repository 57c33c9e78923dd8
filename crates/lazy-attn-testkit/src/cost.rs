//! An executor that computes nothing and knows what the step would have cost: the yardstick of everything around it.
//!
//! The time of a step is that of [`CostModel`], with every distinct segment read once however many sequences share it: the
//! best a kernel can do.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lazy_attn_types::{
    BlockSize, Capability, CostModel, ExecError, Executor, ExecutorInfo, Fingerprint, SampledRow, StepInput,
    StepOutput, StepSize, StoredKeys, TokenId,
};

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
            stored_keys: &[StoredKeys::Rotated],
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
            let cost =
                StepCost { modelled: self.model.time(&StepSize::of(input)), between: begin - end, num_rows };
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
    use lazy_attn_types::{BlockId, Position, Run, SegmentHandle, SegmentView};

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
            origin: Position(0),
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

    fn time(input: &StepInput) -> Duration {
        CostModel::llama_8b_on_h100().time(&StepSize::of(input))
    }

    #[test]
    fn a_decode_costs_the_weights_and_a_shared_document_once() {
        let alone = time(&decodes(1, 16));
        // 16.06 GB at 2.68 TB/s.
        assert!((5.9..6.1).contains(&(alone.as_secs_f64() * 1e3)), "{alone:?}");
        let (one, eight) = (time(&decodes(1, 4096)), time(&decodes(8, 4096)));
        assert_eq!(one, eight);
        // 4080 tokens of 128 KiB.
        assert!((0.19..0.21).contains(&((one - alone).as_secs_f64() * 1e3)), "{one:?}");
    }

    #[test]
    fn a_long_prompt_is_bound_by_arithmetic() {
        let mut prompt = decodes(1, 4096);
        prompt.tokens = vec![TokenId(0); 4096];
        prompt.runs[0].num_tokens = 4096;
        prompt.runs[0].first_local = 0;
        // 66 TFLOP of products and 4 of attention.
        assert!((135.0..150.0).contains(&(time(&prompt).as_secs_f64() * 1e3)), "{:?}", time(&prompt));
    }
}
