//! A weight matrix, repacked so that lanes are output rows.
//!
//! A panel holds 16 or 32 output rows, input feature by input feature: a kernel loads the weights of one input for
//! all rows of the panel at once, multiplies them by one activation, and never sums across lanes.
//!
//! * float panels: `[in_features][32]`.
//! * integer panels, per block of 32 inputs: eight vectors of four codes per row (`Q8`, stored plus 128), or four
//!   vectors whose low nibbles are inputs 0..16 and whose high nibbles are inputs 16..32 (`Q4`, stored plus 8, exactly
//!   the nibbles of a `Q4_0` block); and beside them `[block][16]` scales as IEEE halves, as their formats have them.

use half::{bf16, f16};
use memmap2::MmapMut;
use rayon::prelude::*;

use super::format::{BLOCK, Format};
use crate::{
    ModelError,
    cpu::simd::{CODE_BYTES, LANES},
    weights::{RawTensor, TensorDtype, dequantize, to_bf16},
};

/// A packed matrix `[out_features, in_features]`.
#[derive(Debug)]
pub(crate) struct Packed {
    format: Format,
    out_features: usize,
    in_features: usize,
    codes: MmapMut,
    scales: Vec<u16>,
}

/// One panel as a kernel reads it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panel<'a> {
    pub(crate) codes: &'a [u8],
    /// `[block][16]`, empty for float panels.
    pub(crate) scales: &'a [u16],
}

/// Where the rows of a matrix come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) tensor: &'a RawTensor<'a>,
    /// Row `r` of the matrix is row `order[r]` of the tensor; `None` keeps the order.
    pub(crate) order: Option<&'a [usize]>,
    pub(crate) out_features: usize,
    pub(crate) in_features: usize,
}

impl Rows<'_> {
    fn bytes(&self, row: usize) -> &[u8] {
        let row = self.order.map_or(row, |order| order[row]);
        let size = self.tensor.bytes.len() / self.out_features;
        &self.tensor.bytes[row * size..(row + 1) * size]
    }

    fn floats(&self, row: usize, out: &mut [f32]) {
        dequantize(self.tensor.dtype, self.bytes(row), out);
    }
}

impl Packed {
    /// Packs `rows`, on every thread of the current pool.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if there is no memory for it.
    pub(crate) fn pack(format: Format, rows: Rows<'_>, name: &str) -> Result<Packed, ModelError> {
        let num_panels = rows.out_features.div_ceil(format.panel_rows());
        let (panel_bytes, panel_scales) =
            (format.panel_bytes(rows.in_features), format.panel_scales(rows.in_features));
        // An anonymous mapping begins at a page, so every panel begins at a cache line.
        let mut codes = MmapMut::map_anon(num_panels * panel_bytes).map_err(|error| ModelError::Tensor {
            name: name.to_owned(),
            problem: format!("no memory for {} bytes of packed weights: {error}", num_panels * panel_bytes),
        })?;
        #[cfg(target_os = "linux")]
        {
            // Advice only: huge pages spare page walks while the weights stream by.
            let _ = codes.advise(memmap2::Advice::HugePage);
        }
        let mut scales = vec![0u16; num_panels * panel_scales];
        let pack_panel = |panel: usize, codes: &mut [u8], scales: &mut [u16]| {
            let first = panel * format.panel_rows();
            for lane in 0..format.panel_rows().min(rows.out_features - first) {
                pack_row(format, &rows, first + lane, lane, codes, scales);
            }
        };
        if panel_scales == 0 {
            let panels = codes.par_chunks_exact_mut(panel_bytes).enumerate();
            panels.for_each(|(panel, codes)| pack_panel(panel, codes, &mut []));
        } else {
            let panels =
                codes.par_chunks_exact_mut(panel_bytes).zip(scales.par_chunks_exact_mut(panel_scales));
            panels.enumerate().for_each(|(panel, (codes, scales))| pack_panel(panel, codes, scales));
        }
        let (out_features, in_features) = (rows.out_features, rows.in_features);
        Ok(Packed { format, out_features, in_features, codes, scales })
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn out_features(&self) -> usize {
        self.out_features
    }

    pub(crate) fn num_panels(&self) -> usize {
        self.out_features.div_ceil(self.format.panel_rows())
    }

    /// Bytes a product with one row of activations reads.
    pub(crate) fn num_bytes(&self) -> usize {
        self.codes.len() + 2 * self.scales.len()
    }

    #[inline(always)]
    pub(crate) fn panel(&self, panel: usize) -> Panel<'_> {
        let bytes = self.format.panel_bytes(self.in_features);
        let scales = self.format.panel_scales(self.in_features);
        Panel {
            codes: &self.codes[panel * bytes..(panel + 1) * bytes],
            scales: &self.scales[panel * scales..(panel + 1) * scales],
        }
    }

