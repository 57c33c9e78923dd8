//! What Rust and the CUDA kernels of LazyAttention must agree on, byte for byte.
//!
//! Reading order:
//!
//! * [`abi`]: the `#[repr(C)]` structs a kernel receives, mirrored in `kernels/abi/lazy_kernels.h`.
//! * [`layout`]: where an element of a KV block lies: the pre-swizzled image a tensor core reads as it is.
//! * [`tile`]: how many query rows a thread block takes at once.
//! * [`image`]: where the kernel image is, and for which devices it has code.
//! * `kernels` (feature `cuda`): loads the kernel image and launches its kernels.
//! * `elementwise` (feature `cuda`): launches norms, activations, gathers, sampling and copies of blocks.
//! * `skinny` (feature `cuda`): launches products of a few rows.
//! * `probe` (feature `cuda`): which devices this machine has, asked without needing one.

pub mod abi;
#[cfg(feature = "cuda")]
pub mod comparison;
#[cfg(feature = "cuda")]
pub mod elementwise;
pub mod image;
#[cfg(feature = "cuda")]
pub mod kernels;
pub mod layout;
#[cfg(feature = "cuda")]
pub mod probe;
#[cfg(feature = "cuda")]
pub mod skinny;
pub mod tile;

#[cfg(feature = "cuda")]
pub use comparison::Comparison;
#[cfg(feature = "cuda")]
pub use elementwise::{ElementType, Launch, LaunchParams};
pub use image::{ImageCode, ImageError, KernelImage};
#[cfg(feature = "cuda")]
pub use kernels::{AttendLaunch, KernelError, KernelShape, Kernels, Start};
pub use layout::{BlockLayout, LayoutError};
#[cfg(feature = "cuda")]
pub use probe::{DeviceInfo, ProbeError, devices};
#[cfg(feature = "cuda")]
pub use skinny::SkinnyOutput;
pub use tile::TileClass;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
