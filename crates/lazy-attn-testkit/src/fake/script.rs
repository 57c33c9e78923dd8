//! What a test tells the fake executor, and what it can ask it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lazy_attn_types::{ExecError, StepInput, TokenId};

/// Shared with the executor, which usually lives on the engine's thread.
#[derive(Debug, Clone, Default)]
pub struct FakeProbe(Arc<Mutex<Script>>);

#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) inputs: Vec<StepInput>,
    pub(super) num_steps: u64,
    pub(super) failures: BTreeMap<u64, ExecError>,
    refusals: BTreeMap<u64, ExecError>,
    pub(super) forced: VecDeque<TokenId>,
    pub(super) forced_after: HashMap<TokenId, TokenId>,
    pub(super) spoilt: HashSet<TokenId>,
}

impl FakeProbe {
    /// Steps begun so far, failed ones included.
    #[must_use]
    pub fn num_steps(&self) -> u64 {
        self.script().num_steps
    }

    /// Every step so far.
    #[must_use]
    pub fn inputs(&self) -> Vec<StepInput> {
        self.script().inputs.clone()
    }

    /// Tokens run so far, over all steps: what a cache hit saves.
    #[must_use]
    pub fn num_tokens_run(&self) -> usize {
        self.script().inputs.iter().map(|input| input.tokens.len()).sum()
    }

    /// Makes step `step` (counted from 0) fail with `error`.
    pub fn fail_at(&self, step: u64, error: ExecError) {
        self.script().failures.insert(step, error);
    }

    /// Makes the submission of step `step` (counted from 0) fail with `error`.
    pub fn refuse_at(&self, step: u64, error: ExecError) {
        self.script().refusals.insert(step, error);
    }

    /// The next output rows choose `tokens`, one each, in the order of the rows.
    pub fn force(&self, tokens: impl IntoIterator<Item = TokenId>) {
        self.script().forced.extend(tokens);
    }

    /// Every output row whose own token is `after` chooses `then`. Independent of batching; [`FakeProbe::force`] wins.
    pub fn force_after(&self, after: TokenId, then: TokenId) {
        self.script().forced_after.insert(after, then);
    }

    /// From now on a logit of every row whose own token is `token` is NaN.
    pub fn spoil(&self, token: TokenId) {
        self.script().spoilt.insert(token);
    }

    /// Makes a sequence whose last prompt token is `tokens[0]` continue with the rest; the tokens must be distinct.
    pub fn force_chain(&self, tokens: &[TokenId]) {
        for pair in tokens.windows(2) {
            self.force_after(pair[0], pair[1]);
        }
    }

    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        // A panicking test thread must not hide its message behind a poisoned lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Script {
    pub(super) fn begin(&mut self, input: &StepInput) -> Option<ExecError> {
        let step = self.num_steps;
        self.num_steps += 1;
        self.inputs.push(input.clone());
        self.failures.remove(&step)
    }

    /// Why the step begun last is refused, if it is.
    pub(super) fn refusal(&mut self) -> Option<ExecError> {
        self.refusals.remove(&(self.num_steps - 1))
    }

    /// Changes the logits of a row whose own token is `own`, as it was told.
    pub(super) fn change(&mut self, logits: &mut [f32], own: TokenId) {
        if let Some(token) = self.forced.pop_front().or_else(|| self.forced_after.get(&own).copied()) {
            // Above every hashed logit, which lie below 8.
            logits[token.0 as usize] = 16.0;
        }
        if self.spoilt.contains(&own) {
            logits[0] = f32::NAN;
        }
    }
}
