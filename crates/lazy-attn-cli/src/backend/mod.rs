//! What runs the steps: this machine's processor or a CUDA device.
//!
//! Reading order: `choose` which, `fit` what a model needs, `cpu`, `cuda`.

mod choose;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "no_cuda.rs"]
mod cuda;
mod fit;

use lazy_attn_models::LoadedModel;
use lazy_attn_types::{BlockSize, Executor};

pub(crate) use choose::{Found, Gpu, line};
pub(crate) use cuda::find;
pub(crate) use fit::Fit;

use crate::args::{DeviceArg, EngineArgs, KvDtypeArg, WeightDtypeArg};
use crate::exit::Failure;
use crate::ui::{LoadProgress, Verbosity};
use choose::{Choice, Needs, choose};

/// Part of a device's memory that is taken unless somebody says how much.
const MEMORY_FRACTION: f32 = 0.9;

/// An executor and what people want to know of it.
pub(crate) struct Backend {
    pub(crate) executor: Box<dyn Executor>,
    /// Bytes of weights that one token reads.
    pub(crate) weight_bytes: usize,
    /// Where it runs, for people.
    pub(crate) place: String,
    /// Bytes a second that the device's memory could move; `None` where weights lie in this machine's memory.
    pub(crate) memory_rate: Option<u64>,
    /// Whether an answer depends in no bit on what runs beside it or was resident.
    pub(crate) is_batch_invariant: bool,
}

/// The options, as far as every backend checks them alike.
struct Wanted<'a> {
    args: &'a EngineArgs,
    block_size: BlockSize,
}

/// Finds what can be wrong with the options before a model is read.
///
/// # Errors
/// Usage, for a device that this build cannot have.
pub(crate) fn check(args: &EngineArgs) -> Result<(), Failure> {
    wanted(args)?;
    match &args.device {
        DeviceArg::Cuda(_) if find() == Found::NotCompiled => {
            choose(&args.device, &Needs { bytes: 0, fraction: 1.0, only_cpu: None }, find).map(drop)
        }
        _ => Ok(()),
    }
}

/// Starts the executor of `model` on the device of `args`, and tells which that is if there was a choice.
///
/// # Errors
/// Those of the device, and of the weights.
pub(crate) fn open(
    args: &EngineArgs,
    model: &LoadedModel,
    progress: &LoadProgress,
    verbosity: Verbosity,
) -> Result<Backend, Failure> {
    let wanted = wanted(args)?;
    let fit = Fit::of(&model.config, args.device.num_devices(), args.kv_dtype)?;
    let Choice { cuda: ordinals, why } = choose(&args.device, &needs(args, &fit), find)?;
    if let Some(line) = why {
        tracing::info!("{line}");
        if verbosity == Verbosity::Normal {
            eprintln!("{line}");
        }
    }
    if ordinals.is_empty() {
        cpu::open(&wanted, model, progress)
    } else {
        cuda::open(&ordinals, &wanted, model, progress)
    }
}

/// Part of a device's memory that may be taken: all of it for keys and values whose size was given.
pub(crate) fn memory_fraction(args: &EngineArgs) -> f32 {
    let is_given = args.kv_memory.is_some() || args.kv_blocks.is_some();
    args.gpu_memory_fraction.map_or(if is_given { 1.0 } else { MEMORY_FRACTION }, |fraction| fraction.0)
}

/// Most tokens of a step, as long as nobody knows where it runs.
pub(crate) fn least_step_tokens(args: &EngineArgs) -> u32 {
    args.max_step_tokens.unwrap_or(cpu::STEP_TOKENS)
}

fn wanted(args: &EngineArgs) -> Result<Wanted<'_>, Failure> {
    let block_size = BlockSize::new(args.block_size).ok_or_else(|| {
        Failure::usage(format!(
            "--block-size is {}, but must be a power of two from 1 to 256",
            args.block_size
        ))
    })?;
    Ok(Wanted { args, block_size })
}

/// A device must hold the weights, and the keys and values that are asked for or those of one step.
fn needs(args: &EngineArgs, fit: &Fit) -> Needs {
    let step = fit.needed_bytes(u64::from(least_step_tokens(args)));
    let asked = args.kv_memory.map(|size| fit.needed_bytes(0) + size.0);
    let only_cpu = match (args.weight_dtype, args.kv_dtype) {
        (WeightDtypeArg::F32, _) => Some("--weight-dtype f32 runs on the CPU only"),
        (WeightDtypeArg::Q8_0, _) => Some("--weight-dtype q8_0 runs on the CPU only"),
        (_, KvDtypeArg::F32) => Some("--kv-dtype f32 runs on the CPU only"),
        _ => None,
    };
    Needs {
        bytes: asked.unwrap_or(step),
        fraction: memory_fraction(args),
        only_cpu: only_cpu.map(str::to_owned),
    }
}
