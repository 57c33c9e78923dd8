//! The CPU backend.
//!
//! Reading order: [`linear`] (packed weights and products whose bits do not depend on the batch), `simd` (the
//! instruction sets they run on).

pub mod linear;
mod simd;

pub use simd::CpuIsa;
