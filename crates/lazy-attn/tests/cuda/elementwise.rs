//! Norms, activations and gathers against f64.

use lazy_attn::KvDtype;
use lazy_attn::cuda::{ElementType, Norm, QkvNorm, RowShape};

use crate::gpu::{device, narrow, widen};

const EPS: f32 = 1e-6;
const ELEMENTS: [(ElementType, KvDtype); 2] =
    [(ElementType::Bf16, KvDtype::Bf16), (ElementType::F16, KvDtype::F16)];

/// Numbers in [-size, size), different for every seed.
pub(crate) fn noise(seed: u64, size: f32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| size * next()).collect()
}

/// Values that the type holds, and their bits.
fn rounded(dtype: KvDtype, values: &[f32]) -> (Vec<f32>, Vec<u16>) {
    let bits = narrow(dtype, values);
    (widen(dtype, &bits), bits)
}

/// Half a unit in the last place for the result, and a hundred of f32's for what came before it.
fn check_close(dtype: KvDtype, got: &[u16], want: &[f64]) {
    let unit = if dtype == KvDtype::F16 { 2f64.powi(-11) } else { 2f64.powi(-8) };
    let got = widen(dtype, got);
    assert_eq!(got.len(), want.len());
    for (index, (&got, &want)) in got.iter().zip(want).enumerate() {
        let most = want.abs() * (unit + 100.0 * 2f64.powi(-24)) + 2f64.powi(-24);
        let difference = (f64::from(got) - want).abs();
        assert!(difference <= most, "element {index}: {got} is not {want} within {most} ({dtype:?})");
    }
}

fn norm_of(row: &[f32], weight: &[f32]) -> Vec<f64> {
    let mean = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / row.len() as f64;
    let scale = 1.0 / (mean + f64::from(EPS)).sqrt();
    row.iter().zip(weight).map(|(&x, &weight)| f64::from(x) * scale * f64::from(weight)).collect()
}

fn check_norm((element, dtype): (ElementType, KvDtype), num_rows: u32, width: u32) {
    let device = device();
    let stream = device.stream();
    let shape = RowShape { num_rows, width };
    let count = (num_rows * width) as usize;
    let (x, x_bits) = rounded(dtype, &noise(1, 3.0, count));
    let (residual, residual_bits) = rounded(dtype, &noise(2, 5.0, count));
    let (weight, weight_bits) = rounded(dtype, &noise(3, 2.0, width as usize));
    let sums: Vec<f32> = x.iter().zip(&residual).map(|(x, residual)| x + residual).collect();
    let (sums, sum_bits) = rounded(dtype, &sums);
    let [gpu_x, gpu_weight] = [&x_bits, &weight_bits].map(|bits| stream.clone_htod(bits).unwrap());
    let mut gpu_residual = stream.clone_htod(&residual_bits).unwrap();
    let mut out = stream.clone_htod(&vec![0xFFFF_u16; count]).unwrap();
    let norm = &Norm { weight: &gpu_weight, eps: EPS };

    device.add_rms_norm((element, shape), &gpu_x, &mut gpu_residual, norm, &mut out).unwrap();
    assert!(stream.clone_dtoh(&gpu_residual).unwrap() == sum_bits, "{shape:?} {dtype:?}");
    let rows = |values: &[f32]| -> Vec<f64> {
        values.chunks(width as usize).flat_map(|row| norm_of(row, &weight)).collect()
    };
    check_close(dtype, &stream.clone_dtoh(&out).unwrap(), &rows(&sums));

    device.rms_norm((element, shape), &gpu_x, norm, &mut out).unwrap();
    check_close(dtype, &stream.clone_dtoh(&out).unwrap(), &rows(&x));
}

#[test]
fn a_norm_is_that_of_the_rounded_sum_for_the_sanitizer_too() {
    for element in ELEMENTS {
        for (num_rows, width) in [(1, 8), (3, 64), (17, 1000), (5, 4096), (2, 5120)] {
            check_norm(element, num_rows, width);
        }
    }
}

#[test]
fn the_gate_is_activated_and_multiplied() {
    let device = device();
    let stream = device.stream();
    for (element, dtype) in ELEMENTS {
        for (num_rows, width) in [(1, 8), (3, 4104), (33, 256)] {
            let count = (num_rows * width) as usize;
            let (packed, bits) = rounded(dtype, &noise(4, 20.0, 2 * count));
            let gpu = stream.clone_htod(&bits).unwrap();
            let mut out = stream.clone_htod(&vec![0xFFFF_u16; count]).unwrap();
            device.silu_mul((element, RowShape { num_rows, width }), &gpu, &mut out).unwrap();
            let row = |row: &[f32]| -> Vec<f64> {
                let (gate, up) = row.split_at(width as usize);
                let silu = |x: f64| x / (1.0 + (-x).exp());
                gate.iter().zip(up).map(|(&gate, &up)| silu(f64::from(gate)) * f64::from(up)).collect()
            };
            let want: Vec<f64> = packed.chunks(2 * width as usize).flat_map(row).collect();
            check_close(dtype, &stream.clone_dtoh(&out).unwrap(), &want);
        }
    }
}

