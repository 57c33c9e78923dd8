//! The contract between the control plane and the data plane.
//!
//! The control plane flattens a step into [`StepInput`]; an [`Executor`] runs it and returns [`StepOutput`]. Neither
//! side knows more of the other than these arrays.

mod focus;
mod reencode;
mod rows;

pub use focus::FocusedView;
pub use reencode::Reencoding;
pub use rows::{Capability, CarriedToken, OutputKind, OutputRow, RowSampling, SampledRow, StepOutput};

use crate::{BlockId, BlockSize, Fingerprint, Position, StoredKeys, TokenId};

/// Identity of a segment's physical storage: views with equal handles read the same blocks, whatever their start.
/// Planners group by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentHandle(pub u64);

/// A segment as one run sees it: whole, or the part of its tokens `first_seen..num_tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentView {
    /// Which storage it is.
    pub handle: SegmentHandle,
    /// First entry of its block list in [`StepInput::block_ids`].
    pub first_block: u32,
    /// Entries of its block list.
    pub num_blocks: u32,
    /// The first token that is seen, a multiple of [`Executor::view_grain`]; 0 in the segment that the run writes.
    pub first_seen: u32,
    /// One past the last token that is seen: at most the valid ones, those written in this step included.
    pub num_tokens: u32,
    /// Logical position of its token 0, seen or not, in this run's context.
    pub start: Position,
    /// Position from which its stored keys are rotated: key `i` by `start + i - origin`, and so the query at `p` by
    /// `p - origin`. `start` where one copy serves every place; another one for a segment that was re-encoded.
    pub origin: Position,
}

/// Contiguous tokens of one segment, run in one context.
///
/// The last segment of the run is the one its tokens are written to: token `first_token + t` is that segment's token
/// `first_local + t`, at position `start + first_local + t`. It sees the tokens that the views of earlier segments show, and
/// its own segment up to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First entry in [`StepInput::tokens`].
    pub first_token: u32,
    /// Tokens of the run, at least one.
    pub num_tokens: u32,
    /// First entry in [`StepInput::segments`].
    pub first_segment: u32,
    /// Segments of the context, at least one.
    pub num_segments: u32,
    /// Index of the run's first token inside the last segment.
    pub first_local: u32,
}

/// How often a segment is read that several runs of a step see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SharedReads {
    /// Once for all of them, where that is worth it.
    #[default]
    Once,
    /// Once for each, as kernels do that know a context as one list of blocks: for comparison.
    Apart,
}

/// Everything one step needs, flat.
///
/// In every layer all keys and values of the step are written before any is read, so a run may read a segment that
/// another run of the same step completes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepInput {
    /// Tokens of all runs, back to back in the order of `runs`.
    pub tokens: Vec<TokenId>,
    /// The runs; their token ranges tile `tokens`.
    pub runs: Vec<Run>,
    /// Segment views of all runs.
    pub segments: Vec<SegmentView>,
    /// Block lists of all segments; views of one handle may share their range.
    pub block_ids: Vec<BlockId>,
    /// Entries of `tokens` whose logits are wanted, or a token drawn from them, ascending: the rows of output.
    pub output_tokens: Vec<u32>,
    /// How each row of output is wanted; empty: the logits of all.
    pub outputs: Vec<OutputKind>,
    /// Entries of `tokens` that the step before draws, ascending; what stands in `tokens` for them is not looked at. Only
    /// for an executor that [overlaps](Capability::Overlaps) steps.
    pub carried: Vec<CarriedToken>,
    /// How keys are stored; the same in all steps over one cache. Raw ones are read whole.
    pub stored_keys: StoredKeys,
    /// How often segments are read that several runs see.
    pub shared_reads: SharedReads,
    /// Documents that come to another position before anything of the step is run, in this order. Only where keys
    /// are [`StoredKeys::Rotated`].
    pub reencodings: Vec<Reencoding>,
    /// Views of documents that attention weighs otherwise, ascending. Only for an executor that
    /// [focuses](Executor::focuses_documents).
    pub focused: Vec<FocusedView>,
}

impl StepInput {
    /// The segment views of `run`.
    #[must_use]
    pub fn segments_of(&self, run: &Run) -> &[SegmentView] {
        &self.segments[run.first_segment as usize..][..run.num_segments as usize]
    }

    /// The block list of `view`.
    #[must_use]
    pub fn blocks_of(&self, view: &SegmentView) -> &[BlockId] {
        &self.block_ids[view.first_block as usize..][..view.num_blocks as usize]
    }

