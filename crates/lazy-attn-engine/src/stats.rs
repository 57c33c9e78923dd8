//! What an engine has done and holds.

use lazy_attn_sched::SchedStats;

/// Counters since the start, and where the scheduler stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Sequences running, requests waiting, steps, and the cache.
    pub sched: SchedStats,
    /// Requests of which a sample has started and one has not ended.
    pub requests_running: usize,
    /// Requests that ended with [`Event::Done`](crate::Event::Done).
    pub requests_done: u64,
    /// Requests that ended with [`Event::Failed`](crate::Event::Failed).
    pub requests_failed: u64,
    /// Requests whose reader went away.
    pub requests_cancelled: u64,
    /// Steps that the executor failed.
    pub steps_failed: u64,
    /// Tokens run in steps that succeeded.
    pub tokens_run: u64,
    /// Of them, tokens of documents encoded.
    pub tokens_encoded: u64,
    /// Tokens whose stored keys were rotated to another position instead of being run.
    pub tokens_reencoded: u64,
    /// Tokens generated.
    pub tokens_generated: u64,
}
