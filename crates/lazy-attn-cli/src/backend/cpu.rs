//! The executor of this machine's processor.

use lazy_attn::KvDtype;
use lazy_attn_models::cpu::{CpuExecutor, CpuOptions, KvBudget, WeightDtype};
use lazy_attn_models::{LoadedModel, ModelConfig, ModelParts};

use super::{Backend, Wanted};
use crate::args::{EngineArgs, KvDtypeArg, WeightDtypeArg};
use crate::exit::{Exit, Failure};
use crate::ui::LoadProgress;

/// Most tokens of a step: enough for the arithmetic to be busy, and soon over.
pub(super) const STEP_TOKENS: u32 = 512;

/// Packs the weights of `model`.
pub(super) fn open(
    wanted: &Wanted<'_>,
    model: &LoadedModel,
    progress: &LoadProgress,
) -> Result<Backend, Failure> {
    let options = options(wanted)?;
    check_kv_memory(wanted.args, &options, &model.config)?;
    let executor = CpuExecutor::new(ModelParts::from(model), &options, progress)?;
    let (weight_bytes, num_threads) = (executor.weight_bytes_per_step(), executor.num_threads());
    let place = format!("{num_threads} threads");
    let memory_rate = None;
    Ok(Backend { executor: Box::new(executor), weight_bytes, place, memory_rate, is_batch_invariant: true })
}

fn options(wanted: &Wanted<'_>) -> Result<CpuOptions, Failure> {
    let args = wanted.args;
    let default = CpuOptions::default();
    let kv_budget = match (args.kv_blocks, args.kv_memory) {
        (Some(num_blocks), _) => KvBudget::Blocks(num_blocks),
        (None, Some(size)) => KvBudget::Bytes(size.0),
        (None, None) => default.kv_budget,
    };
    Ok(CpuOptions {
        num_threads: args.threads,
        weight_dtype: match args.weight_dtype {
            WeightDtypeArg::Auto => WeightDtype::Auto,
            WeightDtypeArg::F32 => WeightDtype::F32,
            WeightDtypeArg::Bf16 => WeightDtype::Bf16,
            WeightDtypeArg::Q8_0 => WeightDtype::Q8_0,
            WeightDtypeArg::F16 => {
                let problem =
                    "--weight-dtype f16 is for CUDA devices; on the CPU use auto, f32, bf16 or q8_0";
                return Err(Failure::usage(problem));
            }
        },
        kv_dtype: match args.kv_dtype {
            KvDtypeArg::Auto => default.kv_dtype,
            KvDtypeArg::F32 => Some(KvDtype::F32),
            KvDtypeArg::F16 => Some(KvDtype::F16),
            KvDtypeArg::Bf16 => Some(KvDtype::Bf16),
            KvDtypeArg::Fp8 => {
                let problem = "--kv-dtype fp8 is for CUDA devices; on the CPU use auto, f32, f16 or bf16";
                return Err(Failure::usage(problem));
            }
        },
        kv_budget,
        block_size: wanted.block_size,
        max_step_tokens: args.max_step_tokens.unwrap_or(STEP_TOKENS),
    })
}

/// A store without a block could hold no request.
fn check_kv_memory(args: &EngineArgs, options: &CpuOptions, config: &ModelConfig) -> Result<(), Failure> {
    let element_size = options.kv_dtype.unwrap_or(KvDtype::F16).size_bytes();
    let token_elements = 2 * config.num_layers * config.num_kv_heads * config.head_dim;
    let block_bytes = (token_elements * element_size) as u64 * u64::from(options.block_size.get());
    match args.kv_memory {
        Some(size) if size.0 < block_bytes => {
            let problem =
                format!("--kv-cache-memory of {} bytes holds no block of {block_bytes} bytes", size.0);
            Err(Failure::new(Exit::TooLarge, format!("{problem}; raise it or lower --block-size")))
        }
        _ => Ok(()),
    }
}
