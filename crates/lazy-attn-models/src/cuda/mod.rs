//! The CUDA backend: the same decoder on a device.
//!
//! Reading order: [`CudaExecutor`] (`executor`: plan, KV store and steps behind the executor contract), `options`, `decoder`
//! (what a step launches), `weights` (the buffers a model becomes, and their way to the device), `graphs` (decode steps that
//! were captured once).

mod decoder;
mod executor;
mod graphs;
mod options;
mod outputs;
mod weights;

pub use executor::CudaExecutor;
pub use options::{CudaKvBudget, CudaOptions};
