use half::f16;
use lazy_attn_testkit::SplitMix64;
use proptest::prelude::*;

use super::*;
use crate::weights::{RawTensor, TensorDtype};

/// Random bytes that are valid blocks: scales are small halves, everything else is whatever it is.
struct RandomSource {
    stored: TensorDtype,
    seed: u64,
}

impl TensorSource for RandomSource {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<RawTensor<'_>, ModelError> {
        let mut rng = SplitMix64::new(self.seed ^ name.len() as u64);
        let stored = if shape.len() == 1 { TensorDtype::F32 } else { self.stored };
        let num_blocks = shape.iter().product::<usize>() / stored.block_elements();
        let mut bytes = Vec::new();
        for _ in 0..num_blocks {
            let value = (rng.below(2001) as f32 - 1000.0) / 1000.0;
            match stored {
                TensorDtype::F32 => bytes.extend(value.to_le_bytes()),
                TensorDtype::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
                TensorDtype::Bf16 => bytes.extend(half::bf16::from_f32(value).to_le_bytes()),
                TensorDtype::Q4_0 | TensorDtype::Q8_0 => {
                    bytes.extend(f16::from_f32(value / 50.0).to_le_bytes());
                    bytes.extend((2..stored.block_bytes()).map(|_| rng.below(256) as u8));
                }
                other => panic!("no test stores {other:?}"),
            }
        }
        Ok(RawTensor { dtype: stored, shape: shape.to_vec(), bytes: bytes.into() })
    }

    fn total_bytes(&self) -> u64 {
        0
    }
}

fn part(name: &str, out_features: usize) -> LinearPart {
    LinearPart { name: name.to_owned(), out_features, bias: BiasUse::Absent, row_order: None }
}

fn layer(stored: TensorDtype, dtype: WeightDtype, out_features: usize, in_features: usize) -> Linear {
    let source = RandomSource { stored, seed: 7 };
    Linear::load(&source, &[part("w", out_features)], in_features, dtype).unwrap()
}

fn rows(num_rows: usize, in_features: usize, seed: u64) -> Vec<f32> {
    let mut rng = SplitMix64::new(seed);
    (0..num_rows * in_features).map(|_| (rng.below(20001) as f32 - 10000.0) / 4000.0).collect()
}

fn product(layer: &Linear, x: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / layer.in_features * layer.out_features(0)];
    layer.forward(x, [&mut out], &mut Activations::default());
    out
}

/// Every way weights can be held, by how they are stored.
const FORMATS: [(TensorDtype, WeightDtype); 4] = [
    (TensorDtype::F32, WeightDtype::Auto),
    (TensorDtype::Bf16, WeightDtype::Auto),
    (TensorDtype::Q8_0, WeightDtype::Auto),
    (TensorDtype::Q4_0, WeightDtype::Auto),
];

/// The same product in float64 over the weights as held; integer formats get their activations rounded here too.
fn check_against_f64(layer: &Linear, x: &[f32], tolerance_of: impl Fn(f64) -> f64) {
    let (k, n) = (layer.in_features, layer.out_features(0));
    let got = product(layer, x);
    let mut weights = vec![0.0; k];
    for output in 0..n {
        layer.row(output, &mut weights);
        for (row, x) in x.chunks_exact(k).enumerate() {
            let terms = || x.iter().zip(&weights).map(|(x, w)| f64::from(*x) * f64::from(*w));
            let (sum, magnitude) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
            let error = (f64::from(got[row * n + output]) - sum).abs();
            assert!(
                error <= tolerance_of(magnitude),
                "row {row}, output {output}: error {error}, magnitude {magnitude}"
            );
        }
    }
}

#[test]
fn float_products_are_within_the_rounding_of_their_length() {
    for (stored, dtype) in &FORMATS[..2] {
        let layer = layer(*stored, *dtype, 75, 130);
        // One rounding per multiply-add: k * eps/2 of the sum of magnitudes.
        check_against_f64(&layer, &rows(11, 130, 1), |magnitude| {
            130.0 * f64::from(f32::EPSILON) / 2.0 * magnitude
        });
    }
}

#[test]
fn integer_products_are_within_the_rounding_of_their_activations() {
    for (stored, dtype) in &FORMATS[2..] {
        let layer = layer(*stored, *dtype, 75, 160);
        // An activation is off by half a step, and a step is at most 2.5 / 127; weights are at most 128 / 50.
        let step = 2.5 / 127.0;
        check_against_f64(&layer, &rows(11, 160, 1), |magnitude| {
            160.0 * 0.5 * step * 128.0 / 50.0 + 160.0 * f64::from(f32::EPSILON) * magnitude
        });
    }
}

