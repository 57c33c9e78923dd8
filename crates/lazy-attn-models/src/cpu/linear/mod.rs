//! Linear layers: packed weights, and products whose bits do not depend on the batch.
//!
//! Reading order: [`Linear`] (this file), `format` (how weights are held), `packed` (repacking them), `activations`
//! (packing the other side), `kernel` (the inner loops), `product` (dividing the work among threads).

mod activations;
mod format;
mod kernel;
mod packed;
mod product;
#[cfg(test)]
mod tests;

pub use activations::Activations;
pub use format::WeightDtype;

use self::{
    format::Format,
    packed::{Packed, Rows},
    product::Product,
};
use super::simd::{CpuIsa, MatrixMut};
use crate::{ModelError, weights::TensorSource};

/// One matrix of a layer, as a file names it.
#[derive(Debug, Clone)]
pub struct LinearPart {
    /// Name without `.weight` or `.bias`.
    pub name: String,
    /// Output features.
    pub out_features: usize,
    /// Whether there is a bias.
    pub bias: BiasUse,
    /// Output `r` is row `order[r]` of the file; `None` keeps the order.
    pub row_order: Option<Vec<usize>>,
}

/// Whether a matrix has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BiasUse {
    /// `{name}.bias` is added.
    Added,
    /// No bias.
    Absent,
}

/// One or several matrices that multiply the same activations.
#[derive(Debug)]
pub struct Linear {
    isa: CpuIsa,
    in_features: usize,
    segments: Vec<Segment>,
}

/// One matrix with its bias.
#[derive(Debug)]
pub(crate) struct Segment {
    packed: Packed,
    /// Padded to whole panels.
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// Reads and packs `parts`, each `[out_features, in_features]`, on every thread of the current rayon pool.
    ///
    /// # Errors
    /// [`ModelError`] of the source, or [`ModelError::Tensor`] if memory is short.
    pub fn load(
        source: &dyn TensorSource,
        parts: &[LinearPart],
        in_features: usize,
        dtype: WeightDtype,
    ) -> Result<Linear, ModelError> {
        let isa = CpuIsa::detect();
        let segments = parts.iter().map(|part| Segment::load(source, part, in_features, dtype));
        Ok(Linear { isa, in_features, segments: segments.collect::<Result<_, _>>()? })
    }

    /// The same layer on another instruction set.
    #[must_use]
    pub fn on(mut self, isa: CpuIsa) -> Linear {
        self.isa = isa;
        self
    }

    /// Output features of part `part`.
    #[must_use]
    pub fn out_features(&self, part: usize) -> usize {
        self.segments[part].packed.out_features()
    }

    /// Bytes of weights that a product with one row reads.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        self.segments.iter().map(|segment| segment.packed.num_bytes()).sum()
    }

    /// Multiplies `x` (`[num_rows, in_features]`) by every part into its `outs` (`[num_rows, out_features]`); `acts` is
    /// scratch memory that may be shared by all layers.
    ///
    /// A row of the result depends on its row of `x` only, bit by bit: not on the other rows, nor on the number of
    /// threads or the instruction set.
    ///
    /// # Panics
    /// If a length is not that of the shapes above.
    pub fn forward<const N: usize>(&self, x: &[f32], outs: [&mut [f32]; N], acts: &mut Activations) {
        assert!(x.len().is_multiple_of(self.in_features), "activations are whole rows");
        assert_eq!(N, self.segments.len(), "a fused layer has one output per part");
        let num_rows = x.len() / self.in_features;
        let is_integer = |segment: &Segment| segment.packed.format().is_integer();
        if num_rows == 0 {
            return;
        }
        if self.segments.iter().any(is_integer) {
            acts.pack_integers(self.isa, x, self.in_features);
        }
        if !self.segments.iter().all(is_integer) {
            acts.pack_floats(self.isa, x, self.in_features);
        }
        let mut widths = self.segments.iter().map(|segment| segment.packed.out_features());
        let outs = outs.map(|out| {
            let width = widths.next().unwrap_or(1);
            assert_eq!(out.len(), num_rows * width, "an output has a row per row of activations");
            MatrixMut::new(out, width)
        });
        Product { isa: self.isa, acts }.run(&self.segments, outs);
    }

    /// Writes row `row` of part 0 to `out` (`[in_features]`), exactly as the product sees it: an embedding lookup.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        self.segments[0].packed.row(row, out);
    }
}

impl Segment {
    fn load(
        source: &dyn TensorSource,
        part: &LinearPart,
        in_features: usize,
        dtype: WeightDtype,
    ) -> Result<Segment, ModelError> {
        let name = format!("{}.weight", part.name);
        let out_features = part.out_features;
        let tensor = source.tensor(&name, &[out_features, in_features])?;
        let rows = Rows { tensor: &tensor, order: part.row_order.as_deref(), out_features, in_features };
        let packed = Packed::pack(Format::choose(dtype, tensor.dtype), rows, &name)?;
        let bias = match part.bias {
            BiasUse::Absent => None,
            BiasUse::Added => {
                let stored = load_vector(source, &format!("{}.bias", part.name), out_features)?;
                let ordered = (0..out_features).map(|row| stored[rows.order.map_or(row, |order| order[row])]);
                let mut bias: Vec<f32> = ordered.collect();
                bias.resize(packed.num_panels() * packed.format().panel_rows(), 0.0);
                Some(bias)
            }
        };
        Ok(Segment { packed, bias })
    }
}

/// Reads the vector `name` as float32.
///
/// # Errors
/// [`ModelError`] of the source.
pub(crate) fn load_vector(
    source: &dyn TensorSource,
    name: &str,
    num_elements: usize,
) -> Result<Vec<f32>, ModelError> {
    Ok(source.tensor(name, &[num_elements])?.to_f32())
}
