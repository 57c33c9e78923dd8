//! Where a model's tensors come from.

mod dequant;
pub mod gguf;
mod inventory;
mod mmap;
mod tensor;

pub use dequant::dequantize;
pub use inventory::expected_tensors;
pub use mmap::FileBytes;
pub use tensor::{RawTensor, TensorDtype, TensorSource};
