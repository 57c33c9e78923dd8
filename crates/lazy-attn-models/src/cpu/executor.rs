//! The CPU executor: weights, KV store and threads behind the contract of `lazy_attn_types::exec`.

use lazy_attn::reencode::reencoded_blocks;
use lazy_attn::{AttnError, KvDtype, KvLayout, KvStore, PlanConfig, Planner};
use lazy_attn_types::{
    BlockPairs, BlockSize, Capability, ExecError, Executor, ExecutorInfo, Fingerprint, StepInput, StepOutput,
    StoredKeys,
};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{decoder::Decoder, linear::WeightDtype};
use crate::{
    ModelConfig, ModelError, ModelParts, Progress,
    weights::{RawTensor, TensorSource},
};

/// How a model is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuOptions {
    /// Worker threads; `None` takes one per CPU this process may use.
    pub num_threads: Option<std::num::NonZeroUsize>,
    /// Which precision weights are held in.
    pub weight_dtype: WeightDtype,
    /// Element type of keys and values; `None` takes float16, whose rounding is that of the usual checkpoints.
    pub kv_dtype: Option<KvDtype>,
    /// How large the KV store is.
    pub kv_budget: KvBudget,
    /// Tokens per KV block.
    pub block_size: BlockSize,
    /// Most tokens one step may run.
    pub max_step_tokens: u32,
}

impl Default for CpuOptions {
    fn default() -> CpuOptions {
        CpuOptions {
            num_threads: None,
            weight_dtype: WeightDtype::Auto,
            kv_dtype: None,
            kv_budget: KvBudget::Bytes(1 << 30),
            block_size: BlockSize::DEFAULT,
            max_step_tokens: 512,
        }
    }
}

/// Size of a KV store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvBudget {
    /// This many blocks.
    Blocks(u32),
    /// As many whole blocks as fit into this many bytes; memory is taken when a block is first written.
    Bytes(u64),
}

/// Runs steps on the CPU, on threads of its own.
#[derive(Debug)]
pub struct CpuExecutor {
    info: ExecutorInfo,
    decoder: Decoder,
    store: KvStore,
    planner: Planner,
    pool: ThreadPool,
}

impl CpuExecutor {
    /// Packs the weights of `model` and reserves its KV store; the model's files are not needed afterwards.
    ///
    /// # Errors
    /// [`ModelError`] of the source; [`ModelError::Attention`] for sizes the kernels do not take or a KV store that
    /// does not fit into memory; [`ModelError::Threads`] if no threads can be started.
    pub fn new(
        model: ModelParts<'_>,
        options: &CpuOptions,
        progress: &dyn Progress,
    ) -> Result<CpuExecutor, ModelError> {
        let config = model.config;
        let layout = kv_layout(config, options);
        let pool = thread_pool(options)?;
        progress.begin("weights", model.tensors.total_bytes());
        let source = Reporting { tensors: model.tensors, progress };
        let decoder = pool.install(|| Decoder::load(config, &source, options.weight_dtype))?;
        progress.finish();
        let num_workers = pool.current_num_threads() as u32;
        let plan_config = PlanConfig {
            window: config.sliding_window.and_then(std::num::NonZeroU32::new),
            ..PlanConfig::cpu(layout.block_size, layout.num_kv_heads, num_workers)
        };
        let info = ExecutorInfo {
            vocab_size: config.vocab_size as u32,
            num_blocks: layout.num_blocks,
            block_size: layout.block_size,
            kv_bytes_per_token: layout.bytes_per_token(),
            max_step_tokens: options.max_step_tokens,
            max_context_tokens: config.max_context_tokens as u32,
            fingerprint: fingerprint(&model, options.weight_dtype, layout.dtype),
            capability: Capability::Logits,
            stored_keys: &[StoredKeys::Rotated, StoredKeys::Raw],
        };
        let (store, planner) = (KvStore::new(layout)?, Planner::new(plan_config)?);
        Ok(CpuExecutor { info, decoder, store, planner, pool })
    }

