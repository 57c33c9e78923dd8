//! Traces over the fake executor, whose tokens betray every wrong block, start or order.

#![allow(clippy::unwrap_used, dead_code)] // each test file uses its own part of this

use std::sync::Arc;

use lazy_attn_bench::endpoint::Margins;
use lazy_attn_bench::{LentExecutor, Offline, Played};
use lazy_attn_engine::{EngineConfig, Tokenizer};
use lazy_attn_testkit::{FakeConfig, FakeExecutor, byte_vocab};
use lazy_attn_types::{KvPolicy, SpecialTokens, TokenizerSource};
use lazy_attn_workload::{KvBudget, Trace, Workload};

/// Blocks of the fake store: enough for everything that is not about budgets.
const NUM_BLOCKS: u32 = 8192;

/// Plays on a fake executor.
pub(crate) fn offline(engine: EngineConfig, margins: Margins) -> Offline {
    let config = FakeConfig {
        vocab_size: 256,
        num_blocks: NUM_BLOCKS,
        max_step_tokens: engine.max_step_tokens,
        ..FakeConfig::default()
    };
    let vocab = TokenizerSource::Gguf(Arc::new(byte_vocab(&[])));
    Offline {
        executor: LentExecutor::new(Box::new(FakeExecutor::new(config))),
        tokenizer: Arc::new(Tokenizer::from_source(&vocab, &SpecialTokens::default()).unwrap()),
        engine,
        margins,
    }
}

/// The trace of the named workload, changed by `change`.
pub(crate) fn trace(name: &str, seed: u64, change: impl FnOnce(&mut Workload)) -> Trace {
    let mut workload = Workload::named(name).unwrap();
    change(&mut workload);
    Trace::generate(&workload, seed).unwrap()
}

/// Plays `trace` with all the KV there is.
pub(crate) fn played(offline: &Offline, trace: &Trace, policy: KvPolicy) -> Played {
    offline.play(trace, policy, KvBudget::All, |_| ()).unwrap()
}
