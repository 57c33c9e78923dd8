//! How weights are held in memory.

use crate::weights::TensorDtype;

/// Which precision weights are held in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WeightDtype {
    /// As the file has them where a kernel exists: `Q4_0`, `Q8_0` and bfloat16 stay, float16 becomes float32, and the
    /// other quantised formats become `Q8_0`.
    #[default]
    Auto,
    /// Exactly dequantised, float32 arithmetic.
    F32,
    /// Rounded to bfloat16, float32 arithmetic.
    Bf16,
    /// Blocks of 32 signed bytes with one scale; activations are rounded to 8 bits per block too.
    Q8_0,
}

/// Elements of a quantised block.
pub(crate) const BLOCK: usize = 32;

/// How a packed matrix is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    F32,
    Bf16,
    Q8,
    Q4,
}

impl Format {
    /// The format for a tensor stored as `stored`.
    pub(crate) fn choose(dtype: WeightDtype, stored: TensorDtype) -> Format {
        match (dtype, stored) {
            (WeightDtype::F32, _) => Format::F32,
            (WeightDtype::Bf16, _) => Format::Bf16,
            (WeightDtype::Q8_0, _) => Format::Q8,
            (WeightDtype::Auto, TensorDtype::F32 | TensorDtype::F16) => Format::F32,
            (WeightDtype::Auto, TensorDtype::Bf16) => Format::Bf16,
            (WeightDtype::Auto, TensorDtype::Q4_0) => Format::Q4,
            (WeightDtype::Auto, _) => Format::Q8,
        }
    }

    /// Output rows of a panel: the lanes of one vector, or of two where weights are used as they are.
    pub(crate) fn panel_rows(self) -> usize {
        match self {
            Format::F32 | Format::Bf16 => 32,
            Format::Q8 | Format::Q4 => 16,
        }
    }

    /// Input features a panel is padded to with zeros.
    pub(crate) fn padded_in(self, in_features: usize) -> usize {
        match self {
            Format::F32 | Format::Bf16 => in_features,
            Format::Q8 | Format::Q4 => in_features.next_multiple_of(BLOCK),
        }
    }

    /// Bytes of a panel's codes; always a multiple of 64.
    pub(crate) fn panel_bytes(self, in_features: usize) -> usize {
        let elements = self.panel_rows() * self.padded_in(in_features);
        match self {
            Format::F32 => 4 * elements,
            Format::Bf16 => 2 * elements,
            Format::Q8 => elements,
            Format::Q4 => elements / 2,
        }
    }

    /// Scales of a panel.
    pub(crate) fn panel_scales(self, in_features: usize) -> usize {
        match self {
            Format::F32 | Format::Bf16 => 0,
            Format::Q8 | Format::Q4 => self.panel_rows() * in_features.div_ceil(BLOCK),
        }
    }

    /// Whether activations are quantised for it.
    pub(crate) fn is_integer(self) -> bool {
        matches!(self, Format::Q8 | Format::Q4)
    }
}