    /// Checks that every range and id lies inside its array; an executor calls it before touching memory.
    ///
    /// # Errors
    /// [`ExecError::InvalidStep`] naming the first thing that does not fit.
    pub fn validate(&self, info: &ExecutorInfo) -> Result<(), ExecError> {
        let mut next_token = 0u64;
        for (index, run) in self.runs.iter().enumerate() {
            let invalid = |what: &str| Err(ExecError::InvalidStep(format!("run {index}: {what}")));
            if u64::from(run.first_token) != next_token || run.num_tokens == 0 {
                return invalid("its tokens do not follow the last run's");
            }
            next_token += u64::from(run.num_tokens);
            let segments_end = u64::from(run.first_segment) + u64::from(run.num_segments);
            if run.num_segments == 0 || segments_end > self.segments.len() as u64 {
                return invalid("its segments lie outside the list");
            }
            self.validate_views(index, run, info)?;
        }
        let tokens_fit = next_token == self.tokens.len() as u64
            && self.tokens.iter().all(|token| token.0 < info.vocab_size)
            && self.output_tokens.iter().all(|&token| u64::from(token) < next_token)
            && self.output_tokens.is_sorted();
        if !tokens_fit {
            return Err(ExecError::InvalidStep("a token or output lies outside its range".into()));
        }
        if !info.stored_keys.contains(&self.stored_keys) {
            let problem =
                format!("its keys are to be stored {:?}, which the executor cannot", self.stored_keys);
            return Err(ExecError::InvalidStep(problem));
        }
        self.validate_focus()?;
        self.validate_reencodings(info)?;
        self.validate_rows(info)
    }

    fn validate_views(&self, index: usize, run: &Run, info: &ExecutorInfo) -> Result<(), ExecError> {
        let views = self.segments_of(run);
        for (entry, view) in views.iter().enumerate() {
            let blocks_end = u64::from(view.first_block) + u64::from(view.num_blocks);
            let capacity = u64::from(view.num_blocks) * u64::from(info.block_size.get());
            let fits = blocks_end <= self.block_ids.len() as u64
                && u64::from(view.num_tokens) <= capacity
                && view.first_seen <= view.num_tokens
                && u64::from(view.start.0) + u64::from(view.num_tokens) <= u64::from(Position::MAX.0)
                && view.origin <= Position::MAX
                && (self.stored_keys == StoredKeys::Rotated || view.first_seen == 0)
                && self.blocks_of(view).iter().all(|block| block.0 < info.num_blocks);
            if !fits {
                return Err(ExecError::InvalidStep(format!(
                    "run {index}: segment {entry} lies outside the pool"
                )));
            }
        }
        let own = views[views.len() - 1];
        if own.first_seen != 0 {
            return Err(ExecError::InvalidStep(format!(
                "run {index}: it writes a segment that it sees in part"
            )));
        }
        if u64::from(run.first_local) + u64::from(run.num_tokens) > u64::from(own.num_tokens) {
            return Err(ExecError::InvalidStep(format!("run {index}: it writes past its segment")));
        }
        Ok(())
    }
}

/// Sizes and identity of an executor, fixed for its life.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutorInfo {
    /// Logits per row.
    pub vocab_size: u32,
    /// Blocks of its KV store; ids are `0..num_blocks`.
    pub num_blocks: u32,
    /// Tokens per block.
    pub block_size: BlockSize,
    /// Bytes of keys and values per token: 2 x layers x KV heads x head_dim x element size.
    pub kv_bytes_per_token: u64,
    /// Most tokens one step may run.
    pub max_step_tokens: u32,
    /// Longest context (prompt and output) the model was made for.
    pub max_context_tokens: u32,
    /// Weights, config and KV dtype, as far as they decide what a segment's KV is.
    pub fingerprint: Fingerprint,
    /// What it can do beside computing logits.
    pub capability: Capability,
    /// How it can store keys; a step says how.
    pub stored_keys: &'static [StoredKeys],
}

/// Why a step did not run.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// The control plane broke the contract; a bug, not bad input.
    #[error("invalid step: {0}; this is a bug in the engine, please report it")]
    InvalidStep(String),
    /// The device or a kernel failed.
    #[error("the executor failed: {0}")]
    Failed(String),
    /// The device answers nothing any more: no later step can run, and nothing it holds is valid.
    #[error(
        "the device is lost: {0}; restart the process, and look at `nvidia-smi` and the kernel log (`dmesg`, lines with \
         Xid) for the cause"
    )]
    DeviceLost(String),
}

/// The block lists of two segments with the same tokens.
#[derive(Debug, Clone, Copy)]
pub struct BlockPairs<'a> {
    /// Whose keys are looked at.
    pub keys: &'a [BlockId],
    /// What they are compared with, as many blocks.
    pub originals: &'a [BlockId],
    /// Tokens of each segment.
    pub num_tokens: u32,
}

