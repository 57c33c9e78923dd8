//! Simulated clusters: the real scheduler and KV store against a model of what steps cost.
//!
//! Nothing is executed and no time passes: a step takes what [`CostModel`](lazy_attn_types::CostModel) says, on a clock that
//! only this crate moves. The same trace and configuration give the same figures on every machine. Reading order:
//!
//! * [`config`]: a cluster.
//! * [`routing`]: which worker gets a request.
//! * `prompt`: a request of a trace as a submission.
//! * `worker`: a scheduler and the step that it runs.
//! * [`cluster`]: workers, requests and the clock.
//! * [`figures`]: what came of it.
//! * [`capacity`]: how much traffic a cluster carries within a bound on the time to the first token.
//! * [`study`]: the simulations behind `docs/capacity.md`.
//! * [`error`]: the one error of this crate.

pub mod capacity;
pub mod cluster;
pub mod config;
pub mod error;
pub mod figures;
mod prompt;
pub mod routing;
pub mod study;
mod worker;

pub use capacity::{Target, sustained_rate};
pub use cluster::simulate;
pub use config::ClusterConfig;
pub use error::SimError;
pub use figures::{Figures, Summary};
pub use routing::Routing;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
