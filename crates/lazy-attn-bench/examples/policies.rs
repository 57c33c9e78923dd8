//! Plays a small workload under several policies on the test kit's executor, which has no model: the times are those of the
//! engine alone, the hit ratios are real.
//!
//! `cargo run -p lazy-attn-bench --example policies`

use std::error::Error;
use std::sync::Arc;

use lazy_attn_bench::endpoint::Margins;
use lazy_attn_bench::{LentExecutor, Offline, RunFigures};
use lazy_attn_engine::{EngineConfig, Tokenizer};
use lazy_attn_testkit::{FakeConfig, FakeExecutor, byte_vocab};
use lazy_attn_types::{KvPolicy, SpecialTokens, TokenizerSource};
use lazy_attn_workload::{Trace, Workload};

fn main() -> Result<(), Box<dyn Error>> {
    let config = FakeConfig { vocab_size: 256, num_blocks: 8192, ..FakeConfig::default() };
    let vocab = TokenizerSource::Gguf(Arc::new(byte_vocab(&[])));
    let offline = Offline {
        executor: LentExecutor::new(Box::new(FakeExecutor::new(config))),
        tokenizer: Arc::new(Tokenizer::from_source(&vocab, &SpecialTokens::default())?),
        engine: EngineConfig::default(),
        margins: Margins::Ignored,
    };
    let workload = Workload::named("reorder-small").ok_or("no such workload")?;
    let trace = Trace::generate(&workload, 7)?;
    for policy in [KvPolicy::Lazy, KvPolicy::Prefix, KvPolicy::None] {
        let played = offline.play(&trace, policy, workload.kv_budget, |_| ())?;
        let figures = RunFigures::of_engine(&played, &trace);
        println!("{policy:>8}: {:.0} % of the document tokens found", 100.0 * figures.hit_ratio);
    }
    Ok(())
}
