//! Blocks of every type against the formats' definitions, and against another implementation.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use candle_core::quantized::GgmlDType;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use half::{bf16, f16};
use lazy_attn_models::weights::{RawTensor, TensorDtype};

fn to_f32(dtype: TensorDtype, bytes: &[u8]) -> Vec<f32> {
    let len = bytes.len() / dtype.block_bytes() * dtype.block_elements();
    RawTensor { dtype, shape: vec![len], bytes: bytes.into() }.to_f32()
}

/// Bytes that look random, with small finite half-precision numbers where the block has scales.
fn blocks(dtype: TensorDtype, num_blocks: usize) -> Vec<u8> {
    let scales: &[usize] = match dtype {
        TensorDtype::F32 => &[],
        TensorDtype::F16 | TensorDtype::Bf16 | TensorDtype::Q8_0 | TensorDtype::Q4_0 | TensorDtype::Q5_0 => {
            &[0]
        }
        TensorDtype::Q4_1 | TensorDtype::Q5_1 | TensorDtype::Q4K | TensorDtype::Q5K => &[0, 2],
        TensorDtype::Q6K => &[208],
    };
    let mut state = 12345u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state
    };
    let mut bytes = Vec::new();
    for _ in 0..num_blocks {
        let mut block: Vec<u8> = (0..dtype.block_bytes()).map(|_| (next() >> 24) as u8).collect();
        for &at in scales {
            block[at..at + 2]
                .copy_from_slice(&f16::from_f32((next() >> 16) as f32 / 65536.0 - 0.5).to_le_bytes());
        }
        if dtype == TensorDtype::F32 {
            block.copy_from_slice(&((next() >> 8) as f32 / 1e6).to_le_bytes());
        }
        bytes.extend(block);
    }
    bytes
}

#[test]
fn every_type_agrees_with_another_implementation_to_the_last_bit_but_one() {
    let types = [
        (TensorDtype::F32, GgmlDType::F32),
        (TensorDtype::F16, GgmlDType::F16),
        (TensorDtype::Bf16, GgmlDType::BF16),
        (TensorDtype::Q8_0, GgmlDType::Q8_0),
        (TensorDtype::Q4_0, GgmlDType::Q4_0),
        (TensorDtype::Q4_1, GgmlDType::Q4_1),
        (TensorDtype::Q5_0, GgmlDType::Q5_0),
        (TensorDtype::Q5_1, GgmlDType::Q5_1),
        (TensorDtype::Q4K, GgmlDType::Q4K),
        (TensorDtype::Q5K, GgmlDType::Q5K),
        (TensorDtype::Q6K, GgmlDType::Q6K),
    ];
    assert_eq!(types.map(|(own, _)| own), TensorDtype::ALL);
    for (dtype, other) in types {
        // More blocks than one task takes, and not a multiple of it.
        let num_blocks = 40_000 / dtype.block_elements() + 3;
        let bytes = blocks(dtype, num_blocks);
        let found = to_f32(dtype, &bytes);
        let device = candle_core::Device::Cpu;
        let expected = qtensor_from_ggml(other, &bytes, vec![found.len()], &device).unwrap();
        let expected: Vec<f32> = expected.dequantize(&device).unwrap().to_vec1().unwrap();
        for (index, (a, b)) in found.iter().zip(&expected).enumerate() {
            // The same float32 operations in the same order, but for a multiplication fused with an addition.
            assert!((a - b).abs() <= f32::EPSILON * b.abs().max(1e-3), "{dtype:?} {index}: {a} is not {b}");
        }
    }
}

