//! Why nothing was measured.

use lazy_attn_engine::EngineError;
use lazy_attn_types::{KvPolicy, ParamError};

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The engine did not start.
    #[error("the engine does not start: {0}")]
    Engine(#[from] EngineError),
    /// The executor cannot store keys as the policy wants them.
    #[error("the policy {policy} cannot be run here; leave it out")]
    Policy {
        /// Which.
        policy: KvPolicy,
    },
    /// The runtime of the clients did not start.
    #[error("no runtime for the clients: {0}")]
    Runtime(#[from] std::io::Error),
    /// A bound of the engine cannot work with this trace.
    #[error(transparent)]
    Param(#[from] ParamError),
    /// Requests failed; figures of the others would be those of another load.
    #[error(
        "{failed} of {all} requests failed, the first with: {first}; raise the KV budget or lower the load"
    )]
    Failed {
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
        /// What the first of them said.
        first: String,
    },
}
