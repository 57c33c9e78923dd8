//! Where a model's tensors come from.

mod dequant;
mod fused;
pub mod gguf;
pub mod hub;
mod inventory;
mod mmap;
mod random;
mod safetensors;
mod shard;
#[cfg(test)]
mod shard_tests;
mod sixteen_bit;
mod stream;
mod tensor;

pub use dequant::dequantize;
pub use fused::{
    FusedTensor, LayerTensors, OuterTensors, TensorPart, layer_tensors, num_elements, outer_tensors,
};
pub use hub::{HubAccess, HubOptions};
pub use inventory::expected_tensors;
pub use mmap::FileBytes;
pub use random::{RandomDtype, RandomTensors};
pub use safetensors::SafetensorsFiles;
pub use shard::{Shard, ShardSizes};
pub(crate) use sixteen_bit::to_bf16;
pub use sixteen_bit::{HalfDtype, copy_rows_16bit};
pub use stream::{HalfReader, Staging};
pub use tensor::{MadeTensor, RawTensor, TensorDtype, TensorSource};
