//! The CPU backend.
//!
//! Reading order: [`CpuExecutor`] (`executor`: weights, KV store and threads behind the executor contract), `decoder`
//! (what a step computes), [`linear`] (packed weights and products whose bits do not depend on the batch), `simd` (the
//! instruction sets they run on).

mod decoder;
mod executor;
pub mod linear;
pub(crate) mod simd;

pub use executor::{CpuExecutor, CpuOptions, KvBudget};
pub use linear::WeightDtype;
pub use simd::CpuIsa;
