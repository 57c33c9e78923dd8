//! CUDA devices, and the executor on one of them.

use std::sync::Arc;

use lazy_attn::cuda::CudaDevice;
use lazy_attn_models::cuda::{CudaExecutor, CudaKvBudget, CudaOptions};
use lazy_attn_models::weights::HalfDtype;
use lazy_attn_models::{LoadedModel, ModelError, ModelParts};
use lazy_attn_sys::{DeviceInfo, ImageError, KernelImage, probe};

use super::choose::{Found, Gpu};
use super::{Backend, Wanted, memory_fraction};
use crate::args::{EngineArgs, KvDtypeArg, WeightDtypeArg};
use crate::exit::{Exit, Failure};
use crate::ui::LoadProgress;

/// Most tokens of a step: enough for the arithmetic to be busy, and soon over.
const STEP_TOKENS: u32 = 2048;

/// The devices of this machine; asks each for its free memory.
pub(crate) fn find() -> Found {
    let devices = match probe::devices() {
        Ok(devices) => devices,
        Err(error) => return Found::Nothing(error.to_string()),
    };
    if devices.is_empty() {
        return Found::Nothing("this machine has a CUDA driver but no device".to_owned());
    }
    let image = KernelImage::find();
    Found::Devices(devices.iter().map(|device| gpu(device, &image)).collect())
}

fn gpu(device: &DeviceInfo, image: &Result<KernelImage, ImageError>) -> Gpu {
    let (major, minor) = device.compute_capability;
    let kernels = match image {
        Err(error) => Err(error.to_string()),
        Ok(image) if image.may_run_on(device.compute_capability) => Ok(()),
        Ok(image) => {
            let path = image.path.display();
            Err(format!("the kernel image {path} has no code for compute capability {major}.{minor}"))
        }
    };
    Gpu {
        ordinal: usize::try_from(device.ordinal).unwrap_or(0),
        name: device.name.clone(),
        compute_capability: device.compute_capability,
        memory_bytes: device.memory_bytes as u64,
        free_bytes: probe::free_bytes(device.ordinal).map_err(|error| error.to_string()),
        kernels,
    }
}

/// Copies the weights of `model` to device `ordinal`.
pub(super) fn open(
    ordinal: usize,
    wanted: &Wanted<'_>,
    model: &LoadedModel,
    progress: &LoadProgress,
) -> Result<Backend, Failure> {
    let options = options(wanted)?;
    let image = KernelImage::find().map_err(|error| Failure::new(Exit::Model, error))?;
    let device = Arc::new(CudaDevice::new(ordinal, image.bytes).map_err(ModelError::from)?);
    let executor = CudaExecutor::new(&device, ModelParts::from(model), &options, progress)?;
    let weight_bytes = usize::try_from(executor.weight_bytes_per_step()).unwrap_or(usize::MAX);
    Ok(Backend { executor: Box::new(executor), weight_bytes, place: format!("cuda:{ordinal}") })
}

fn options(wanted: &Wanted<'_>) -> Result<CudaOptions, Failure> {
    let args = wanted.args;
    let default = CudaOptions::default();
    let kv_budget = match (args.kv_blocks, args.kv_memory) {
        (Some(num_blocks), _) => CudaKvBudget::Blocks(num_blocks),
        (None, Some(size)) => CudaKvBudget::Bytes(size.0),
        (None, None) => CudaKvBudget::Fraction(memory_fraction(args)),
    };
    Ok(CudaOptions {
        dtype: dtype(args)?,
        kv_budget,
        block_size: wanted.block_size,
        max_step_tokens: args.max_step_tokens.unwrap_or(STEP_TOKENS),
        graphs: !args.no_cuda_graphs,
        ..default
    })
}

/// Weights, activations, keys and values have one type.
fn dtype(args: &EngineArgs) -> Result<Option<HalfDtype>, Failure> {
    let (bf16, f16) = (Some(HalfDtype::Bf16), Some(HalfDtype::F16));
    match (args.weight_dtype, args.kv_dtype) {
        (WeightDtypeArg::Auto, KvDtypeArg::Auto) => Ok(None),
        (WeightDtypeArg::Auto | WeightDtypeArg::Bf16, KvDtypeArg::Bf16)
        | (WeightDtypeArg::Bf16, KvDtypeArg::Auto) => Ok(bf16),
        (WeightDtypeArg::Auto | WeightDtypeArg::F16, KvDtypeArg::F16)
        | (WeightDtypeArg::F16, KvDtypeArg::Auto) => Ok(f16),
        (weights, kv) => Err(Failure::usage(format!(
            "--weight-dtype {weights:?} with --kv-dtype {kv:?}: on a CUDA device both are bf16 or both are f16"
        ))),
    }
}