    /// Writes row `row` to `out` (`[in_features]`), exactly as the kernels see it.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let width = self.format.panel_rows();
        let (panel, lane) = (self.panel(row / width), row % width);
        match self.format {
            Format::F32 => {
                let weights: &[f32] = bytemuck::cast_slice(panel.codes);
                for (out, weights) in out.iter_mut().zip(weights.chunks_exact(width)) {
                    *out = weights[lane];
                }
            }
            Format::Bf16 => {
                let weights: &[u16] = bytemuck::cast_slice(panel.codes);
                for (out, weights) in out.iter_mut().zip(weights.chunks_exact(width)) {
                    *out = bf16::from_bits(weights[lane]).to_f32();
                }
            }
            Format::Q8 | Format::Q4 => self.integer_row(panel, lane, out),
        }
    }

    fn integer_row(&self, panel: Panel<'_>, lane: usize, out: &mut [f32]) {
        for (index, out) in out.iter_mut().enumerate() {
            let (block, in_block) = (index / BLOCK, index % BLOCK);
            let scale = f16::from_bits(panel.scales[block * LANES + lane]).to_f32();
            let vector = |vector: usize| panel.codes[vector * CODE_BYTES + 4 * lane + in_block % 4];
            let code = match self.format {
                Format::Q4 if in_block < BLOCK / 2 => f32::from(vector(4 * block + in_block / 4) & 15) - 8.0,
                Format::Q4 => f32::from(vector(4 * block + in_block / 4 - 4) >> 4) - 8.0,
                _ => f32::from(vector(8 * block + in_block / 4)) - 128.0,
            };
            *out = scale * code;
        }
    }
}

/// Writes row `row` of `rows` to lane `lane` of a panel.
fn pack_row(format: Format, rows: &Rows<'_>, row: usize, lane: usize, codes: &mut [u8], scales: &mut [u16]) {
    let stored = rows.tensor.dtype;
    match format {
        Format::Q4 => pack_q4(rows.bytes(row), lane, codes, scales),
        Format::Q8 if stored == TensorDtype::Q8_0 => pack_q8(rows.bytes(row), lane, codes, scales),
        _ => {
            let mut floats = vec![0.0; format.padded_in(rows.in_features)];
            rows.floats(row, &mut floats[..rows.in_features]);
            match format {
                Format::F32 => scatter(bytemuck::cast_slice_mut(codes), lane, floats.into_iter()),
                Format::Bf16 => {
                    let bits = floats.into_iter().map(|value| to_bf16(value).to_bits());
                    scatter(bytemuck::cast_slice_mut(codes), lane, bits);
                }
                Format::Q8 | Format::Q4 => requantize(&floats, lane, codes, scales),
            }
        }
    }
}

fn scatter<T: Copy>(panel: &mut [T], lane: usize, values: impl Iterator<Item = T>) {
    let width = Format::F32.panel_rows();
    for (weights, value) in panel.chunks_exact_mut(width).zip(values) {
        weights[lane] = value;
    }
}

/// A `Q4_0` row: per block a scale and 16 bytes, which are the nibbles of inputs `i` and `i + 16`.
fn pack_q4(row: &[u8], lane: usize, codes: &mut [u8], scales: &mut [u16]) {
    let blocks = row.chunks_exact(TensorDtype::Q4_0.block_bytes());
    for (block, bytes) in blocks.enumerate() {
        scales[block * LANES + lane] = u16::from_le_bytes([bytes[0], bytes[1]]);
        put_codes(codes, 4 * block, lane, &bytes[2..]);
    }
}

/// A `Q8_0` row: per block a scale and 32 signed bytes.
fn pack_q8(row: &[u8], lane: usize, codes: &mut [u8], scales: &mut [u16]) {
    let blocks = row.chunks_exact(TensorDtype::Q8_0.block_bytes());
    for (block, bytes) in blocks.enumerate() {
        scales[block * LANES + lane] = u16::from_le_bytes([bytes[0], bytes[1]]);
        let mut unsigned = [0; BLOCK];
        for (unsigned, byte) in unsigned.iter_mut().zip(&bytes[2..]) {
            *unsigned = byte ^ 0x80;
        }
        put_codes(codes, 8 * block, lane, &unsigned);
    }
}

/// Rounds a row to `Q8_0`. Codes are taken against the scale as it is stored, so its rounding costs nothing.
fn requantize(row: &[f32], lane: usize, codes: &mut [u8], scales: &mut [u16]) {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum, ties to even.
    const MAGIC: f32 = 12_582_912.0;
    for (block, values) in row.as_chunks::<BLOCK>().0.iter().enumerate() {
        // Magnitudes order like their bits, and integers are compared sixteen at a time.
        let largest = values.iter().fold(0, |largest, value| largest.max(value.to_bits() & 0x7fff_ffff));
        let scale = f16::from_f32(f32::from_bits(largest) / 127.0);
        let divisor = if scale == f16::ZERO { f32::INFINITY } else { scale.to_f32() };
        let unsigned = values.map(|value| {
            let code = (value / divisor).clamp(-127.0, 127.0) + MAGIC;
            code.to_bits() as u8 ^ 0x80
        });
        scales[block * LANES + lane] = scale.to_bits();
        put_codes(codes, 8 * block, lane, &unsigned);
    }
}

/// Writes four codes to the lane of each vector from `first_vector` on.
fn put_codes(codes: &mut [u8], first_vector: usize, lane: usize, row: &[u8]) {
    for (vector, four) in row.chunks_exact(4).enumerate() {
        let at = (first_vector + vector) * CODE_BYTES + 4 * lane;
        codes[at..at + 4].copy_from_slice(four);
    }
}
