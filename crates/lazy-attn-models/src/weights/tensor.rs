//! A tensor as its file stores it.

use std::borrow::Cow;

use super::dequant;
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

impl TensorDtype {
    /// Every type, in the order of the enum.
    pub const ALL: [TensorDtype; 11] = [
        TensorDtype::F32,
        TensorDtype::F16,
        TensorDtype::Bf16,
        TensorDtype::Q8_0,
        TensorDtype::Q4_0,
        TensorDtype::Q4_1,
        TensorDtype::Q5_0,
        TensorDtype::Q5_1,
        TensorDtype::Q4K,
        TensorDtype::Q5K,
        TensorDtype::Q6K,
    ];

    /// Elements that share one block; a row holds whole blocks.
    #[must_use]
    pub fn block_elements(self) -> usize {
        match self {
            TensorDtype::F32 | TensorDtype::F16 | TensorDtype::Bf16 => 1,
            TensorDtype::Q4K | TensorDtype::Q5K | TensorDtype::Q6K => 256,
            _ => 32,
        }
    }

    /// Bytes of one block.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        match self {
            TensorDtype::F32 => 4,
            TensorDtype::F16 | TensorDtype::Bf16 => 2,
            TensorDtype::Q8_0 => 34,
            TensorDtype::Q4_0 => 18,
            TensorDtype::Q4_1 => 20,
            TensorDtype::Q5_0 => 22,
            TensorDtype::Q5_1 => 24,
            TensorDtype::Q4K => 144,
            TensorDtype::Q5K => 176,
            TensorDtype::Q6K => 210,
        }
    }

    /// Bytes of a tensor of `shape`; `None` if a row is not whole blocks, or the size does not fit a `usize`.
    #[must_use]
    pub fn size_of(self, shape: &[usize]) -> Option<usize> {
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(self.block_elements()) {
            return None;
        }
        let elements = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))?;
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }
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

impl RawTensor<'_> {
    /// The elements as float32, in the order of the bytes; uses every thread of the current rayon pool.
    ///
    /// # Panics
    /// If `bytes` are not exactly those of `shape`, which every [`TensorSource`] checks.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.shape.iter().product()];
        dequant::dequantize(self.dtype, &self.bytes, &mut out);
        out
    }
}

/// A tensor whose elements are made when they are asked for: a reader that writes them elsewhere need not hold it whole.
pub trait MadeTensor: Sync {
    /// Type of the elements.
    fn dtype(&self) -> TensorDtype;

    /// Writes the elements from `first` on, in the order of the tensor's bytes.
    fn fill(&self, first: usize, out: &mut [f32]);
}

/// Tensors of a model under their Hugging Face names (`model.layers.0.self_attn.q_proj.weight`).
pub trait TensorSource: Send + Sync {
    /// The tensor `name`, checked against `shape`.
    ///
    /// # Errors
    /// [`ModelError`] naming the tensor when it is missing, has another shape or lies outside the file.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<RawTensor<'_>, ModelError>;

    /// The same tensor as one that is made, for a source that has it nowhere.
    ///
    /// # Errors
    /// As of [`TensorSource::tensor`].
    fn made(&self, _name: &str, _shape: &[usize]) -> Result<Option<Box<dyn MadeTensor + '_>>, ModelError> {
        Ok(None)
    }

    /// Total bytes of all tensors, for progress.
    fn total_bytes(&self) -> u64;
}

/// Refuses a tensor whose stored shape is not the one asked for.
pub(super) fn check_shape(name: &str, stored: &[usize], wanted: &[usize]) -> Result<(), ModelError> {
    if stored == wanted {
        return Ok(());
    }
    Err(ModelError::tensor(name, format!("has shape {stored:?}, but the config asks for {wanted:?}")))
}
