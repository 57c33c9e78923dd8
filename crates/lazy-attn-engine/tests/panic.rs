//! An executor that panics.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, not only the tests themselves

mod common;

use std::sync::Arc;

use common::{Bos, END, answer, byte_tokenizer, expected, request, text};
use lazy_attn_engine::{Engine, EngineConfig, EngineParts, ManualClock};
use lazy_attn_testkit::{FakeConfig, FakeExecutor};
use lazy_attn_types::{AttentionMode, ExecError, Executor, ExecutorInfo, StepInput, StepOutput};

/// Panics in one step, before it has done anything.
struct PanicsOnce {
    inner: FakeExecutor,
    steps_left: u32,
}

impl Executor for PanicsOnce {
    fn info(&self) -> &ExecutorInfo {
        self.inner.info()
    }

    fn execute(&mut self, input: &StepInput) -> Result<StepOutput, ExecError> {
        let left = self.steps_left;
        self.steps_left = left.wrapping_sub(1);
        assert!(left != 0, "index out of {} bounds", input.tokens.len());
        self.inner.execute(input)
    }
}

#[test]
fn a_panic_of_the_executor_fails_its_step_and_the_engine_goes_on() {
    let inner = FakeExecutor::new(FakeConfig { vocab_size: common::VOCAB_SIZE, ..FakeConfig::default() });
    let executor = Box::new(PanicsOnce { inner, steps_left: 2 });
    let parts = EngineParts {
        clock: Arc::new(ManualClock::default()),
        ..EngineParts::new(executor, byte_tokenizer(Bos::Omit).unwrap(), vec![END])
    };
    let engine = Engine::start(parts, EngineConfig::default()).unwrap();
    let handle = engine.handle();
    let unlucky = answer(&handle, request(vec![text("ab")], 5));
    let message = unlucky.failed.unwrap().to_string();
    assert!(message.contains("it panicked: index out of 1 bounds"), "{message}");
    let later = answer(&handle, request(vec![text("ab")], 5));
    assert_eq!(later.ids(), expected(&[text("ab")], AttentionMode::Block, 5));
    let stats = handle.settled_stats().unwrap();
    assert_eq!((stats.steps_failed, stats.sched.kv.blocks_leased), (1, 0));
}
