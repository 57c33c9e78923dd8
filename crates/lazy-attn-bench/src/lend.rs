//! One executor for one engine after the other.

use std::sync::{Arc, Mutex, PoisonError};

use lazy_attn_types::{BlockPairs, ExecError, Executor, ExecutorInfo, StepInput, StepOutput};

/// An executor that outlives the engines that run over it: its weights are loaded once.
///
/// An engine begins with an empty cache and reads no slot it has not written, so what the last one left in the blocks does not
/// matter. Only one engine at a time may run.
#[derive(Clone)]
pub struct LentExecutor {
    executor: Arc<Mutex<Box<dyn Executor>>>,
    info: ExecutorInfo,
    view_grain: Option<u32>,
    focuses_documents: bool,
}

impl LentExecutor {
    /// Makes `executor` lendable.
    #[must_use]
    pub fn new(executor: Box<dyn Executor>) -> LentExecutor {
        let (info, view_grain) = (executor.info().clone(), executor.view_grain());
        let focuses_documents = executor.focuses_documents();
        LentExecutor { executor: Arc::new(Mutex::new(executor)), info, view_grain, focuses_documents }
    }

    /// Sizes and identity.
    #[must_use]
    pub fn info(&self) -> &ExecutorInfo {
        &self.info
    }

    /// The executor with room for `num_tokens` of KV only, rounded up to whole blocks, and never more than it has.
    #[must_use]
    pub fn lend(&self, num_tokens: Option<u64>) -> Box<dyn Executor> {
        let mut lent = self.clone();
        if let Some(num_tokens) = num_tokens {
            let blocks = num_tokens.div_ceil(u64::from(self.info.block_size.get()));
            lent.info.num_blocks = self.info.num_blocks.min(u32::try_from(blocks).unwrap_or(u32::MAX));
        }
        Box::new(lent)
    }

    fn with<T>(&self, call: impl FnOnce(&mut dyn Executor) -> T) -> T {
        // Whoever panicked in a step has failed that step; the engine's contract says that nothing of it is read.
        let mut executor = self.executor.lock().unwrap_or_else(PoisonError::into_inner);
        call(executor.as_mut())
    }
}

impl Executor for LentExecutor {
    fn info(&self) -> &ExecutorInfo {
        &self.info
    }

    fn view_grain(&self) -> Option<u32> {
        self.view_grain
    }

    fn focuses_documents(&self) -> bool {
        self.focuses_documents
    }

    fn key_deviation(&mut self, blocks: BlockPairs<'_>) -> Result<Vec<f32>, ExecError> {
        self.with(|executor| executor.key_deviation(blocks))
    }

    fn execute(&mut self, input: &StepInput) -> Result<StepOutput, ExecError> {
        self.with(|executor| executor.execute(input))
    }

    fn submit(&mut self, input: &StepInput) -> Result<(), ExecError> {
        self.with(|executor| executor.submit(input))
    }

    fn wait(&mut self) -> Result<StepOutput, ExecError> {
        self.with(|executor| executor.wait())
    }
}

impl std::fmt::Debug for LentExecutor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LentExecutor").field("info", &self.info).finish_non_exhaustive()
    }
}
