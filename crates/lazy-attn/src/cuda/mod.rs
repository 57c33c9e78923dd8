//! The CUDA backend: the same plans on a device, on memory that cudarc owns.
//!
//! Reading order: [`CudaDevice`] and [`CudaAttention`] (`attention`), [`CudaKvStore`] (`store`: where keys and values live),
//! [`DevicePlan`] (`plan`: a [`Schedule`](crate::schedule::Schedule) in device memory, sent through a [`PinnedRing`]). Then
//! what a model needs around attention: norms, activations and gathers (`elementwise`), `sampling`, copies of blocks
//! (`copies`) and their comparison (`deviation`), all of them methods of [`CudaDevice`]; and products of matrices ([`Gemm`], of
//! a few rows by `skinny`). [`Collective`] adds up over several devices.

mod attention;
mod collective;
mod copies;
mod deviation;
mod elementwise;
mod gemm;
mod graph;
mod memory;
mod pinned;
mod plan;
mod sampling;
mod skinny;
mod store;

pub use attention::{CudaAttention, CudaDevice};
pub use collective::Collective;
pub use copies::{BlockCopies, CudaRope};
pub use elementwise::{Norm, QkvNorm, RowShape};
pub use gemm::{Gemm, GemmShape, Products};
pub use graph::CapturedGraph;
pub use lazy_attn_sys::abi::{LaSampling, NOT_FINITE, NOTHING_ALLOWED};
pub use lazy_attn_sys::{ElementType, KernelImage};
pub use memory::DeviceMemory;
pub use pinned::{PinnedReader, PinnedRing};
pub use plan::{DevicePlan, PlanBounds};
pub use sampling::LogitShape;
pub use store::CudaKvStore;
