//! The rows of a step's output: as logits, or as the token that the executor has drawn from them.

use super::{ExecError, ExecutorInfo, StepInput};
use crate::TokenId;

/// What an executor can do beside computing logits; each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Capability {
    /// Every row of output is a row of logits.
    #[default]
    Logits,
    /// It draws the token of a row where [`OutputKind::Token`] asks for it.
    Samples,
    /// It runs steps by [`Executor::submit`](super::Executor::submit) and [`Executor::wait`](super::Executor::wait), and
    /// resolves [`CarriedToken`]s, so that a step can be planned and submitted while the one before it runs.
    Overlaps,
}

/// How a row of output is wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OutputKind {
    /// Its logits.
    Logits,
    /// Only the token drawn from them.
    Token(RowSampling),
}

/// How the token of a row is drawn: temperature, top-k, top-p and min-p, in this order. Logits are taken as they are.
///
/// The number is Philox4x32-10 with key `seed` and counter `draw`; `lazy_attn_engine::sampling::sample_row` is the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowSampling {
    /// 0: the token of the largest logit, the first of equals.
    pub temperature: f32,
    /// Tokens that are kept; 0 keeps all.
    pub top_k: u32,
    /// Share of the weight that is kept; 1 keeps all.
    pub top_p: f32,
    /// Weight below which a token is dropped, the most likely one weighing 1.
    pub min_p: f32,
    /// Of the sequence.
    pub seed: u64,
    /// Tokens the sequence has drawn before: the number of the draw.
    pub draw: u64,
}

/// A token of a step that the host does not know yet: it is drawn by the step submitted before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CarriedToken {
    /// Entry of [`StepInput::tokens`] that it replaces.
    pub token: u32,
    /// Row of output of the step before, counted over all of them; a row of [`OutputKind::Token`].
    pub row: u32,
}

/// What a row of [`OutputKind::Token`] became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampledRow {
    /// This token was drawn.
    Token(TokenId),
    /// A logit is NaN or plus infinity.
    NotFinite,
    /// All logits are minus infinity.
    NothingAllowed,
}

/// One row of output, as it was wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OutputRow<'a> {
    /// `[vocab_size]`.
    Logits(&'a [f32]),
    /// What was drawn.
    Sampled(SampledRow),
}

/// What a step returns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepOutput {
    /// `[rows of OutputKind::Logits, vocab_size]`, row-major, float32, in the order of the rows.
    pub logits: Vec<f32>,
    /// One per row of [`OutputKind::Token`], in the order of the rows.
    pub tokens: Vec<SampledRow>,
}

impl StepOutput {
    /// The output of a step all of whose rows are logits.
    #[must_use]
    pub fn from_logits(logits: Vec<f32>) -> StepOutput {
        StepOutput { logits, tokens: Vec::new() }
    }

    /// Row `index` of the rows of logits.
    #[must_use]
    pub fn row(&self, index: usize, vocab_size: u32) -> &[f32] {
        &self.logits[index * vocab_size as usize..][..vocab_size as usize]
    }

    /// The rows of `input`, in the order of `output_tokens`. The output has passed [`StepOutput::check`].
    pub fn rows<'a>(&'a self, input: &StepInput, vocab_size: u32) -> impl Iterator<Item = OutputRow<'a>> {
        let (mut num_logit_rows, mut num_token_rows) = (0, 0);
        input.output_kinds().map(move |kind| match kind {
            OutputKind::Logits => {
                num_logit_rows += 1;
                OutputRow::Logits(self.row(num_logit_rows - 1, vocab_size))
            }
            OutputKind::Token(_) => {
                num_token_rows += 1;
                OutputRow::Sampled(self.tokens[num_token_rows - 1])
            }
        })
    }

    /// Checks that this can be the output of `input`: whoever executed it calls this before reading.
    ///
    /// # Errors
    /// [`ExecError::Failed`] for another number of logits or tokens than asked for, and a token outside the vocabulary.
    pub fn check(&self, input: &StepInput, info: &ExecutorInfo) -> Result<(), ExecError> {
        let num_token_rows = input.num_token_rows();
        let num_logits = (input.output_tokens.len() - num_token_rows) * info.vocab_size as usize;
        if self.logits.len() != num_logits {
            let got = self.logits.len();
            return Err(ExecError::Failed(format!("it returned {got} logits instead of {num_logits}")));
        }
        if self.tokens.len() != num_token_rows {
            let got = self.tokens.len();
            return Err(ExecError::Failed(format!("it drew {got} tokens instead of {num_token_rows}")));
        }
        let is_outside =
            |row: &&SampledRow| matches!(row, SampledRow::Token(token) if token.0 >= info.vocab_size);
        if let Some(row) = self.tokens.iter().find(is_outside) {
            return Err(ExecError::Failed(format!(
                "it drew {row:?}, but there are {} tokens",
                info.vocab_size
            )));
        }
        Ok(())
    }
}

