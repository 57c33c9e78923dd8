//! An executor that waits for the test before every step, and can spoil the logits of a row.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use lazy_attn_testkit::FakeExecutor;
use lazy_attn_types::{ExecError, Executor, ExecutorInfo, StepInput, StepOutput, TokenId};

pub(crate) struct Gated {
    inner: FakeExecutor,
    entered: Sender<()>,
    permits: Receiver<()>,
    poison: Arc<Mutex<Option<TokenId>>>,
}

/// The test's side.
pub(crate) struct Gate {
    entered: Receiver<()>,
    permits: Option<Sender<()>>,
    poison: Arc<Mutex<Option<TokenId>>>,
}

impl Gated {
    pub(crate) fn new(inner: FakeExecutor) -> (Gated, Gate) {
        let (entered, has_entered) = channel();
        let (permit, permits) = channel();
        let poison = Arc::default();
        let gate = Gate { entered: has_entered, permits: Some(permit), poison: Arc::clone(&poison) };
        (Gated { inner, entered, permits, poison }, gate)
    }
}

impl Gate {
    /// Returns when the engine has planned a step and is about to execute it.
    pub(crate) fn wait(&self) {
        self.entered.recv().unwrap();
    }

    /// Lets one step run.
    pub(crate) fn permit(&self) {
        self.permits.as_ref().unwrap().send(()).unwrap();
    }

    /// Waits for a step and lets it run.
    pub(crate) fn step(&self) {
        self.wait();
        self.permit();
    }

    /// From now on a logit of every row of `token` is NaN.
    pub(crate) fn poison(&self, token: TokenId) {
        *self.poison.lock().unwrap() = Some(token);
    }

    /// Lets every step run from now on.
    pub(crate) fn open(&mut self) {
        self.permits = None;
    }
}

impl Executor for Gated {
    fn info(&self) -> &ExecutorInfo {
        self.inner.info()
    }

    fn execute(&mut self, input: &StepInput) -> Result<StepOutput, ExecError> {
        let _ = self.entered.send(());
        // Without a test that permits, steps run freely.
        let _ = self.permits.recv();
        let mut output = self.inner.execute(input)?;
        let poison = *self.poison.lock().unwrap();
        let vocab_size = self.inner.info().vocab_size as usize;
        for (row, &token) in input.output_tokens.iter().enumerate() {
            if Some(input.tokens[token as usize]) == poison {
                output.logits[row * vocab_size] = f32::NAN;
            }
        }
        Ok(output)
    }
}
