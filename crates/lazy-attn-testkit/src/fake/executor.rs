//! The fake executor.

use std::collections::{HashMap, HashSet};

use lazy_attn_types::{
    BlockId, BlockPairs, BlockSize, Capability, ExecError, Executor, ExecutorInfo, Fingerprint, OutputKind,
    Run, SegmentHandle, SegmentView, StepInput, StepOutput, StoredKeys,
};

use super::hash::{close, logits, seen, token_hash};
use super::pipeline::Pipeline;
use super::sampler::RowSampler;
use super::script::FakeProbe;
use super::store::{Entry, Store, rotation};

/// Sizes of a fake executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FakeConfig {
    /// Logits per row.
    pub vocab_size: u32,
    /// Blocks of the store.
    pub num_blocks: u32,
    /// Tokens per block.
    pub block_size: BlockSize,
    /// Most tokens of a step; a longer one is refused as invalid.
    pub max_step_tokens: u32,
    /// Longest context.
    pub max_context_tokens: u32,
    /// Window of every row, by logical distance.
    pub sliding_window: Option<u32>,
}

impl Default for FakeConfig {
    fn default() -> FakeConfig {
        FakeConfig {
            vocab_size: 97,
            num_blocks: 1024,
            block_size: BlockSize::DEFAULT,
            max_step_tokens: 512,
            max_context_tokens: 8192,
            sliding_window: None,
        }
    }
}

/// An executor whose tokens are a hash of what each row sees.
#[derive(Debug)]
pub struct FakeExecutor {
    info: ExecutorInfo,
    sliding_window: Option<u32>,
    store: Store,
    probe: FakeProbe,
    sampler: Option<RowSampler>,
    pub(super) pipeline: Pipeline,
}

/// Which layer's values are read.
#[derive(Clone, Copy)]
enum Layer {
    Tokens,
    States,
}

impl FakeExecutor {
    /// An executor with an empty store.
    #[must_use]
    pub fn new(config: FakeConfig) -> FakeExecutor {
        let info = ExecutorInfo {
            vocab_size: config.vocab_size,
            num_blocks: config.num_blocks,
            block_size: config.block_size,
            kv_bytes_per_token: 64,
            max_step_tokens: config.max_step_tokens,
            max_context_tokens: config.max_context_tokens,
            fingerprint: Fingerprint::of(&[("model", b"fake")]),
            capability: Capability::Logits,
            stored_keys: &[StoredKeys::Rotated, StoredKeys::Raw],
        };
        FakeExecutor {
            info,
            sliding_window: config.sliding_window,
            store: Store::new(config.num_blocks, config.block_size),
            probe: FakeProbe::default(),
            sampler: None,
            pipeline: Pipeline::default(),
        }
    }

    /// Lets it draw tokens, by `sampler`.
    #[must_use]
    pub fn sampling(mut self, sampler: RowSampler) -> FakeExecutor {
        self.info.capability = Capability::Samples;
        self.sampler = Some(sampler);
        self
    }

    /// Lets it run submitted steps, each when it is waited for; it draws tokens.
    #[must_use]
    pub fn overlapping(mut self, sampler: RowSampler) -> FakeExecutor {
        self = self.sampling(sampler);
        self.info.capability = Capability::Overlaps;
        self
    }

    /// The handle to script and observe it by, also after it has moved to another thread.
    #[must_use]
    pub fn probe(&self) -> FakeProbe {
        self.probe.clone()
    }

    fn check(&self, input: &StepInput) -> Result<(), ExecError> {
        input.validate(&self.info)?;
        let num_tokens = input.tokens.len();
        if num_tokens > self.info.max_step_tokens as usize {
            return Err(ExecError::InvalidStep(format!(
                "it runs {num_tokens} tokens of at most {}",
                self.info.max_step_tokens
            )));
        }
        check_handles(input)
    }

    /// Slots the step writes, one per token.
    fn written_slots(&self, input: &StepInput) -> Result<Vec<usize>, ExecError> {
        let mut slots = Vec::with_capacity(input.tokens.len());
        for run in &input.runs {
            let own = own_view(input, run);
            let locals = run.first_local..run.first_local + run.num_tokens;
            slots.extend(locals.map(|local| self.store.slot(input, &own, local)));
        }
        let distinct: HashSet<usize> = slots.iter().copied().collect();
        if distinct.len() < slots.len() {
            return Err(ExecError::InvalidStep("two tokens are written to one slot".into()));
        }
        Ok(slots)
    }

    /// Hash of what token `index` of `run` sees of `layer`, itself included.
    fn row(&self, input: &StepInput, run: &Run, index: u32, layer: Layer) -> Result<u64, ExecError> {
        let views = input.segments_of(run);
        let own = own_view(input, run);
        let local = run.first_local + index;
        let position = own.start.0 + local;
        let mut sum = 0u64;
        for (entry, view) in views.iter().enumerate() {
            let is_own = entry + 1 == views.len();
            let end = if is_own { local + 1 } else { view.num_tokens };
            // Keys at positions above `position - window` only.
            let hidden = self.sliding_window.map_or(0, |window| (position + 1).saturating_sub(window));
            for key in hidden.saturating_sub(view.start.0).max(view.first_seen)..end {
                let stored = self.store.read(input, view, key)?;
                let distance = i64::from(position) - i64::from(view.start.0 + key);
                sum = sum.wrapping_add(seen(value(stored, layer), distance));
            }
        }
        let own = value(self.store.read(input, &own, local)?, layer);
        Ok(close(own, sum))
    }

