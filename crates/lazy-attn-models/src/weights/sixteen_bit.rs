//! Elements of any stored type as 16-bit floats.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::fused::TensorPart;
use super::{MadeTensor, RawTensor, TensorDtype, dequant};
use crate::ModelError;
use crate::cpu::simd::{CpuIsa, Isa, Kernel};

/// Elements that are converted at once: whole blocks of every type, and small enough for the fastest cache.
const RUN: usize = 4096;
/// Elements of a task: enough work to outweigh it.
const TASK: usize = 64 * 1024;

/// A 16-bit element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HalfDtype {
    /// Bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl HalfDtype {
    /// The type that holds a stored one without loss where there is one, else the one with the range of `f32`.
    #[must_use]
    pub fn of_stored(stored: TensorDtype) -> HalfDtype {
        if stored == TensorDtype::F16 { HalfDtype::F16 } else { HalfDtype::Bf16 }
    }
}

/// Writes rows `rows` of `part` (counted from the part's first) to `out`, `[rows.len(), columns]`, on every thread of the
/// current rayon pool.
///
/// `source` is the whole tensor that `part` names.
///
/// # Errors
/// [`ModelError::Tensor`] if a value is finite as stored, but not in `dtype`: f16 ends at 65,504. Not all of `out` is written
/// then.
///
/// # Panics
/// If `out` has another length.
pub fn copy_rows_16bit(
    source: &RawTensor<'_>,
    part: &TensorPart,
    rows: Range<usize>,
    dtype: HalfDtype,
    out: &mut [u16],
) -> Result<(), ModelError> {
    copy_rows(Elements::Stored(source), part, rows, dtype, out)
}

/// Where a tensor's elements come from.
#[derive(Clone, Copy)]
pub(super) enum Elements<'a> {
    /// From memory.
    Stored(&'a RawTensor<'a>),
    /// From nowhere.
    Made(&'a dyn MadeTensor),
}

/// [`copy_rows_16bit`] for every kind of elements.
pub(super) fn copy_rows(
    source: Elements<'_>,
    part: &TensorPart,
    rows: Range<usize>,
    dtype: HalfDtype,
    out: &mut [u16],
) -> Result<(), ModelError> {
    let (width, columns) = (part.width(), part.columns.len());
    assert_eq!(out.len(), rows.len() * columns, "the output is the rows");
    let first = part.rows.start + rows.start;
    let reader = Reader { source, dtype, isa: CpuIsa::detect() };
    let fits = if columns == width && part.order.is_none() {
        let tasks = out.par_chunks_mut(TASK).enumerate();
        tasks.all(|(task, out)| reader.copy(first * width + task * TASK, out))
    } else {
        let rows_per_task = TASK.div_ceil(columns.max(1));
        let tasks = out.par_chunks_mut(rows_per_task * columns.max(1)).enumerate();
        tasks.all(|(task, out)| {
            let mut rows = out.chunks_exact_mut(columns.max(1)).enumerate();
            let stored = |row| part.stored_row(first + task * rows_per_task + row);
            let copy =
                |(row, out): (usize, &mut [u16])| reader.copy(stored(row) * width + part.columns.start, out);
            rows.all(copy)
        })
    };
    if fits {
        return Ok(());
    }
    Err(ModelError::tensor(&part.name, "has values beyond 65504, the end of f16; use bf16 for the weights"))
}

/// Reads elements of a tensor as if it were one long row.
#[derive(Clone, Copy)]
struct Reader<'a> {
    source: Elements<'a>,
    dtype: HalfDtype,
    isa: CpuIsa,
}

impl Reader<'_> {
    /// Writes the elements from `first` on; whether each of them fits.
    fn copy(self, first: usize, out: &mut [u16]) -> bool {
        match (self.source, self.dtype) {
            (Elements::Stored(source), HalfDtype::Bf16) if source.dtype == TensorDtype::Bf16 => {
                copy_bits(source, first, out)
            }
            (Elements::Stored(source), HalfDtype::F16) if source.dtype == TensorDtype::F16 => {
                copy_bits(source, first, out)
            }
            (Elements::Stored(source), dtype) => convert(source, (dtype, self.isa), first, out),
            (Elements::Made(source), dtype) => make(source, (dtype, self.isa), first, out),
        }
    }
}

fn copy_bits(source: &RawTensor<'_>, first: usize, out: &mut [u16]) -> bool {
    let stored = &source.bytes[2 * first..][..2 * out.len()];
    bytemuck::cast_slice_mut(out).copy_from_slice(stored);
    // Nothing happens here where numbers are little-endian.
    out.iter_mut().for_each(|element| *element = u16::from_le(*element));
    true
}

