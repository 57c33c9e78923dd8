//! The CUDA backend: the same decoder on a device.
//!
//! Reading order: [`CudaExecutor`] (`executor`: plan, KV store and steps behind the executor contract), `options`, `decoder`
//! (what a step launches), `outputs` (drawing tokens, and their way to the host), `graphs` (decode steps that were captured
//! once), `prepare` and `weights` (from a model's tensors to buffers of a device), [`CudaGroup`] (`group`: several devices
//! as one).

mod decoder;
mod executor;
mod graphs;
mod group;
mod options;
mod outputs;
mod prepare;
mod weights;

pub use executor::CudaExecutor;
pub use group::CudaGroup;
pub use options::{CudaKvBudget, CudaOptions};
