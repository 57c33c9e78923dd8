//! The inner kernels: one panel times one tile of rows.
//!
//! Each output element is a chain of fused multiply-adds over the inputs (or blocks of inputs) in ascending order,
//! whatever the tile, the thread or the machine: a row's result does not depend on the rows beside it, bit by bit.

use super::{
    activations::{BLOCK_WORDS, Q4_START, Q8_START, SCALE},
    format::Format,
    packed::Panel,
};
use crate::cpu::simd::{CODE_BYTES, Isa, LANES};

/// Rows of a tile by the 16 or 32 outputs of a panel; a panel of 16 leaves the second vector unused.
pub(crate) type Tile<const R: usize> = [[[f32; LANES]; 2]; R];

/// Weights a vector of floats is made of.
trait FloatWeights {
    type Bits: bytemuck::Pod;
    fn load<I: Isa>(bits: &[Self::Bits; LANES]) -> I::Floats;
}

struct F32Weights;
struct Bf16Weights;

impl FloatWeights for F32Weights {
    type Bits = f32;
    #[inline(always)]
    fn load<I: Isa>(bits: &[f32; LANES]) -> I::Floats {
        I::load(bits)
    }
}

impl FloatWeights for Bf16Weights {
    type Bits = u16;
    #[inline(always)]
    fn load<I: Isa>(bits: &[u16; LANES]) -> I::Floats {
        I::load_bf16(bits)
    }
}

/// Quantised weights: how eight vectors of codes come out of memory.
trait IntegerWeights {
    /// Stored vectors per block.
    const VECTORS: usize;
    /// Which start value of the activations cancels the offset of the codes.
    const START: usize;
    fn unpack<I: Isa>(codes: &[[u8; CODE_BYTES]]) -> [I::Codes; 8];
    fn dot<I: Isa>(sum: I::Ints, codes: I::Codes, acts: u32) -> I::Ints;
}

struct Q4Weights;
struct Q8Weights;

impl IntegerWeights for Q4Weights {
    const VECTORS: usize = 4;
    const START: usize = Q4_START;

    #[inline(always)]
    fn unpack<I: Isa>(codes: &[[u8; CODE_BYTES]]) -> [I::Codes; 8] {
        let mut unpacked = [I::load_codes(&codes[0]); 8];
        for vector in 0..4 {
            let packed = I::load_codes(&codes[vector]);
            unpacked[vector] = I::low_nibbles(packed);
            unpacked[vector + 4] = I::high_nibbles(packed);
        }
        unpacked
    }

    #[inline(always)]
    fn dot<I: Isa>(sum: I::Ints, codes: I::Codes, acts: u32) -> I::Ints {
        I::dot_nibbles(sum, codes, acts)
    }
}

impl IntegerWeights for Q8Weights {
    const VECTORS: usize = 8;
    const START: usize = Q8_START;

    #[inline(always)]
    fn unpack<I: Isa>(codes: &[[u8; CODE_BYTES]]) -> [I::Codes; 8] {
        let mut unpacked = [I::load_codes(&codes[0]); 8];
        for vector in 1..8 {
            unpacked[vector] = I::load_codes(&codes[vector]);
        }
        unpacked
    }

    #[inline(always)]
    fn dot<I: Isa>(sum: I::Ints, codes: I::Codes, acts: u32) -> I::Ints {
        I::dot_bytes(sum, codes, acts)
    }
}

/// `panel` times a float tile (`[in_features][R]`).
#[inline(always)]
pub(crate) fn float_tile<I: Isa, const R: usize>(format: Format, panel: Panel<'_>, acts: &[f32]) -> Tile<R> {
    match format {
        Format::Bf16 => float_loop::<I, Bf16Weights, R>(panel, acts),
        _ => float_loop::<I, F32Weights, R>(panel, acts),
    }
}

#[inline(always)]
fn float_loop<I: Isa, W: FloatWeights, const R: usize>(panel: Panel<'_>, acts: &[f32]) -> Tile<R> {
    let weights: &[W::Bits] = bytemuck::cast_slice(panel.codes);
    let (weights, _) = weights.as_chunks::<LANES>();
    let (weights, _) = weights.as_chunks::<2>();
    let (acts, _) = acts.as_chunks::<R>();
    let mut sums = [[I::splat(0.0); 2]; R];
    for (weights, acts) in weights.iter().zip(acts) {
        let weights = [W::load::<I>(&weights[0]), W::load::<I>(&weights[1])];
        for row in 0..R {
            let act = I::splat(acts[row]);
            sums[row][0] = I::mul_add(weights[0], act, sums[row][0]);
            sums[row][1] = I::mul_add(weights[1], act, sums[row][1]);
        }
    }
    // Loops, because a call of `array::map` may not be inlined, and then loses the instructions.
    let mut out: Tile<R> = [[[0.0; LANES]; 2]; R];
    for row in 0..R {
        out[row][0] = I::to_array(sums[row][0]);
        out[row][1] = I::to_array(sums[row][1]);
    }
    out
}

/// `panel` times an integer tile (`[block][R][BLOCK_WORDS]`).
#[inline(always)]
pub(crate) fn integer_tile<I: Isa, const R: usize>(
    format: Format,
    panel: Panel<'_>,
    acts: &[u32],
) -> Tile<R> {
    match format {
        Format::Q4 => integer_loop::<I, Q4Weights, R>(panel, acts),
        _ => integer_loop::<I, Q8Weights, R>(panel, acts),
    }
}

#[inline(always)]
fn integer_loop<I: Isa, W: IntegerWeights, const R: usize>(panel: Panel<'_>, acts: &[u32]) -> Tile<R> {
    let (codes, _) = panel.codes.as_chunks::<CODE_BYTES>();
    let (scales, _) = panel.scales.as_chunks::<LANES>();
    let (acts, _) = acts.as_chunks::<BLOCK_WORDS>();
    let (acts, _) = acts.as_chunks::<R>();
    let mut sums = [I::splat(0.0); R];
    for ((codes, scales), acts) in codes.chunks_exact(W::VECTORS).zip(scales).zip(acts) {
        let codes = W::unpack::<I>(codes);
        let scales = I::load_f16(scales);
        for row in 0..R {
            let acts = &acts[row];
            // The sum of at most 32 products of bytes is below 2^20: exact, in any order, also as a float.
            let mut sum = I::splat_int(acts[W::START].cast_signed());
            for vector in 0..8 {
                sum = W::dot::<I>(sum, codes[vector], acts[vector]);
            }
            let scale = I::mul(scales, I::splat(f32::from_bits(acts[SCALE])));
            sums[row] = I::mul_add(I::to_floats(sum), scale, sums[row]);
        }
    }
    let mut out: Tile<R> = [[[0.0; LANES]; 2]; R];
    for row in 0..R {
        out[row][0] = I::to_array(sums[row]);
    }
    out
}
