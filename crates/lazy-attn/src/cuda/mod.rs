//! The CUDA backend: the same plans on a device, on memory that cudarc owns.
//!
//! Reading order: [`CudaDevice`] and [`CudaAttention`] (`attention`), [`CudaKvStore`] (`store`: where keys and values live),
//! [`DevicePlan`] (`plan`: a [`Schedule`](crate::schedule::Schedule) in device memory).

mod attention;
mod plan;
mod store;

pub use attention::{CudaAttention, CudaDevice};
pub use plan::{DevicePlan, PlanBounds};
pub use store::CudaKvStore;
