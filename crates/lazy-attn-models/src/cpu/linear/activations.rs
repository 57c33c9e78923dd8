//! Activations, packed for the kernels: tiles of a few rows, input by input.

use rayon::prelude::*;

use super::format::BLOCK;
use crate::cpu::simd::{CpuIsa, Isa, Kernel, MAX_TILE_ROWS};

/// 32-bit words of one row's block: eight of codes, the sums, the scale, and one that keeps rows on 16 bytes.
pub(crate) const BLOCK_WORDS: usize = 12;
/// Eight words of signed bytes, then minus the sum of the block's codes times 8 and times 128: what a kernel starts
/// from so that weights stored plus 8 or plus 128 multiply as if they were not.
pub(crate) const Q4_START: usize = 8;
pub(crate) const Q8_START: usize = 9;
/// Largest magnitude / 127, as the bits of a float.
pub(crate) const SCALE: usize = 10;

/// Activation elements below which packing stays on one thread.
const MIN_PARALLEL_ELEMENTS: usize = 1 << 15;

/// Packed activations of one call, kept between calls for their memory.
#[derive(Debug, Default)]
pub struct Activations {
    /// `[tile][in_features][rows]`
    floats: Vec<f32>,
    /// `[tile][block][rows][BLOCK_WORDS]`
    integers: Vec<u32>,
    shape: Shape,
}

/// Sizes of packed activations.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Shape {
    pub(crate) num_rows: usize,
    pub(crate) in_features: usize,
    /// Rows of every tile but the last.
    pub(crate) tile_rows: usize,
}

impl Shape {
    pub(crate) fn num_tiles(&self) -> usize {
        self.num_rows.div_ceil(self.tile_rows)
    }

    /// Rows of tile `tile`.
    #[inline(always)]
    pub(crate) fn rows_of(&self, tile: usize) -> usize {
        self.tile_rows.min(self.num_rows - tile * self.tile_rows)
    }

    fn block_words(&self) -> usize {
        self.in_features.div_ceil(BLOCK) * BLOCK_WORDS
    }
}

impl Activations {
    /// Packs `x` (`[num_rows, in_features]`) as float tiles.
    pub(crate) fn pack_floats(&mut self, isa: CpuIsa, x: &[f32], in_features: usize) {
        self.shape = Shape { num_rows: x.len() / in_features, in_features, tile_rows: isa.tile_rows() };
        if self.floats.len() < x.len() {
            self.floats.resize(x.len(), 0.0);
        }
        let tile_elements = self.shape.tile_rows * in_features;
        let pack = |(tile, x): (&mut [f32], &[f32])| transpose(x, in_features, tile);
        let packed = &mut self.floats[..x.len()];
        if x.len() < MIN_PARALLEL_ELEMENTS {
            packed.chunks_mut(tile_elements).zip(x.chunks(tile_elements)).for_each(pack);
        } else {
            packed.par_chunks_mut(tile_elements).zip(x.par_chunks(tile_elements)).for_each(pack);
        }
    }

    /// Packs `x` (`[num_rows, in_features]`) as tiles of signed bytes with a scale per row and block.
    pub(crate) fn pack_integers(&mut self, isa: CpuIsa, x: &[f32], in_features: usize) {
        self.shape = Shape { num_rows: x.len() / in_features, in_features, tile_rows: isa.tile_rows() };
        let num_words = self.shape.num_rows * self.shape.block_words();
        if self.integers.len() < num_words {
            self.integers.resize(num_words, 0);
        }
        let (tile_words, tile_elements) =
            (self.shape.tile_rows * self.shape.block_words(), self.shape.tile_rows * in_features);
        let pack = |(tile, x): (&mut [u32], &[f32])| isa.run(QuantizeTile { x, in_features, tile });
        let packed = &mut self.integers[..num_words];
        if x.len() < MIN_PARALLEL_ELEMENTS {
            packed.chunks_mut(tile_words).zip(x.chunks(tile_elements)).for_each(pack);
        } else {
            packed.par_chunks_mut(tile_words).zip(x.par_chunks(tile_elements)).for_each(pack);
        }
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// `[in_features][rows]`
    #[inline(always)]
    pub(crate) fn float_tile(&self, tile: usize) -> &[f32] {
        let first_row = tile * self.shape.tile_rows;
        let end_row = first_row + self.shape.rows_of(tile);
        &self.floats[first_row * self.shape.in_features..end_row * self.shape.in_features]
    }

    /// `[block][rows][BLOCK_WORDS]`
    #[inline(always)]
    pub(crate) fn integer_tile(&self, tile: usize) -> &[u32] {
        let first_row = tile * self.shape.tile_rows;
        let end_row = first_row + self.shape.rows_of(tile);
        &self.integers[first_row * self.shape.block_words()..end_row * self.shape.block_words()]
    }
}

/// `[rows, in_features]` to `[in_features][rows]`.
fn transpose(x: &[f32], in_features: usize, tile: &mut [f32]) {
    let num_rows = x.len() / in_features;
    for (row, x) in x.chunks_exact(in_features).enumerate() {
        for (inputs, &value) in tile.chunks_exact_mut(num_rows).zip(x) {
            inputs[row] = value;
        }
    }
}

/// Quantises the rows of a tile, block by block.
struct QuantizeTile<'a> {
    /// `[rows, in_features]`
    x: &'a [f32],
    in_features: usize,
    /// `[block][rows][BLOCK_WORDS]`
    tile: &'a mut [u32],
}