    /// Bytes of weights that a step of one token reads.
    #[must_use]
    pub fn weight_bytes_per_step(&self) -> usize {
        self.decoder.num_bytes()
    }

    /// Worker threads.
    #[must_use]
    pub fn num_threads(&self) -> usize {
        self.pool.current_num_threads()
    }
}

impl Executor for CpuExecutor {
    fn info(&self) -> &ExecutorInfo {
        &self.info
    }

    fn focuses_documents(&self) -> bool {
        true
    }

    fn key_deviation(&mut self, blocks: BlockPairs<'_>) -> Result<Vec<f32>, ExecError> {
        self.store.key_deviation(blocks).map_err(|error| ExecError::Failed(error.to_string()))
    }

    fn execute(&mut self, input: &StepInput) -> Result<StepOutput, ExecError> {
        input.validate(&self.info)?;
        if input.tokens.len() > self.info.max_step_tokens as usize {
            let (got, max) = (input.tokens.len(), self.info.max_step_tokens);
            return Err(ExecError::InvalidStep(format!("{got} tokens, but a step runs at most {max}")));
        }
        let (decoder, store, planner) = (&mut self.decoder, &mut self.store, &self.planner);
        let copies = reencoded_blocks(input, self.info.block_size);
        let result = self.pool.install(|| {
            decoder.reencode(store, &copies)?;
            if input.tokens.is_empty() {
                return Ok(Vec::new());
            }
            decoder.step(store, &planner.plan(input), input)
        });
        let logits = result.map_err(|error: AttnError| ExecError::Failed(error.to_string()))?;
        Ok(StepOutput::from_logits(logits))
    }
}

fn kv_layout(config: &ModelConfig, options: &CpuOptions) -> KvLayout {
    let mut layout = KvLayout {
        num_layers: config.num_layers as u32,
        num_blocks: 1,
        block_size: options.block_size,
        num_kv_heads: config.num_kv_heads as u32,
        head_dim: config.head_dim as u32,
        dtype: options.kv_dtype.unwrap_or(KvDtype::F16),
    };
    layout.num_blocks = match options.kv_budget {
        KvBudget::Blocks(num_blocks) => num_blocks,
        KvBudget::Bytes(bytes) => {
            let block_bytes = layout.bytes_per_token() * u64::from(layout.block_size.get());
            u32::try_from(bytes / block_bytes).unwrap_or(u32::MAX)
        }
    };
    layout
}

fn thread_pool(options: &CpuOptions) -> Result<ThreadPool, ModelError> {
    let available = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let num_threads = options.num_threads.map_or_else(available, std::num::NonZeroUsize::get);
    ThreadPoolBuilder::new()
        .num_threads(num_threads)
        .thread_name(|index| format!("lazy-attn-cpu-{index}"))
        .build()
        .map_err(|error| ModelError::Threads { num_threads, problem: error.to_string() })
}

/// Weights are part of it as they are held: another weight dtype makes other keys.
fn fingerprint(model: &ModelParts<'_>, weights: WeightDtype, kv: KvDtype) -> Fingerprint {
    let (weights, kv) = (format!("{weights:?}"), format!("{kv:?}"));
    let own = [("weight dtype", weights.as_bytes()), ("kv dtype", kv.as_bytes())];
    let given = model.fingerprint_parts.iter().map(|(label, bytes)| (*label, bytes.as_slice()));
    Fingerprint::of(&given.chain(own).collect::<Vec<_>>())
}

/// Tells how many bytes have been asked for.
struct Reporting<'a> {
    tensors: &'a dyn TensorSource,
    progress: &'a dyn Progress,
}

impl TensorSource for Reporting<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<RawTensor<'_>, ModelError> {
        let tensor = self.tensors.tensor(name, shape)?;
        self.progress.advance(tensor.bytes.len() as u64);
        Ok(tensor)
    }

    fn total_bytes(&self) -> u64 {
        self.tensors.total_bytes()
    }
}
