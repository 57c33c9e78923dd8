//! Weights on their way to a device: read from their source, made 16 bits wide, and handed over piece by piece.

use std::ops::Range;

use super::TensorSource;
use super::fused::{FusedTensor, TensorPart};
use super::sixteen_bit::{Elements, HalfDtype, copy_rows};
use crate::{ModelError, Progress};

/// Where pieces of a buffer go: memory that a device copies from while the next piece is made elsewhere.
pub trait Staging {
    /// Most elements of a piece.
    fn capacity(&self) -> usize;

    /// Takes memory of `places.len()` elements that nobody reads any more, lets `fill` write it, and sends it to elements
    /// `places` of the buffer. Need not wait until it is there.
    ///
    /// # Errors
    /// That of `fill`, or what the device says.
    fn stage(
        &mut self,
        places: Range<usize>,
        fill: &mut dyn FnMut(&mut [u16]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError>;
}

/// Reads buffers of a device from a model's tensors.
#[derive(Clone, Copy)]
pub struct HalfReader<'a> {
    /// The tensors. One at a time is held in memory, if its source neither maps nor makes it.
    pub source: &'a dyn TensorSource,
    /// What elements become.
    pub dtype: HalfDtype,
    /// Is told of every tensor that was read.
    pub progress: &'a dyn Progress,
}

impl HalfReader<'_> {
    /// Sends every element of `tensor` once, in order, on every thread of the current rayon pool.
    ///
    /// # Errors
    /// [`ModelError`] of the source or of `staging`; [`ModelError::Tensor`] if a value does not fit the element type, or a row
    /// does not fit the staging memory.
    pub fn stream(&self, tensor: &FusedTensor, staging: &mut dyn Staging) -> Result<(), ModelError> {
        let mut first = 0;
        for part in &tensor.parts {
            let num_bytes = if let Some(made) = self.source.made(&part.name, &part.shape)? {
                self.stream_part(Elements::Made(made.as_ref()), part, first, staging)?;
                made.dtype().size_of(&part.shape).unwrap_or(0)
            } else {
                let stored = self.source.tensor(&part.name, &part.shape)?;
                self.stream_part(Elements::Stored(&stored), part, first, staging)?;
                stored.bytes.len()
            };
            self.progress.advance(num_bytes as u64);
            first += part.num_elements();
        }
        Ok(())
    }

    fn stream_part(
        &self,
        source: Elements<'_>,
        part: &TensorPart,
        first: usize,
        staging: &mut dyn Staging,
    ) -> Result<(), ModelError> {
        let columns = part.columns.len().max(1);
        let max_rows = staging.capacity() / columns;
        if max_rows == 0 {
            let capacity = staging.capacity();
            let problem = format!("has rows of {columns} elements, but a piece holds {capacity}; raise that");
            return Err(ModelError::tensor(&part.name, problem));
        }
        let num_rows = part.rows.len();
        for begin in (0..num_rows).step_by(max_rows) {
            let rows = begin..num_rows.min(begin + max_rows);
            let places = first + rows.start * columns..first + rows.end * columns;
            let mut fill = |out: &mut [u16]| copy_rows(source, part, rows.clone(), self.dtype, out);
            staging.stage(places, &mut fill)?;
        }
        Ok(())
    }

    /// The elements of `tensor`, `[rows, columns]`.
    ///
    /// # Errors
    /// As of [`HalfReader::stream`].
    pub fn read(&self, tensor: &FusedTensor) -> Result<Vec<u16>, ModelError> {
        let mut memory = Memory(vec![0; tensor.num_elements()]);
        self.stream(tensor, &mut memory)?;
        Ok(memory.0)
    }
}

/// A buffer in this memory.
struct Memory(Vec<u16>);

impl Staging for Memory {
    fn capacity(&self) -> usize {
        self.0.len()
    }

    fn stage(
        &mut self,
        places: Range<usize>,
        fill: &mut dyn FnMut(&mut [u16]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        fill(&mut self.0[places])
    }
}