fn make(source: &dyn MadeTensor, how: (HalfDtype, CpuIsa), first: usize, out: &mut [u16]) -> bool {
    let mut floats = [0.0; RUN];
    out.chunks_mut(RUN).enumerate().all(|(run, out)| {
        let floats = &mut floats[..out.len()];
        source.fill(first + run * RUN, floats);
        round(floats, how, out)
    })
}

fn convert(source: &RawTensor<'_>, how: (HalfDtype, CpuIsa), first: usize, out: &mut [u16]) -> bool {
    let block = source.dtype.block_elements();
    let mut floats = [0.0; RUN];
    let mut fits = true;
    let (mut first, mut rest) = (first, out);
    while !rest.is_empty() {
        // A range may begin inside a block, which is then read from its begin.
        let skipped = first % block;
        let (now, later) = rest.split_at_mut(rest.len().min(RUN - skipped));
        let num_blocks = (skipped + now.len()).div_ceil(block);
        blocks(source, first / block, &mut floats[..num_blocks * block]);
        fits &= round(&floats[skipped..][..now.len()], how, now);
        first += now.len();
        rest = later;
    }
    fits
}

/// Writes whole blocks from `first_block` on.
fn blocks(source: &RawTensor<'_>, first_block: usize, out: &mut [f32]) {
    let dtype = source.dtype;
    let size = dtype.block_bytes();
    let bytes = &source.bytes[first_block * size..][..out.len() / dtype.block_elements() * size];
    match dtype {
        TensorDtype::F32 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        TensorDtype::Bf16 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *out = bf16::from_le_bytes(*bytes).to_f32();
            }
        }
        TensorDtype::F16 => {
            let mut halves = [f16::ZERO; RUN];
            for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *half = f16::from_le_bytes(*bytes);
            }
            halves[..out.len()].convert_to_f32_slice(out);
        }
        _ => dequant::blocks(dtype, bytes, out),
    }
}

/// Rounds to the nearest, ties to even. Unlike [`bf16::from_f32`] it has no branch on bits that differ from weight to weight:
/// processors guess half of those wrongly, which takes ten times as long as the rest.
#[inline(always)]
pub(crate) fn to_bf16(value: f32) -> bf16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // Rounding could carry a NaN into an infinity; setting a fraction bit keeps it a NaN.
    let nan = (bits >> 16) | 0x40;
    bf16::from_bits(if value.is_nan() { nan } else { rounded } as u16)
}

/// Rounding `floats` to bits of bf16.
struct RoundBf16<'a> {
    floats: &'a [f32],
    out: &'a mut [u16],
}

impl Kernel for RoundBf16<'_> {
    #[inline(always)]
    fn run<I: Isa>(self) {
        for (out, &value) in self.out.iter_mut().zip(self.floats) {
            *out = to_bf16(value).to_bits();
        }
    }
}

/// Rounds to the nearest, ties to even; whether every finite value stays finite.
fn round(floats: &[f32], (dtype, isa): (HalfDtype, CpuIsa), out: &mut [u16]) -> bool {
    match dtype {
        HalfDtype::Bf16 => {
            isa.run(RoundBf16 { floats, out });
            true
        }
        HalfDtype::F16 => {
            let mut halves = [f16::ZERO; RUN];
            let halves = &mut halves[..floats.len()];
            halves.convert_from_f32_slice(floats);
            let is_lost = |(half, value): (&f16, &f32)| !half.is_finite() && value.is_finite();
            let fits = !halves.iter().zip(floats).any(is_lost);
            for (out, half) in out.iter_mut().zip(halves) {
                *out = half.to_bits();
            }
            fits
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_without_branches_gives_the_bits_of_rounding_with_them() {
        let around = |bits: u32| [bits, bits | 0x8000_0000, bits.wrapping_sub(1), bits + 1];
        let special = [0, 1, 0x7fff, 0x8000, 0x3f80_8000, 0x3f81_8000, 0x7f7f_8000, 0x7f80_0000, 0x7f80_0001];
        let spread = (0..2_000_000u32).map(|step| step.wrapping_mul(2_654_435_761));
        for bits in special.into_iter().flat_map(around).chain(spread) {
            let value = f32::from_bits(bits);
            assert_eq!(to_bf16(value).to_bits(), bf16::from_f32(value).to_bits(), "{bits:#x}");
        }
    }
}