/// Runs steps. Owns weights and KV store; knows nothing of requests, documents or tenants.
///
/// [`Executor::execute`] runs one step after the other. An executor whose capability is [`Capability::Overlaps`] is driven by
/// [`Executor::submit`] and [`Executor::wait`] instead, with up to two steps between the two: they run in the order in which
/// they were submitted, each as if the one before it had ended. Blocks that a step in flight reads or writes are given to
/// nobody else before its `wait`. A row that is carried may turn out to be [`SampledRow::NotFinite`] or to end its sequence:
/// the next step runs any token of the vocabulary for it, and nobody reads what comes of it.
pub trait Executor: Send {
    /// Sizes and identity.
    fn info(&self) -> &ExecutorInfo;

    /// Of how many tokens [`SegmentView::first_seen`] is a multiple, at least one; nothing if runs see segments from token 0 on
    /// only. An executor that forwards to another one forwards this too.
    fn view_grain(&self) -> Option<u32> {
        Some(1)
    }

    /// Whether it takes [`StepInput::focused`]. An executor that forwards to another one forwards this too.
    fn focuses_documents(&self) -> bool {
        false
    }

    /// How far the keys of one segment are from those of another with the same tokens: per block the mean over layers of the
    /// squared distance over the squared length. Both are as steps that have ended left them. An executor that forwards to
    /// another one forwards this too.
    ///
    /// # Errors
    /// [`ExecError::Failed`] if it cannot tell, as by default.
    fn key_deviation(&mut self, blocks: BlockPairs<'_>) -> Result<Vec<f32>, ExecError> {
        let _ = blocks;
        Err(ExecError::Failed("this executor does not compare keys".into()))
    }

    /// Writes the KV of every token of `input`, and returns the rows of `input.output_tokens`.
    ///
    /// # Errors
    /// [`ExecError`]; the slots the step would have written hold nothing valid afterwards.
    fn execute(&mut self, input: &StepInput) -> Result<StepOutput, ExecError>;

    /// Begins a step and returns, usually before it has run. Whatever it needs of `input` is copied.
    ///
    /// # Errors
    /// [`ExecError`] if the step was not begun: there will be no [`Executor::wait`] for it, and steps submitted before it are
    /// not touched. By default always: the executor runs steps one by one.
    fn submit(&mut self, input: &StepInput) -> Result<(), ExecError> {
        let _ = input;
        Err(ExecError::InvalidStep("it was submitted to an executor that runs steps one by one".into()))
    }

    /// Waits for the earliest step that was submitted and not waited for, and returns its rows.
    ///
    /// # Errors
    /// [`ExecError`]; the slots the step would have written hold nothing valid afterwards, and those of a step submitted
    /// behind it neither: whatever its own `wait`, which is called too, returns. By default always.
    fn wait(&mut self) -> Result<StepOutput, ExecError> {
        Err(ExecError::InvalidStep("nothing was submitted".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn info() -> ExecutorInfo {
        ExecutorInfo {
            vocab_size: 10,
            num_blocks: 4,
            block_size: BlockSize::DEFAULT,
            kv_bytes_per_token: 8,
            max_step_tokens: 64,
            max_context_tokens: 128,
            fingerprint: Fingerprint([0; 32]),
            capability: Capability::Samples,
            stored_keys: &[StoredKeys::Rotated],
        }
    }

    pub(super) fn step() -> StepInput {
        let view = SegmentView {
            handle: SegmentHandle(1),
            first_block: 0,
            num_blocks: 1,
            first_seen: 0,
            num_tokens: 2,
            start: Position(0),
            origin: Position(0),
        };
        StepInput {
            tokens: vec![TokenId(1), TokenId(2)],
            runs: vec![Run {
                first_token: 0,
                num_tokens: 2,
                first_segment: 0,
                num_segments: 1,
                first_local: 0,
            }],
            segments: vec![view],
            block_ids: vec![BlockId(3)],
            output_tokens: vec![1],
            ..StepInput::default()
        }
    }

    #[test]
    fn a_step_inside_its_arrays_is_valid() {
        step().validate(&info()).unwrap();
    }

    #[test]
    fn every_way_out_of_an_array_is_refused() {
        let breaks: [fn(&mut StepInput); 12] = [
            |s| s.tokens[0] = TokenId(10),
            |s| s.runs[0].first_token = 1,
            |s| s.runs[0].num_tokens = 0,
            |s| s.runs[0].num_segments = 2,
            |s| s.segments[0].num_blocks = 2,
            |s| s.segments[0].num_tokens = 17,
            |s| s.segments[0].first_seen = 1,
            |s| s.segments[0].first_seen = 17,
            |s| s.block_ids[0] = BlockId(4),
            |s| s.output_tokens = vec![2],
            |s| s.runs[0].first_local = 1,
            |s| s.stored_keys = StoredKeys::Raw,
        ];
        for (index, change) in breaks.into_iter().enumerate() {
            let mut broken = step();
            change(&mut broken);
            assert!(broken.validate(&info()).is_err(), "case {index} passed");
        }
    }
}
