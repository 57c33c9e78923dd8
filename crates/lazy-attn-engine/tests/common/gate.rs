//! An executor that waits for the test before every step.

use std::sync::mpsc::{Receiver, Sender, channel};

use lazy_attn_testkit::FakeExecutor;
use lazy_attn_types::{BlockPairs, ExecError, Executor, ExecutorInfo, StepInput, StepOutput};

pub(crate) struct Gated {
    inner: FakeExecutor,
    entered: Sender<()>,
    permits: Receiver<()>,
}

/// The test's side.
pub(crate) struct Gate {
    entered: Receiver<()>,
    permits: Option<Sender<()>>,
}

impl Gated {
    pub(crate) fn new(inner: FakeExecutor) -> (Gated, Gate) {
        let (entered, has_entered) = channel();
        let (permit, permits) = channel();
        let gate = Gate { entered: has_entered, permits: Some(permit) };
        (Gated { inner, entered, permits }, gate)
    }
}

impl Gate {
    /// Returns when the engine has planned a step and is about to execute it, or to wait for it.
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

    /// Lets every step run from now on.
    pub(crate) fn open(&mut self) {
        self.permits = None;
    }
}

impl Executor for Gated {
    fn info(&self) -> &ExecutorInfo {
        self.inner.info()
    }

    fn key_deviation(&mut self, blocks: BlockPairs<'_>) -> Result<Vec<f32>, ExecError> {
        self.inner.key_deviation(blocks)
    }

    fn execute(&mut self, input: &StepInput) -> Result<StepOutput, ExecError> {
        let _ = self.entered.send(());
        // Without a test that permits, steps run freely.
        let _ = self.permits.recv();
        self.inner.execute(input)
    }

    fn submit(&mut self, input: &StepInput) -> Result<(), ExecError> {
        self.inner.submit(input)
    }

    fn wait(&mut self) -> Result<StepOutput, ExecError> {
        let _ = self.entered.send(());
        let _ = self.permits.recv();
        self.inner.wait()
    }
}
