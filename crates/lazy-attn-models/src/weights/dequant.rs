//! Blocks of the GGUF formats to float32. The layouts are those of ggml's `block_*` structs.

use half::{bf16, f16};
use rayon::prelude::*;

use super::TensorDtype;

/// Writes the elements of `bytes` to `out`, in order; uses every thread of the current rayon pool.
///
/// A block's elements are `scale * code` (`Q*_0`), `scale * code + min` (`Q*_1`), or per group of 16 or 32
/// `scale * code - min` with scales that are themselves codes of the block's (`Q*K`), all in float32.
///
/// # Panics
/// If `bytes` and `out` do not hold the same number of whole blocks.
pub fn dequantize(dtype: TensorDtype, bytes: &[u8], out: &mut [f32]) {
    let (elements, size) = (dtype.block_elements(), dtype.block_bytes());
    assert!(
        bytes.len().is_multiple_of(size) && Some(out.len()) == (bytes.len() / size).checked_mul(elements),
        "the bytes of a tensor are those of its elements"
    );
    // Blocks per task: enough work to outweigh the task.
    let run = 16 * 1024 / elements;
    let runs = out.par_chunks_mut(run * elements).zip(bytes.par_chunks(run * size));
    runs.for_each(|(out, bytes)| blocks(dtype, bytes, out));
}

/// The same on this thread, of as many blocks as both hold.
pub(super) fn blocks(dtype: TensorDtype, bytes: &[u8], out: &mut [f32]) {
    let block: fn(&[u8], &mut [f32]) = block_of(dtype);
    let outs = out.chunks_exact_mut(dtype.block_elements());
    for (out, bytes) in outs.zip(bytes.chunks_exact(dtype.block_bytes())) {
        block(bytes, out);
    }
}

fn block_of(dtype: TensorDtype) -> fn(&[u8], &mut [f32]) {
    match dtype {
        TensorDtype::F32 => |b, out| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        TensorDtype::F16 => |b, out| out[0] = half_at(b, 0),
        TensorDtype::Bf16 => |b, out| out[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        TensorDtype::Q8_0 => q8_0,
        TensorDtype::Q4_0 => q4_0,
        TensorDtype::Q4_1 => q4_1,
        TensorDtype::Q5_0 => q5_0,
        TensorDtype::Q5_1 => q5_1,
        TensorDtype::Q4K => q4_k,
        TensorDtype::Q5K => q5_k,
        TensorDtype::Q6K => q6_k,
    }
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

fn q8_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    for (out, &code) in out.iter_mut().zip(&block[2..]) {
        *out = scale * f32::from(code.cast_signed());
    }
}

/// Writes the low nibbles of 16 bytes, then the high ones, each with its fifth bit from `high_bits`.
fn nibbles(codes: &[u8], high_bits: u32, out: &mut [f32], value: impl Fn(f32) -> f32) {
    for (index, &code) in codes.iter().enumerate() {
        let fifth = |bit: usize| ((high_bits >> bit) & 1) as u8 * 16;
        out[index] = value(f32::from((code & 15) + fifth(index)));
        out[index + 16] = value(f32::from((code >> 4) + fifth(index + 16)));
    }
}

fn q4_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    nibbles(&block[2..], 0, out, |code| scale * (code - 8.0));
}

fn q4_1(block: &[u8], out: &mut [f32]) {
    let (scale, min) = (half_at(block, 0), half_at(block, 2));
    nibbles(&block[4..], 0, out, |code| scale * code + min);
}

fn q5_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    nibbles(&block[6..], bits_at(block, 2), out, |code| scale * (code - 16.0));
}

fn q5_1(block: &[u8], out: &mut [f32]) {
    let (scale, min) = (half_at(block, 0), half_at(block, 2));
    nibbles(&block[8..], bits_at(block, 4), out, |code| scale * code + min);
}

fn bits_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// Scale and min of group `group` of a `Q4K` or `Q5K` block: six bits each, packed into 12 bytes.
fn scale_and_min(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, min) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let low = packed[group + 4];
        ((low & 15) | (packed[group - 4] >> 6 << 4), (low >> 4) | (packed[group] >> 6 << 4))
    };
    (f32::from(scale), f32::from(min))
}

fn q4_k(block: &[u8], out: &mut [f32]) {
    let (scale, min) = (half_at(block, 0), half_at(block, 2));
    let (packed, codes) = (&block[4..16], &block[16..]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (group_scale, group_min) = scale_and_min(packed, group);
        let (group_scale, group_min) = (scale * group_scale, min * group_min);
        let shift = 4 * (group % 2);
        for (out, code) in out.iter_mut().zip(&codes[group / 2 * 32..]) {
            *out = group_scale * f32::from((code >> shift) & 15) - group_min;
        }
    }
}

fn q5_k(block: &[u8], out: &mut [f32]) {
    let (scale, min) = (half_at(block, 0), half_at(block, 2));
    let (packed, high, codes) = (&block[4..16], &block[16..48], &block[48..]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (group_scale, group_min) = scale_and_min(packed, group);
        let (group_scale, group_min) = (scale * group_scale, min * group_min);
        let shift = 4 * (group % 2);
        for ((out, code), high) in out.iter_mut().zip(&codes[group / 2 * 32..]).zip(high) {
            let code = ((code >> shift) & 15) | (((high >> group) & 1) << 4);
            *out = group_scale * f32::from(code) - group_min;
        }
    }
}

fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = half_at(block, 208);
    for (index, out) in out.iter_mut().enumerate() {
        // Halves of 128 elements; in each, four runs of 32 share the bytes of `high`, two of them those of `low`.
        let (part, run, lane) = (index / 128, index % 128 / 32, index % 32);
        let low = low[64 * part + 32 * (run % 2) + lane] >> (4 * (run / 2)) & 15;
        let high = high[32 * part + lane] >> (2 * run) & 3;
        let code = i16::from(low | (high << 4)) - 32;
        *out = scale * f32::from(scales[index / 16].cast_signed()) * f32::from(code);
    }
}
