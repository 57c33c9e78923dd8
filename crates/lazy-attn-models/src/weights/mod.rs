//! Where a model's tensors come from.

mod dequant;
pub mod gguf;
pub mod hub;
mod inventory;
mod mmap;
mod random;
mod safetensors;
mod tensor;

pub use dequant::dequantize;
pub use hub::{HubAccess, HubOptions};
pub use inventory::expected_tensors;
pub use mmap::FileBytes;
pub use random::{RandomDtype, RandomTensors};
pub use safetensors::SafetensorsFiles;
pub use tensor::{RawTensor, TensorDtype, TensorSource};
