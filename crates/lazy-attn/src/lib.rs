//! Attention over segments with deferred positions: planner, RoPE, KV store and CPU kernel.
//!
//! A context is an ordered list of segments. The keys of a segment are stored once, rotated at segment-local positions,
//! and the kernel rotates the *query* by `position - start`, so one stored copy serves any request at any place:
//!
//! ```text
//! score(q at position p, key i of segment s) = < R(p - start_s) q , R(i) k_i >      because R(a)^T R(b) = R(b - a)
//! ```
//!
//! Reading order:
//!
//! * [`rope`]: rotation angles as fixed-point turns, exact at any position.
//! * [`plan`]: from a step's flat arrays to work items grouped by segment; knows no tensor and no device.
//! * [`deviation`]: how far keys are from others.
//! * [`reencode`]: blocks that a step wants at other positions.
//! * [`schedule`]: a plan cut for the workers of a device.
//! * `isa`: what the kernels need of an instruction set.
//! * [`cpu`]: the KV store, and the kernels that write it ([`CpuAttention::append`]) and read it
//!   ([`CpuAttention::attend`]).
//! * [`error`]: what can go wrong.
//! * `cuda`: schedules run on a device; feature `cuda`.
//! * `candle`: the same on candle tensors; feature `candle`.

#[cfg(feature = "candle")]
pub mod candle;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod deviation;
pub mod error;
mod isa;
pub mod plan;
pub mod reencode;
pub mod rope;
pub mod schedule;

pub use cpu::{AttnParams, CpuAttention, CpuIsa, KvDtype, KvLayout, KvStore};
pub use deviation::DeviationSums;
pub use error::AttnError;
pub use plan::{PartialsPer, Plan, PlanConfig, Planner};
pub use reencode::BlockCopy;
pub use rope::RopeTable;
pub use schedule::{Schedule, Workers};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
