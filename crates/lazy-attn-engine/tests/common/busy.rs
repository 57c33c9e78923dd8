//! 256 sequences that decode over ten of 64 documents each, on the cost model.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use lazy_attn_engine::{Engine, EngineConfig, EngineParts, Event, GenerateRequest, Part, PartContent};
use lazy_attn_testkit::{CostExecutor, StepCost};
use lazy_attn_types::sampling::EndTokens;
use lazy_attn_types::{
    Capability, CostModel, ExecError, Executor, ExecutorInfo, StepInput, StepOutput, StopParams, TokenId,
};

use super::vocab::{Bos, byte_tokenizer};

const NUM_SEQUENCES: u32 = 256;
const NUM_DOCUMENTS: u32 = 64;
const DOCUMENT_TOKENS: u32 = 512;
/// 50 GB of KV.
const NUM_BLOCKS: u32 = 24_000;

/// Runs nothing before the other end of `start` is dropped.
struct Held {
    inner: CostExecutor,
    start: Receiver<()>,
}

impl Executor for Held {
    fn info(&self) -> &ExecutorInfo {
        self.inner.info()
    }

    fn execute(&mut self, input: &StepInput) -> Result<StepOutput, ExecError> {
        let _ = self.start.recv();
        self.inner.execute(input)
    }
}

fn prompt(index: u32) -> Vec<Part> {
    let named = |name: u32, len: u32| {
        PartContent::Tokens((0..len).map(|at| TokenId((name * 31 + at * 7 + at / 251) % 250)).collect())
    };
    let documents =
        (0..10).map(|at| Part::Document(named((index * 7 + at) % NUM_DOCUMENTS, DOCUMENT_TOKENS)));
    documents.chain([Part::Text(named(1000 + index, 32))]).collect()
}

/// The steps in which all of them decoded, while each generated `max_tokens` tokens; the executor has this capability.
pub(crate) fn busy_steps(vocab_size: u32, max_tokens: u32, capability: Capability) -> Vec<StepCost> {
    let executor = CostExecutor::new(CostModel::llama_8b_on_h100(), vocab_size, NUM_BLOCKS);
    let executor = if capability == Capability::Samples { executor.sampling() } else { executor };
    let probe = executor.probe();
    let (hold, start) = channel();
    let executor = Held { inner: executor, start };
    let tokenizer = byte_tokenizer(Bos::Omit).unwrap();
    let config = EngineConfig {
        max_step_tokens: 8192,
        max_running: NUM_SEQUENCES,
        max_waiting: NUM_SEQUENCES as usize,
        ..EngineConfig::default()
    };
    let engine = Engine::start(EngineParts::new(Box::new(executor), tokenizer, vec![]), config).unwrap();
    let stopping = StopParams { max_tokens, end_tokens: EndTokens::Ignore, ..StopParams::default() };
    let request =
        |index| GenerateRequest { stopping: stopping.clone(), ..GenerateRequest::new(prompt(index)) };
    let streams: Vec<_> =
        (0..NUM_SEQUENCES).map(|index| engine.handle().submit(request(index)).unwrap()).collect();
    // All run at once, though submitting takes longer than many of these steps.
    drop(hold);
    for mut stream in streams {
        let mut last = None;
        while let Some(event) = stream.blocking_next() {
            last = Some(event);
        }
        assert!(matches!(last, Some(Event::Done { .. })), "{last:?}");
    }
    probe.steps().into_iter().filter(|step| step.num_rows == NUM_SEQUENCES).collect()
}

/// The time that `percent` of the steps stay within.
pub(crate) fn percentile(steps: &[StepCost], percent: usize, time: fn(&StepCost) -> Duration) -> Duration {
    let mut times: Vec<Duration> = steps.iter().map(time).collect();
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}