    fn run(&mut self, input: &StepInput, failure: Option<ExecError>) -> Result<StepOutput, ExecError> {
        let mut slots = self.written_slots(input)?;
        let result = match failure {
            Some(error) => Err(error),
            None => self.reencode(input).and_then(|()| self.run_layers(input, &slots)),
        };
        if result.is_err() {
            // The contract: what a failed step would have written holds nothing valid.
            let reencodings = input.reencodings.iter();
            let reencoded = reencodings.flat_map(|reencoding| self.store.reencoded_slots(input, reencoding));
            slots.extend(reencoded.map(|(_, to)| to));
            for &slot in &slots {
                self.store.write(slot, None);
            }
        }
        result
    }

    fn reencode(&mut self, input: &StepInput) -> Result<(), ExecError> {
        input.reencodings.iter().try_for_each(|reencoding| self.store.reencode(input, reencoding))
    }

    fn run_layers(&mut self, input: &StepInput, slots: &[usize]) -> Result<StepOutput, ExecError> {
        let rows: Vec<(&Run, u32)> =
            input.runs.iter().flat_map(|run| (0..run.num_tokens).map(move |index| (run, index))).collect();
        for ((&slot, &(run, index)), token) in slots.iter().zip(&rows).zip(&input.tokens) {
            let local = run.first_local + index;
            let rotation = rotation(input, &own_view(input, run), local);
            self.store.write(slot, Some(Entry { token: token.0, local, rotation, state: 0 }));
        }
        let states: Result<Vec<u64>, ExecError> =
            rows.iter().map(|&(run, index)| self.row(input, run, index, Layer::Tokens)).collect();
        for (&slot, state) in slots.iter().zip(states?) {
            self.store.set_state(slot, state);
        }
        let mut result = StepOutput::default();
        for (&output, kind) in input.output_tokens.iter().zip(input.output_kinds()) {
            let (run, index) = rows[output as usize];
            let hash = self.row(input, run, index, Layer::States)?;
            let mut row: Vec<f32> = logits(hash, self.info.vocab_size).collect();
            self.probe.script().change(&mut row, input.tokens[output as usize]);
            match (kind, &mut self.sampler) {
                (OutputKind::Token(sampling), Some(sampler)) => {
                    result.tokens.push(sampler.draw(&row, &sampling));
                }
                _ => result.logits.append(&mut row),
            }
        }
        Ok(result)
    }
}

impl Executor for FakeExecutor {
    fn info(&self) -> &ExecutorInfo {
        &self.info
    }

    /// The part of a block's tokens that saw something else.
    fn key_deviation(&mut self, blocks: BlockPairs<'_>) -> Result<Vec<f32>, ExecError> {
        let block_size = self.info.block_size.get();
        let differing = |(first, (&a, &b)): (u32, (&BlockId, &BlockId))| {
            let num_tokens = block_size.min(blocks.num_tokens - first * block_size) as usize;
            let pairs = self.store.block(a).iter().zip(self.store.block(b)).take(num_tokens);
            let states = pairs.map(|(a, b)| [a, b].map(|entry| entry.map(|entry| entry.state)));
            states.filter(|[a, b]| a != b).count() as f32 / num_tokens as f32
        };
        Ok((0..).zip(blocks.keys.iter().zip(blocks.originals)).map(differing).collect())
    }

    fn execute(&mut self, input: &StepInput) -> Result<StepOutput, ExecError> {
        let failure = self.probe.script().begin(input);
        self.check(input)?;
        self.run(input, failure)
    }

    fn submit(&mut self, input: &StepInput) -> Result<(), ExecError> {
        let failure = self.probe.script().begin(input);
        self.check(input)?;
        if let Some(error) = self.probe.script().refusal() {
            return Err(error);
        }
        self.pipeline.push(input, failure, self.info.block_size)
    }

    fn wait(&mut self) -> Result<StepOutput, ExecError> {
        let (input, failure) = self.pipeline.pop()?;
        let output = self.run(&input, failure);
        self.pipeline.ended(&input, output.as_ref().ok());
        output
    }
}

fn value(entry: Entry, layer: Layer) -> u64 {
    match layer {
        Layer::Tokens => token_hash(entry.token),
        Layer::States => entry.state,
    }
}

fn own_view(input: &StepInput, run: &Run) -> SegmentView {
    // `StepInput::validate` has refused runs without segments.
    input.segments_of(run)[run.num_segments as usize - 1]
}

/// Views with equal handles must read the same blocks: planners group by the handle.
fn check_handles(input: &StepInput) -> Result<(), ExecError> {
    let mut lists: HashMap<SegmentHandle, &[BlockId]> = HashMap::new();
    for view in &input.segments {
        let blocks = input.blocks_of(view);
        let known = lists.entry(view.handle).or_insert(blocks);
        let common = known.len().min(blocks.len());
        if known[..common] != blocks[..common] {
            return Err(ExecError::InvalidStep(format!(
                "segment {} has two different block lists",
                view.handle.0
            )));
        }
        if blocks.len() > known.len() {
            *known = blocks;
        }
    }
    Ok(())
}
