//! CUDA devices, and the executor on one of them.

use std::sync::Arc;

use lazy_attn::KvDtype;
use lazy_attn::cuda::CudaDevice;
use lazy_attn_models::cuda::{CudaExecutor, CudaGroup, CudaKvBudget, CudaOptions};
use lazy_attn_models::weights::HalfDtype;
use lazy_attn_models::{LoadedModel, ModelError, ModelParts};
use lazy_attn_sys::{DeviceInfo, ImageError, KernelImage, probe};
use lazy_attn_types::{Executor, KvPolicy};

use super::choose::{Found, Gpu};
use super::{Backend, Fit, Wanted, memory_fraction};
use crate::args::{DeviceArg, EngineArgs, KvDtypeArg, WeightDtypeArg};
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

/// Copies the weights of `model` to the devices `ordinals`, which share them.
pub(super) fn open(
    ordinals: &[usize],
    wanted: &Wanted<'_>,
    model: &LoadedModel,
    progress: &LoadProgress,
) -> Result<Backend, Failure> {
    let options = options(wanted)?;
    let image = KernelImage::find().map_err(|error| Failure::new(Exit::Model, error))?;
    let open = |&ordinal: &usize| CudaDevice::new(ordinal, image.bytes.clone()).map(Arc::new);
    let devices = ordinals.iter().map(open).collect::<Result<Vec<_>, _>>().map_err(ModelError::from)?;
    let place = DeviceArg::Cuda(ordinals.to_vec()).to_string();
    let parts = ModelParts::from(model);
    let (executor, weight_bytes): (Box<dyn Executor>, u64) = if let [device] = &devices[..] {
        let executor = CudaExecutor::new(device, parts, &options, progress)?;
        let weight_bytes = executor.weight_bytes_per_step();
        (Box::new(executor), weight_bytes)
    } else {
        let group = CudaGroup::new(&devices, parts, &options, progress)?;
        (Box::new(group), Fit::of(&model.config, devices.len(), wanted.args.kv_dtype)?.weight_bytes)
    };
    let weight_bytes = usize::try_from(weight_bytes).unwrap_or(usize::MAX);
    let memory_rate = memory_rate(ordinals);
    // Products of another number of rows may be summed in another order.
    Ok(Backend { executor, weight_bytes, place, memory_rate, is_batch_invariant: false })
}

/// That of the slowest of the devices; each reads its own part of the weights.
fn memory_rate(ordinals: &[usize]) -> Option<u64> {
    let is_used =
        |device: &DeviceInfo| usize::try_from(device.ordinal).is_ok_and(|at| ordinals.contains(&at));
    let devices = probe::devices().ok()?;
    devices.iter().filter(|device| is_used(device)).map(|device| device.memory_rate).min()
}

fn options(wanted: &Wanted<'_>) -> Result<CudaOptions, Failure> {
    let args = wanted.args;
    let default = CudaOptions::default();
    let kv_budget = match (args.kv_blocks, args.kv_memory) {
        (Some(num_blocks), _) => CudaKvBudget::Blocks(num_blocks),
        (None, Some(size)) => CudaKvBudget::Bytes(size.0),
        (None, None) => CudaKvBudget::Fraction(memory_fraction(args)),
    };
    let (dtype, kv_dtype) = dtypes(args)?;
    let policy = args.kv_policy;
    if KvPolicy::from(policy).has_places() && kv_dtype == Some(KvDtype::Fp8E4m3) {
        let problem = "keys of 8 bits are not rotated where they are; take another --kv-dtype or --kv-policy";
        return Err(Failure::usage(format!("--kv-policy {} with --kv-dtype fp8: {problem}", policy.name())));
    }
    Ok(CudaOptions {
        dtype,
        kv_dtype,
        kv_budget,
        block_size: wanted.block_size,
        max_step_tokens: args.max_step_tokens.unwrap_or(STEP_TOKENS),
        graphs: !args.no_cuda_graphs,
        ..default
    })
}

/// The type of weights and activations, and that of keys and values if it is another one.
fn dtypes(args: &EngineArgs) -> Result<(Option<HalfDtype>, Option<KvDtype>), Failure> {
    let (bf16, f16) = ((Some(HalfDtype::Bf16), None), (Some(HalfDtype::F16), None));
    match (args.weight_dtype, args.kv_dtype) {
        (WeightDtypeArg::Auto, KvDtypeArg::Auto) => Ok((None, None)),
        (WeightDtypeArg::Auto | WeightDtypeArg::Bf16, KvDtypeArg::Fp8) => {
            Ok((Some(HalfDtype::Bf16), Some(KvDtype::Fp8E4m3)))
        }
        (WeightDtypeArg::Auto | WeightDtypeArg::Bf16, KvDtypeArg::Bf16)
        | (WeightDtypeArg::Bf16, KvDtypeArg::Auto) => Ok(bf16),
        (WeightDtypeArg::Auto | WeightDtypeArg::F16, KvDtypeArg::F16)
        | (WeightDtypeArg::F16, KvDtypeArg::Auto) => Ok(f16),
        (weights, kv) => Err(Failure::usage(format!(
            "--weight-dtype {weights:?} with --kv-dtype {kv:?}: on a CUDA device both are bf16, \
             or both are f16, or weights are bf16 with fp8"
        ))),
    }
}
