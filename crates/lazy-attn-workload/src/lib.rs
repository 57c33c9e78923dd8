//! Seeded retrieval traffic: documents of Zipf popularity in random order, traces, and the hit ratios to expect.
//!
//! Reading order:
//!
//! * [`workload`]: the named workloads, as data.
//! * [`rng`]: the one source of chance.
//! * [`popularity`]: which documents a request takes.
//! * [`trace`]: a workload and a seed become requests; read and written as JSON lines.
//! * [`theory`]: what part of the documents a cache of given size can hold ready.
//! * [`error`]: the one error of this crate.

pub mod error;
pub mod popularity;
pub mod rng;
pub mod theory;
pub mod trace;
pub mod workload;

pub use error::WorkloadError;
pub use popularity::Popularity;
pub use rng::Rng;
pub use trace::{Trace, TraceHeader, TraceRequest};
pub use workload::{KvBudget, Load, Shape, Workload};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
