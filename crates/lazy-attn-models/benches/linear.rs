//! Our linear layers against the `gemm` crate (float32) on the same shapes, in multiply-adds times two per second.
//!
//! Threads are those of the global rayon pool: `RAYON_NUM_THREADS=2 cargo bench -p lazy-attn-models --bench linear`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lazy_attn_models::ModelError;
use lazy_attn_models::cpu::linear::{Activations, BiasUse, Linear, LinearPart, WeightDtype};
use lazy_attn_models::weights::{RawTensor, TensorDtype, TensorSource};
use lazy_attn_testkit::SplitMix64;

/// Output and input features: those of the embedded model and of an 8B model.
const SHAPES: [(usize, usize); 5] = [(960, 576), (3072, 576), (576, 1536), (4096, 4096), (4096, 14336)];
const BATCHES: [usize; 4] = [1, 16, 128, 512];

/// Random weights, float32.
struct Random;

impl TensorSource for Random {
    fn tensor(&self, _: &str, shape: &[usize]) -> Result<RawTensor<'_>, ModelError> {
        let values = random(shape.iter().product());
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
        Ok(RawTensor { dtype: TensorDtype::F32, shape: shape.to_vec(), bytes: bytes.into() })
    }

    fn total_bytes(&self) -> u64 {
        0
    }
}

/// Random `Q4_0` blocks: a scale of 2^-7 and any nibbles.
struct RandomQ4;

impl TensorSource for RandomQ4 {
    fn tensor(&self, _: &str, shape: &[usize]) -> Result<RawTensor<'_>, ModelError> {
        let mut rng = SplitMix64::new(3);
        let mut bytes = Vec::new();
        for _ in 0..shape.iter().product::<usize>() / 32 {
            bytes.extend([0x00, 0x20]);
            bytes.extend((0..16).map(|_| rng.below(256) as u8));
        }
        Ok(RawTensor { dtype: TensorDtype::Q4_0, shape: shape.to_vec(), bytes: bytes.into() })
    }

    fn total_bytes(&self) -> u64 {
        0
    }
}

fn random(count: usize) -> Vec<f32> {
    let mut rng = SplitMix64::new(1);
    (0..count).map(|_| rng.below(2001) as f32 / 1000.0 - 1.0).collect()
}

fn layer(source: &dyn TensorSource, (n, k): (usize, usize), dtype: WeightDtype) -> Linear {
    let part = LinearPart { name: "w".into(), out_features: n, bias: BiasUse::Absent, row_order: None };
    Linear::load(source, &[part], k, dtype).unwrap()
}

fn ours(c: &mut Criterion) {
    let kinds: [(&str, &dyn TensorSource, WeightDtype); 4] = [
        ("f32", &Random, WeightDtype::F32),
        ("bf16", &Random, WeightDtype::Bf16),
        ("q8_0", &Random, WeightDtype::Q8_0),
        ("q4_0", &RandomQ4, WeightDtype::Auto),
    ];
    for (name, source, dtype) in kinds {
        let mut group = c.benchmark_group(format!("linear_{name}"));
        for (n, k) in SHAPES {
            let layer = layer(source, (n, k), dtype);
            let mut acts = Activations::default();
            for m in BATCHES {
                let (x, mut out) = (random(m * k), vec![0.0; m * n]);
                group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
                group.bench_function(BenchmarkId::from_parameter(format!("{n}x{k}_m{m}")), |b| {
                    b.iter(|| layer.forward(&x, [&mut out], &mut acts));
                });
            }
        }
        group.finish();
    }
}

fn gemm_crate(c: &mut Criterion) {
    let mut group = c.benchmark_group("gemm_f32");
    for (n, k) in SHAPES {
        let weights = random(n * k);
        for m in BATCHES {
            let (x, mut out) = (random(m * k), vec![0.0; m * n]);
            group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
            group.bench_function(BenchmarkId::from_parameter(format!("{n}x{k}_m{m}")), |b| {
                b.iter(|| gemm_product((m, n, k), &x, &weights, &mut out));
            });
        }
    }
    group.finish();
}

/// `out[m, n] = x[m, k] weights[n, k]^T`
#[allow(unsafe_code)]
fn gemm_product((m, n, k): (usize, usize, usize), x: &[f32], weights: &[f32], out: &mut [f32]) {
    assert_eq!((x.len(), weights.len(), out.len()), (m * k, n * k, m * n));
    // SAFETY: the strides below walk exactly the three slices, whose lengths were just checked.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            x.as_ptr(),
            1,
            k as isize,
            weights.as_ptr(),
            k as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600));
    targets = ours, gemm_crate
}
criterion_main!(benches);
