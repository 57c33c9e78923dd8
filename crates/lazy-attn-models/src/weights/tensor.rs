//! A tensor as its file stores it.

use std::borrow::Cow;

use crate::ModelError;

/// Element types this crate can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the formats")]
pub enum TensorDtype {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q4K,
    Q5K,
    Q6K,
}

/// A tensor's bytes, borrowed from the mapped file.
#[derive(Debug, Clone)]
pub struct RawTensor<'a> {
    /// Element or block type.
    pub dtype: TensorDtype,
    /// Row-major, outermost first: a projection is `[out_features, in_features]`.
    pub shape: Vec<usize>,
    /// Exactly the bytes of the elements.
    pub bytes: Cow<'a, [u8]>,
}

/// Tensors of a model under their Hugging Face names (`model.layers.0.self_attn.q_proj.weight`).
pub trait TensorSource: Send + Sync {
    /// The tensor `name`, checked against `shape`.
    ///
    /// # Errors
    /// [`ModelError`] naming the tensor when it is missing, has another shape or lies outside the file.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<RawTensor<'_>, ModelError>;

    /// Total bytes of all tensors, for progress.
    fn total_bytes(&self) -> u64;
}