impl StepInput {
    /// How each row of output is wanted, in the order of `output_tokens`.
    pub fn output_kinds(&self) -> impl Iterator<Item = OutputKind> + '_ {
        (0..self.output_tokens.len()).map(|row| self.outputs.get(row).copied().unwrap_or(OutputKind::Logits))
    }

    /// Rows of which only the token is wanted.
    #[must_use]
    pub fn num_token_rows(&self) -> usize {
        self.outputs.iter().filter(|kind| matches!(kind, OutputKind::Token(_))).count()
    }

    /// Checks what is asked of the rows and of the step before against what the executor can do.
    pub(super) fn validate_rows(&self, info: &ExecutorInfo) -> Result<(), ExecError> {
        let invalid = |what: &str| Err(ExecError::InvalidStep(what.into()));
        if !self.outputs.is_empty() && self.outputs.len() != self.output_tokens.len() {
            return invalid("it says of another number of rows how they are wanted than it has");
        }
        if self.num_token_rows() > 0 && info.capability < Capability::Samples {
            return invalid("it asks for tokens of an executor that does not sample");
        }
        if !self.carried.is_empty() && info.capability < Capability::Overlaps {
            return invalid("it carries tokens of an executor that does not overlap steps");
        }
        let num_tokens = self.tokens.len() as u64;
        let is_ascending = self.carried.is_sorted_by(|a, b| a.token < b.token);
        if !is_ascending || self.carried.iter().any(|carried| u64::from(carried.token) >= num_tokens) {
            return invalid("a carried token lies outside its tokens or replaces one twice");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{info, step};
    use super::*;

    const GREEDY: RowSampling =
        RowSampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 1, draw: 0 };

    fn mixed() -> StepInput {
        StepInput {
            output_tokens: vec![0, 0, 1],
            outputs: vec![OutputKind::Token(GREEDY), OutputKind::Logits, OutputKind::Token(GREEDY)],
            ..step()
        }
    }

    #[test]
    fn rows_come_in_their_order_whatever_they_are() {
        let logits: Vec<f32> = (0..10u8).map(f32::from).collect();
        let drawn = [SampledRow::Token(TokenId(4)), SampledRow::NotFinite];
        let output = StepOutput { logits: logits.clone(), tokens: drawn.into() };
        output.check(&mixed(), &info()).unwrap();
        let rows: Vec<_> = output.rows(&mixed(), 10).collect();
        let expected =
            [OutputRow::Sampled(drawn[0]), OutputRow::Logits(&logits), OutputRow::Sampled(drawn[1])];
        assert_eq!(rows, expected);
        let plain = StepOutput::from_logits(logits.clone());
        plain.check(&step(), &info()).unwrap();
        assert_eq!(plain.rows(&step(), 10).collect::<Vec<_>>(), [OutputRow::Logits(&logits)]);
    }

    #[test]
    fn an_output_of_another_step_is_refused() {
        let token = |id| SampledRow::Token(TokenId(id));
        let wrong = [
            StepOutput { logits: vec![0.0; 9], tokens: vec![token(0); 2] },
            StepOutput { logits: vec![0.0; 10], tokens: vec![token(0)] },
            StepOutput { logits: vec![0.0; 10], tokens: vec![token(0), token(10)] },
        ];
        for output in wrong {
            assert!(matches!(output.check(&mixed(), &info()), Err(ExecError::Failed(_))), "{output:?}");
        }
    }

    #[test]
    fn only_what_an_executor_can_do_is_asked_of_it() {
        let with = |capability| ExecutorInfo { capability, ..info() };
        let carrying = StepInput { carried: vec![CarriedToken { token: 1, row: 0 }], ..mixed() };
        assert!(mixed().validate(&with(Capability::Logits)).is_err());
        mixed().validate(&with(Capability::Samples)).unwrap();
        assert!(carrying.validate(&with(Capability::Samples)).is_err());
        carrying.validate(&with(Capability::Overlaps)).unwrap();
        let outside = StepInput { carried: vec![CarriedToken { token: 2, row: 0 }], ..mixed() };
        let twice = StepInput { carried: vec![CarriedToken { token: 1, row: 0 }; 2], ..mixed() };
        let short = StepInput { outputs: vec![OutputKind::Logits], ..mixed() };
        for broken in [outside, twice, short] {
            assert!(broken.validate(&with(Capability::Overlaps)).is_err(), "{broken:?}");
        }
    }
}
