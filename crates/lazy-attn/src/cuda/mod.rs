//! The CUDA backend: the same plans on a device, on memory that cudarc owns.
//!
//! Reading order: [`CudaAttention`] (this file), [`store`] (where keys and values live), [`schedule`] (a plan cut for the
//! workers of a device), [`plan`] (the same in device memory).

pub mod attention;
pub mod plan;
pub mod schedule;
pub mod store;

pub use attention::{CudaAttention, CudaDevice};
pub use plan::{DevicePlan, PlanBounds};
pub use schedule::{Schedule, Workers};
pub use store::CudaKvStore;