/// Elements of one block by the definition of its format, one at a time, in float64.
fn defined(dtype: TensorDtype, block: &[u8], index: usize) -> f64 {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f64();
    let bit = |at: usize, bit: usize| f64::from((block[at + bit / 8] >> (bit % 8)) & 1);
    let nibble = |at: usize| {
        let byte = block[at + index % 16];
        f64::from(if index < 16 { byte & 15 } else { byte >> 4 })
    };
    // Six bits of scale or min of group `g`: the first four groups hold them whole; the later ones keep four bits in
    // bytes 8..12 and two in the top of an earlier byte.
    let six = |g: usize, is_min: bool| {
        let p = &block[4..16];
        let shift = if is_min { 4 } else { 0 };
        let own = g + if is_min { 4 } else { 0 };
        let code = if g < 4 { p[own] & 63 } else { ((p[g + 4] >> shift) & 15) + 16 * (p[own - 4] >> 6) };
        f64::from(code)
    };
    let group = index / 32;
    let k_nibble = |at: usize| {
        let byte = block[at + index / 64 * 32 + index % 32];
        f64::from(if index % 64 < 32 { byte & 15 } else { byte >> 4 })
    };
    match dtype {
        TensorDtype::F32 => f64::from(f32::from_le_bytes(block.try_into().unwrap())),
        TensorDtype::F16 => half(0),
        TensorDtype::Bf16 => bf16::from_le_bytes([block[0], block[1]]).to_f64(),
        TensorDtype::Q8_0 => half(0) * f64::from(block[2 + index] as i8),
        TensorDtype::Q4_0 => half(0) * (nibble(2) - 8.0),
        TensorDtype::Q4_1 => half(0) * nibble(4) + half(2),
        TensorDtype::Q5_0 => half(0) * (nibble(6) + 16.0 * bit(2, index) - 16.0),
        TensorDtype::Q5_1 => half(0) * (nibble(8) + 16.0 * bit(4, index)) + half(2),
        TensorDtype::Q4K => half(0) * six(group, false) * k_nibble(16) - half(2) * six(group, true),
        TensorDtype::Q5K => {
            let high = bit(16 + index % 32, group);
            half(0) * six(group, false) * (k_nibble(48) + 16.0 * high) - half(2) * six(group, true)
        }
        TensorDtype::Q6K => {
            let (part, place) = (index / 128, index % 128);
            let byte = block[64 * part + place % 64];
            let low = f64::from(if place < 64 { byte & 15 } else { byte >> 4 });
            let high = f64::from((block[128 + 32 * part + place % 32] >> (place / 32 * 2)) & 3);
            half(208) * f64::from(block[192 + index / 16] as i8) * (low + 16.0 * high - 32.0)
        }
    }
}

#[test]
fn every_element_is_what_its_format_defines() {
    for dtype in TensorDtype::ALL {
        let bytes = blocks(dtype, 64);
        let found = to_f32(dtype, &bytes);
        for (index, found) in found.into_iter().enumerate() {
            let (block, index) = (index / dtype.block_elements(), index % dtype.block_elements());
            let block = &bytes[block * dtype.block_bytes()..][..dtype.block_bytes()];
            let expected = defined(dtype, block, index);
            // Three roundings; the terms of a difference are below 0.5 * 63 * 31, so it is off by their ulps.
            let bound = 4.0 * f64::from(f32::EPSILON) * expected.abs().max(0.5 * 63.0 * 31.0);
            assert!(
                (f64::from(found) - expected).abs() <= bound,
                "{dtype:?} {index}: {found} is not {expected}"
            );
        }
    }
}

#[test]
fn a_hand_made_block_has_the_values_one_reads_off_it() {
    let mut q4_0 = f16::from_f32(0.5).to_le_bytes().to_vec();
    q4_0.extend([0x8f; 16]);
    // Low nibbles 15 are +7, high nibbles 8 are 0, times one half.
    assert_eq!(to_f32(TensorDtype::Q4_0, &q4_0), [vec![3.5; 16], vec![0.0; 16]].concat());
    let mut q8_0 = f16::from_f32(2.0).to_le_bytes().to_vec();
    q8_0.extend([255; 32]);
    assert_eq!(to_f32(TensorDtype::Q8_0, &q8_0), [-2.0; 32]);
}

#[test]
fn sizes_count_whole_blocks_per_row() {
    assert_eq!(TensorDtype::Q4_0.size_of(&[2, 64]), Some(72));
    assert_eq!(TensorDtype::Q4_0.size_of(&[64, 2]), None);
    assert_eq!(TensorDtype::Q6K.size_of(&[3, 512]), Some(3 * 2 * 210));
    assert_eq!(TensorDtype::F32.size_of(&[usize::MAX, 2]), None);
    assert_eq!(TensorDtype::Bf16.size_of(&[]), Some(2));
}
