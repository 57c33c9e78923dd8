//! Steps that were submitted and not waited for.

use std::collections::{HashMap, VecDeque};

use lazy_attn_types::{
    BlockId, BlockSize, CarriedToken, ExecError, OutputKind, OutputRow, SampledRow, SegmentHandle, StepInput,
    StepOutput, TokenId,
};

const MAX_STEPS: usize = 2;

/// The steps in flight, oldest first, and what the ones behind them may take over.
#[derive(Debug, Default)]
pub(super) struct Pipeline {
    steps: VecDeque<(StepInput, Option<ExecError>)>,
    /// How the rows of the step submitted last are wanted.
    kinds: Vec<OutputKind>,
    /// Tokens of the rows of the step that ended last.
    drawn: Vec<TokenId>,
    /// Why the step in flight is void.
    void: Option<ExecError>,
}

impl Pipeline {
    /// Takes a step; it fails with `failure` when it is waited for.
    pub(super) fn push(
        &mut self,
        input: &StepInput,
        failure: Option<ExecError>,
        block_size: BlockSize,
    ) -> Result<(), ExecError> {
        if self.steps.len() == MAX_STEPS {
            return Err(ExecError::InvalidStep(format!("{MAX_STEPS} steps are in flight already")));
        }
        for carried in &input.carried {
            if !matches!(self.kinds.get(carried.row as usize), Some(OutputKind::Token(_))) {
                return Err(ExecError::InvalidStep(format!("{carried:?} is of no row that is drawn")));
            }
        }
        self.check_blocks(input, block_size)?;
        self.kinds = input.output_kinds().collect();
        self.steps.push_back((input.clone(), failure));
        Ok(())
    }

    /// Blocks in flight belong to their segments.
    fn check_blocks(&self, input: &StepInput, block_size: BlockSize) -> Result<(), ExecError> {
        let in_flight: HashMap<BlockId, SegmentHandle> =
            self.steps.iter().flat_map(|(step, _)| owners(step, block_size)).collect();
        for (block, handle) in owners(input, block_size) {
            let owner = in_flight.get(&block).copied().unwrap_or(handle);
            if owner != handle {
                let (block, owner, handle) = (block.0, owner.0, handle.0);
                return Err(ExecError::InvalidStep(format!(
                    "block {block} of segment {owner} is in flight and was given to segment {handle}"
                )));
            }
        }
        Ok(())
    }

    /// The oldest step, with its carried tokens, and why it fails, if it does.
    pub(super) fn pop(&mut self) -> Result<(StepInput, Option<ExecError>), ExecError> {
        let Some((mut input, failure)) = self.steps.pop_front() else {
            return Err(ExecError::InvalidStep("nothing was submitted".into()));
        };
        for &CarriedToken { token, row } in &input.carried {
            // The rows of a failed step drew nothing; the step behind it is void.
            input.tokens[token as usize] = self.drawn.get(row as usize).copied().unwrap_or(TokenId(0));
        }
        Ok((input, self.void.take().or(failure)))
    }

    /// `input` ended with `output`, or failed.
    pub(super) fn ended(&mut self, input: &StepInput, output: Option<&StepOutput>) {
        self.drawn.clear();
        match output {
            Some(output) => self.drawn.extend(drawn(input, output)),
            None if !self.steps.is_empty() => {
                self.void = Some(ExecError::Failed("the step before it failed".into()));
            }
            None => {}
        }
    }
}

/// The token of every row; any token where none was drawn.
fn drawn(input: &StepInput, output: &StepOutput) -> impl Iterator<Item = TokenId> {
    let row = |row| match row {
        OutputRow::Sampled(SampledRow::Token(token)) => token,
        OutputRow::Sampled(_) | OutputRow::Logits(_) => TokenId(0),
    };
    let num_logit_rows = (input.output_tokens.len() - input.num_token_rows()).max(1);
    let vocab_size = (output.logits.len() / num_logit_rows) as u32;
    output.rows(input, vocab_size).map(row)
}

/// Whose each block is that the step reads or writes.
fn owners(input: &StepInput, block_size: BlockSize) -> impl Iterator<Item = (BlockId, SegmentHandle)> {
    let views = input.segments.iter().map(|view| (input.blocks_of(view), view.handle));
    let reencoded = input.reencodings.iter().flat_map(move |reencoding| {
        let (from, to) = input.blocks_of_reencoding(reencoding, block_size);
        [(from, reencoding.from), (to, reencoding.to)]
    });
    views.chain(reencoded).flat_map(|(blocks, handle)| blocks.iter().map(move |&block| (block, handle)))
}
