//! Why nothing was simulated.

use lazy_attn_sched::SchedError;
use lazy_attn_types::segment::ContextError;
use lazy_attn_workload::WorkloadError;

/// Why nothing was simulated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// A number outside its range.
    #[error("{field} is {value}, but must be {allowed}")]
    Param {
        /// Which number.
        field: &'static str,
        /// The number, as text.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The bounds of the scheduler cannot work, or a request can never run.
    #[error(transparent)]
    Sched(#[from] SchedError),
    /// A prompt cannot be built.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// There is no such workload.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
}