#[test]
fn rows_are_gathered_and_unknown_ids_give_zeros() {
    let device = device();
    let stream = device.stream();
    for width in [8, 72, 2048] {
        let shape = RowShape { num_rows: 50, width };
        let table: Vec<u16> = (0..50 * width).map(|index| ((index * 40503) >> 4) as u16).collect();
        let ids = [49, 0, 7, 7, 50, u32::MAX, 1];
        let gpu_table = stream.clone_htod(&table).unwrap();
        let gpu_ids = stream.clone_htod(&ids).unwrap();
        let mut out = stream.clone_htod(&vec![0xFFFF_u16; ids.len() * width as usize]).unwrap();
        device.gather(shape, &gpu_table, &gpu_ids, &mut out).unwrap();
        let zeros = vec![0; width as usize];
        let row = |&id: &u32| table.chunks(width as usize).nth(id as usize).unwrap_or(&zeros).to_vec();
        let want: Vec<u16> = ids.iter().flat_map(row).collect();
        assert!(stream.clone_dtoh(&out).unwrap() == want, "width {width}");
    }
}

/// Which of the two steps happen.
#[derive(Debug, Clone, Copy)]
struct Steps {
    bias: Option<()>,
    norm: Option<()>,
}

fn check_qkv((element, dtype): (ElementType, KvDtype), head_dim: u32, num_tokens: u32, steps: Steps) {
    let device = device();
    let stream = device.stream();
    let (num_q_heads, num_kv_heads) = (6, 2);
    let (head, num_heads) = (head_dim as usize, (num_q_heads + 2 * num_kv_heads) as usize);
    let row = head * num_heads;
    let (qkv, qkv_bits) = rounded(dtype, &noise(5, 4.0, num_tokens as usize * row));
    let (bias, bias_bits) = rounded(dtype, &noise(6, 1.0, row));
    let (q_weight, q_bits) = rounded(dtype, &noise(7, 2.0, head));
    let (k_weight, k_bits) = rounded(dtype, &noise(8, 2.0, head));
    let [gpu_bias, gpu_q, gpu_k] =
        [&bias_bits, &q_bits, &k_bits].map(|bits| stream.clone_htod(bits).unwrap());
    let mut gpu_qkv = stream.clone_htod(&qkv_bits).unwrap();
    let norm = &QkvNorm {
        num_q_heads,
        num_kv_heads,
        head_dim,
        bias: steps.bias.map(|()| &gpu_bias),
        weights: steps.norm.map(|()| (&gpu_q, &gpu_k)),
        eps: EPS,
    };
    device.qkv_norm(element, num_tokens, norm, &mut gpu_qkv).unwrap();
    let added = |(index, &x): (usize, &f32)| if steps.bias.is_some() { x + bias[index % row] } else { x };
    let sums: Vec<f32> = qkv.iter().enumerate().map(added).collect();
    let (sums, _) = rounded(dtype, &sums);
    let per_head = |(index, values): (usize, &[f32])| -> Vec<f64> {
        let weight = match index % num_heads {
            head if head < num_q_heads as usize => &q_weight,
            head if head < (num_q_heads + num_kv_heads) as usize => &k_weight,
            _ => return values.iter().map(|&x| f64::from(x)).collect(),
        };
        if steps.norm.is_some() {
            norm_of(values, weight)
        } else {
            values.iter().map(|&x| x.into()).collect()
        }
    };
    let want: Vec<f64> = sums.chunks(head).enumerate().flat_map(per_head).collect();
    check_close(dtype, &stream.clone_dtoh(&gpu_qkv).unwrap(), &want);
}

#[test]
fn queries_and_keys_are_normalised_and_values_only_biased() {
    for element in ELEMENTS {
        for head_dim in [64, 128] {
            for (bias, norm) in [(None, None), (Some(()), None), (None, Some(())), (Some(()), Some(()))] {
                for num_tokens in [1, 3, 70] {
                    check_qkv(element, head_dim, num_tokens, Steps { bias, norm });
                }
            }
        }
    }
}

#[test]
fn lengths_that_disagree_are_refused() {
    let device = device();
    let stream = device.stream();
    let memory = stream.clone_htod(&vec![0_u16; 64]).unwrap();
    let mut out = stream.clone_htod(&vec![0_u16; 64]).unwrap();
    let shape = RowShape { num_rows: 8, width: 8 };
    assert!(device.silu_mul((ElementType::Bf16, shape), &memory, &mut out).is_err());
    let odd = RowShape { num_rows: 16, width: 4 };
    let norm = &Norm { weight: &memory, eps: EPS };
    assert!(device.rms_norm((ElementType::Bf16, odd), &memory, norm, &mut out).is_err());
    assert!(device.rms_norm((ElementType::Bf16, shape), &memory, norm, &mut out).is_err());
}