#[test]
fn integer_products_of_exact_activations_are_exact_up_to_float_rounding() {
    for (stored, dtype) in &FORMATS[2..] {
        let layer = layer(*stored, *dtype, 33, 96);
        let mut rng = SplitMix64::new(3);
        let mut x: Vec<f32> = (0..5 * 96).map(|_| rng.below(255) as f32 - 127.0).collect();
        // The largest magnitude is 127 in every block, so each activation is its own code.
        x.iter_mut().step_by(32).for_each(|first| *first = 127.0);
        // Per block of 32: one product of scales and one multiply-add, each rounded once.
        check_against_f64(&layer, &x, |magnitude| 2.0 * 3.0 * f64::from(f32::EPSILON) / 2.0 * magnitude);
    }
}

#[test]
fn a_row_is_the_same_alone_and_in_any_batch() {
    for (stored, dtype) in FORMATS {
        let layer = layer(stored, dtype, 100, 96);
        let x = rows(40, 96, 2);
        let alone: Vec<f32> = x.chunks_exact(96).flat_map(|row| product(&layer, row)).collect();
        for m in 1..=40 {
            assert_eq!(product(&layer, &x[..m * 96]), alone[..m * 100], "{stored:?}, batch of {m}");
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    for (stored, dtype) in FORMATS {
        let x = rows(13, 320, 4);
        let mut want: Option<Vec<f32>> = None;
        for isa in CpuIsa::available() {
            let got = product(&layer(stored, dtype, 70, 320).on(isa), &x);
            let want = want.get_or_insert_with(|| got.clone());
            assert_eq!(&got, want, "{stored:?} on {isa}");
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for (stored, dtype) in FORMATS {
        let layer = layer(stored, dtype, 600, 576);
        for m in [1, 3, 70] {
            let x = rows(m, 576, 5);
            let on = |num_threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
                pool.install(|| product(&layer, &x))
            };
            assert_eq!(on(1), on(5), "{stored:?}, {m} rows");
        }
    }
}

#[test]
fn fused_parts_give_what_they_give_alone_even_in_different_formats() {
    let source = RandomSource { stored: TensorDtype::Q4_0, seed: 7 };
    let parts = [part("a", 40), part("bcd", 16), part("efghijk", 130)];
    let fused = Linear::load(&source, &parts, 64, WeightDtype::Auto).unwrap();
    let x = rows(9, 64, 6);
    let (mut a, mut b, mut c) = (vec![0.0; 9 * 40], vec![0.0; 9 * 16], vec![0.0; 9 * 130]);
    fused.forward(&x, [&mut a, &mut b, &mut c], &mut Activations::default());
    for (part, got) in parts.iter().zip([a, b, c]) {
        let alone = Linear::load(&source, std::slice::from_ref(part), 64, WeightDtype::Auto).unwrap();
        assert_eq!(product(&alone, &x), got);
    }
}

#[test]
fn outputs_and_biases_follow_the_row_order() {
    for (stored, dtype) in FORMATS {
        let source = RandomSource { stored, seed: 9 };
        let order = vec![2, 0, 3, 1];
        let plain = LinearPart { bias: BiasUse::Added, ..part("w", 4) };
        let moved = LinearPart { row_order: Some(order.clone()), ..plain.clone() };
        let x = rows(1, 64, 8);
        let load = |part| product(&Linear::load(&source, &[part], 64, dtype).unwrap(), &x);
        let (plain, moved) = (load(plain), load(moved));
        assert_eq!(order.iter().map(|&row| plain[row]).collect::<Vec<_>>(), moved);
    }
}

#[test]
fn a_row_of_a_packed_matrix_is_the_row_of_the_file() {
    for (stored, dtype) in FORMATS {
        let source = RandomSource { stored, seed: 7 };
        let want = source.tensor("w.weight", &[50, 64]).unwrap().to_f32();
        let layer = layer(stored, dtype, 50, 64);
        let mut row = vec![0.0; 64];
        for (index, want) in want.chunks_exact(64).enumerate() {
            layer.row(index, &mut row);
            assert_eq!(row, want, "{stored:?}, row {index}");
        }
    }
}

proptest! {
    #[test]
    fn requantised_weights_are_within_half_a_step(seed in any::<u64>(), in_features in 1usize..100) {
        let source = RandomSource { stored: TensorDtype::F32, seed };
        let exact = source.tensor("w.weight", &[3, in_features]).unwrap().to_f32();
        let layer = Linear::load(&source, &[part("w", 3)], in_features, WeightDtype::Q8_0).unwrap();
        let mut row = vec![0.0; in_features];
        for (index, exact) in exact.chunks_exact(in_features).enumerate() {
            layer.row(index, &mut row);
            for (block, exact) in row.chunks(32).zip(exact.chunks(32)) {
                let step = exact.iter().fold(0.0f32, |max, x| max.max(x.abs())) / 127.0;
                for (got, want) in block.iter().zip(exact) {
                    // The stored scale is an IEEE half, at most 2^-11 smaller than the step; it counts 127 times.
                    let tolerance = step * (0.5 + 127.0 * 2f32.powi(-11)) + 1e-6;
                    prop_assert!((got - want).abs() <= tolerance, "{got} for {want}, step {step}");
                }
            }
        }
    }
}
