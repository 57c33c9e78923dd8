//! One trace under one policy, on a lent executor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lazy_attn_engine::{Engine, EngineConfig, EngineParts, Tokenizer};
use lazy_attn_types::{KvPolicy, SharedReads};
use lazy_attn_workload::{KvBudget, Load, Trace};

use crate::contender::Contender;
use crate::endpoint::{EngineEndpoint, Margins};
use crate::error::BenchError;
use crate::lend::LentExecutor;
use crate::meter::{Meter, Observed, Sharing};
use crate::play::{PlayOptions, play};
use crate::record::RequestRecord;

/// What traces are played with: an executor, and an engine's settings.
#[derive(Debug, Clone)]
pub struct Offline {
    /// Runs the steps.
    pub executor: LentExecutor,
    /// Text of tokens.
    pub tokenizer: Arc<Tokenizer>,
    /// Bounds of the engine; those on waiting requests are raised to the trace.
    pub engine: EngineConfig,
    /// Whether margins are noted.
    pub margins: Margins,
}

/// What came of a trace under a policy, with documents read once for all or not.
#[derive(Debug, Clone, PartialEq)]
pub struct Played {
    /// The policy.
    pub contender: Contender,
    /// One record per request, in the order of the trace.
    pub records: Vec<RequestRecord>,
    /// From the first request to the last answer.
    pub duration: Duration,
    /// What the engine told.
    pub observed: Observed,
    /// Bytes of KV that it could use.
    pub kv_budget_bytes: u64,
}

impl Offline {
    /// Whether the executor can store keys as `policy` wants them.
    #[must_use]
    pub fn can_play(&self, policy: KvPolicy) -> bool {
        self.executor.info().stored_keys.contains(&policy.stored_keys())
    }

    /// Plays `trace` as `contender` in a fresh engine with an empty cache; `on_end` is told how many requests have ended.
    ///
    /// # Errors
    /// [`BenchError`] if the executor cannot run `policy`, the engine or the clients do not start, or a request fails.
    pub fn play(
        &self,
        trace: &Trace,
        contender: impl Into<Contender>,
        budget: KvBudget,
        on_end: impl FnMut(usize) + 'static,
    ) -> Result<Played, BenchError> {
        let contender = contender.into();
        let policy = contender.policy;
        if !self.can_play(policy) {
            return Err(BenchError::Policy { policy });
        }
        let executor = self.executor.lend(budget.tokens(&trace.header.shape));
        let info = executor.info().clone();
        let kv_budget_bytes =
            u64::from(info.num_blocks) * u64::from(info.block_size.get()) * info.kv_bytes_per_token;
        let meter = Arc::new(Meter::default());
        let parts = EngineParts::new(executor, Arc::clone(&self.tokenizer), Vec::new());
        let parts = EngineParts { observer: meter.clone(), ..parts };
        let engine = Engine::start(parts, self.config(trace, contender))?;
        let endpoint = EngineEndpoint::new(engine.handle(), self.margins);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let options = PlayOptions { vocab_size: info.vocab_size };
        let begin = Instant::now();
        let records = runtime.block_on(play(endpoint, trace, options, on_end));
        let duration = begin.elapsed();
        drop(engine);
        check(&records)?;
        let mut observed = meter.observed();
        if contender.reads == SharedReads::Apart {
            // Sequences see the same document, but nobody reads it for another.
            observed.sharing = Sharing::default();
        }
        Ok(Played { contender, records, duration, observed, kv_budget_bytes })
    }

    /// The engine's bounds, with room for every request of `trace` to wait.
    fn config(&self, trace: &Trace, contender: Contender) -> EngineConfig {
        let Contender { policy: kv_policy, reads: shared_reads } = contender;
        let num_waiting = match trace.header.load {
            Load::Open { .. } => trace.requests.len(),
            Load::Closed { clients } => clients as usize,
        };
        let max_waiting = self.engine.max_waiting.max(num_waiting);
        EngineConfig { max_waiting, max_waiting_tokens: u64::MAX, kv_policy, shared_reads, ..self.engine }
    }
}

fn check(records: &[RequestRecord]) -> Result<(), BenchError> {
    let mut errors = records.iter().filter_map(|record| record.error.as_ref());
    match errors.next() {
        None => Ok(()),
        Some(first) => {
            Err(BenchError::Failed { failed: 1 + errors.count(), all: records.len(), first: first.clone() })
        }
    }
}
