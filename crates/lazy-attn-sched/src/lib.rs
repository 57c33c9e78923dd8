//! What runs in the next step.
//!
//! Sequences come in with their context; [`Scheduler::plan`] picks the work of one step under a token budget and
//! [`Scheduler::commit`] or [`Scheduler::abort`] closes it. Integers only: no tensor, no `unsafe`, no clock but the
//! [`Timestamp`](lazy_attn_types::Timestamp) a caller passes. Same calls, same plans. Reading order:
//!
//! * [`config`]: the bounds.
//! * [`submission`]: what is asked for, and what it needs of the cache.
//! * [`admission`]: who waits, and who is next; tenants by [`fairness`], requests by [`affinity`].
//! * `start`: who gets blocks; [`preempt`]: who gives them away when none are left, and why everybody ends.
//! * [`plan`]: one step of work; [`ahead`]: one planned while the step before it runs.
//! * [`scheduler`]: the state between steps.

pub mod admission;
pub mod affinity;
pub mod ahead;
mod backlog;
pub mod config;
pub mod error;
pub mod fairness;
mod fill;
mod open;
mod pace;
pub mod plan;
mod planner;
pub mod preempt;
mod running;
pub mod scheduler;
mod start;
pub mod submission;

pub use admission::AdmissionPolicy;
pub use affinity::Affinity;
pub use config::SchedConfig;
pub use error::SchedError;
pub use plan::{
    Admitted, PlacedSegment, PlannedReencoding, PlannedRun, Preempted, Rejected, RunTokens, StepPlan, Work,
};
pub use scheduler::{Outcome, SchedStats, Scheduler};
pub use submission::{Submission, blocks_needed};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
