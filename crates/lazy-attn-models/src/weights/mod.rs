//! Where a model's tensors come from.

mod tensor;

pub use tensor::{RawTensor, TensorDtype, TensorSource};