impl Kernel for QuantizeTile<'_> {
    #[inline(always)]
    fn run<I: Isa>(self) {
        let num_rows = self.x.len() / self.in_features;
        debug_assert!(num_rows <= MAX_TILE_ROWS);
        for (row, x) in self.x.chunks_exact(self.in_features).enumerate() {
            let (blocks, rest) = x.as_chunks::<BLOCK>();
            let mut out = self.tile.chunks_exact_mut(BLOCK_WORDS).skip(row).step_by(num_rows);
            for (block, out) in blocks.iter().zip(&mut out) {
                quantize_block(block, out);
            }
            if let Some(out) = out.next() {
                let mut padded = [0.0; BLOCK];
                padded[..rest.len()].copy_from_slice(rest);
                quantize_block(&padded, out);
            }
        }
    }
}

/// Rounds to nearest even against largest magnitude / 127. A NaN or an infinity makes the scale one, so it is seen in
/// every result it enters.
#[inline(always)]
fn quantize_block(block: &[f32; BLOCK], out: &mut [u32]) {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum, ties to even.
    const MAGIC: f32 = 12_582_912.0;
    // Magnitudes order like their bits, and a NaN is above all.
    let largest = f32::from_bits(block.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff)));
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let mut codes = [0u8; BLOCK];
    for (code, x) in codes.iter_mut().zip(block) {
        *code = x.mul_add(inverse, MAGIC).to_bits() as u8;
    }
    let sum: i32 = codes.iter().map(|code| i32::from(code.cast_signed())).sum();
    for (word, four) in out.iter_mut().zip(codes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*four);
    }
    out[Q4_START] = (-8 * sum).cast_unsigned();
    out[Q8_START] = (-128 * sum).cast_unsigned();
    out[SCALE] = (largest / 127.0).to_bits();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_rounded_to_the_nearest_code_of_its_scale() {
        let mut block = [0.0; BLOCK];
        block[..5].copy_from_slice(&[127.0, -127.0, 2.5, 3.5, -0.4]);
        let mut out = [0; BLOCK_WORDS];
        quantize_block(&block, &mut out);
        let codes: Vec<i8> =
            out[..2].iter().flat_map(|word| word.to_le_bytes()).map(u8::cast_signed).collect();
        assert_eq!(codes, [127, -127, 2, 4, 0, 0, 0, 0]);
        assert_eq!((out[Q4_START].cast_signed(), out[Q8_START].cast_signed()), (-8 * 6, -128 * 6));
        assert_eq!(f32::from_bits(out[SCALE]), 1.0);
    }

    #[test]
    fn a_block_with_a_nan_has_a_nan_for_its_scale_and_zeros_have_zero() {
        let mut out = [0; BLOCK_WORDS];
        let mut block = [1.0; BLOCK];
        block[7] = f32::NAN;
        quantize_block(&block, &mut out);
        assert!(f32::from_bits(out[SCALE]).is_nan());
        quantize_block(&[0.0; BLOCK], &mut out);
        assert_eq!(out[..8], [0; 8]);
        assert_eq!(f32::from_bits(out[SCALE]), 0.0);
    }
}
