//! Models on a CUDA device against the CPU. Needs a device, and fails without one.
//!
//! `LAZY_ATTN_KERNELS` names the fat binary of the kernels; where the crate's own files lie is told by `CARGO_MANIFEST_DIR`,
//! which a machine without Rust sets itself.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod agreement;
mod batch;
mod golden;
mod group;
mod policies;
mod shapes;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use lazy_attn::KvDtype;
use lazy_attn::cuda::{CudaDevice, KernelImage};
use lazy_attn_models::cpu::{CpuExecutor, CpuOptions, KvBudget, WeightDtype};
use lazy_attn_models::cuda::{CudaExecutor, CudaKvBudget, CudaOptions};
use lazy_attn_models::weights::HalfDtype;
use lazy_attn_models::{LoadOptions, LoadedModel, ModelParts, ModelRef, Silent, load};

/// A device of its own for each test, so that a test that breaks one fails alone.
fn device() -> Arc<CudaDevice> {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    let image = IMAGE.get_or_init(|| KernelImage::find().unwrap().bytes);
    Arc::new(CudaDevice::new(0, image.clone()).unwrap())
}

/// A file of this crate.
fn file(path: &str) -> PathBuf {
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").to_owned());
    PathBuf::from(folder).join(path)
}

/// The embedded model, or the one that `LAZY_ATTN_TEST_MODEL` names.
fn embedded() -> LoadedModel {
    let path = std::env::var("LAZY_ATTN_TEST_MODEL").map(PathBuf::from);
    let path = path.unwrap_or_else(|_| file("assets/smollm2-block-47m.Q4_0.gguf"));
    let reference: ModelRef = path.to_str().unwrap().parse().unwrap();
    load(&reference, &LoadOptions::default()).unwrap()
}

fn on_device(model: &LoadedModel, options: CudaOptions) -> CudaExecutor {
    let options = CudaOptions { kv_budget: CudaKvBudget::Blocks(1024), max_step_tokens: 1024, ..options };
    CudaExecutor::new(&device(), ModelParts::from(model), &options, &Silent).unwrap()
}

fn with_dtype(dtype: HalfDtype) -> CudaOptions {
    CudaOptions { dtype: Some(dtype), ..CudaOptions::default() }
}

/// The same model in f32.
fn on_cpu(model: &LoadedModel) -> CpuExecutor {
    CpuExecutor::new(ModelParts::from(model), &cpu_options(), &Silent).unwrap()
}

fn cpu_options() -> CpuOptions {
    CpuOptions {
        weight_dtype: WeightDtype::F32,
        kv_dtype: Some(KvDtype::F32),
        kv_budget: KvBudget::Blocks(1024),
        max_step_tokens: 1024,
        ..CpuOptions::default()
    }
}

/// How far 16-bit roundings may move a logit of `row`.
///
/// A layer rounds thirteen vectors (two norms, the packed projections, rotated queries, keys, probabilities, the result of
/// attention, two branches, two sums, gate and up, their product) and seven matrices, each element by at most `unit` of its
/// size (half the last of 8 or 11 significant bits), `unit / sqrt(3)` in the root mean square, independently: after `num_layers` layers what makes a logit is off by about
/// `unit / sqrt(3) * sqrt(20 num_layers)` of its size, and a logit by that times the spread of its row. The largest of 50,000
/// normal errors over some hundred rows lies below six such deviations.
fn tolerance(row: &[f32], dtype: HalfDtype, num_layers: usize) -> f64 {
    let unit = match dtype {
        HalfDtype::Bf16 => 2f64.powi(-8),
        HalfDtype::F16 => 2f64.powi(-11),
    };
    6.0 * (20.0 * num_layers as f64 * unit.powi(2) / 3.0).sqrt() * spread(row)
}

/// The same in bf16 with keys and values of 8 bits: two more roundings a layer, to four significant bits.
fn tolerance_with_fp8(row: &[f32], num_layers: usize) -> f64 {
    let (bf16, fp8) = (2f64.powi(-8), 2f64.powi(-4));
    let squares = 20.0 * bf16.powi(2) + 2.0 * fp8.powi(2);
    6.0 * (num_layers as f64 * squares / 3.0).sqrt() * spread(row)
}

/// Standard deviation of a row.
fn spread(row: &[f32]) -> f64 {
    let n = row.len() as f64;
    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    (row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n).sqrt()
}

fn max_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).fold(0.0, f64::max)
}

/// The largest logit less the next.
fn margin(row: &[f32]) -> f64 {
    let mut best = [f64::MIN; 2];
    for &logit in row {
        let logit = f64::from(logit);
        if logit > best[0] {
            best = [logit, best[0]];
        } else if logit > best[1] {
            best[1] = logit;
        }
    }
    best[0] - best[1]
}
