//! The composition root: a model, an executor and an engine from the options of the command line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lazy_attn::KvDtype;
use lazy_attn_engine::{Engine, EngineConfig, EngineHandle, EngineParts};
use lazy_attn_models::cpu::{CpuExecutor, CpuOptions, KvBudget, WeightDtype};
use lazy_attn_models::{LoadOptions, LoadedModel, ModelConfig, ModelRef, load};
use lazy_attn_server::Metrics;
use lazy_attn_text::Tokenizer;
use lazy_attn_types::{BlockSize, Executor, ExecutorInfo};

use crate::args::{EngineArgs, KvDtypeArg, WeightDtypeArg};
use crate::exit::{Exit, Failure};
use crate::prompt::Templates;
use crate::ui::{LoadProgress, Verbosity};

/// A model that is ready to answer.
#[derive(Debug)]
pub(crate) struct Session {
    engine: Engine,
    pub(crate) model: ModelSummary,
    pub(crate) templates: Arc<Templates>,
    /// What the engine did.
    pub(crate) metrics: Arc<Metrics>,
}

/// How a session differs from the usual one.
#[derive(Debug, Clone)]
pub(crate) struct Tuning {
    pub(crate) engine: EngineConfig,
    /// The model's name instead of its own.
    pub(crate) served_name: Option<String>,
    /// Longest context, if shorter than the model's.
    pub(crate) max_context_tokens: Option<u32>,
}

impl Tuning {
    /// The usual one.
    pub(crate) fn of(args: &EngineArgs) -> Tuning {
        let default = EngineConfig::default();
        let engine = EngineConfig {
            max_step_tokens: args.max_step_tokens,
            // A step must have room for one token of every running sequence and one more.
            max_running: default.max_running.min(args.max_step_tokens - 1),
            ..default
        };
        Tuning { engine, served_name: None, max_context_tokens: None }
    }
}

/// What is known of the loaded model.
#[derive(Debug, Clone)]
pub(crate) struct ModelSummary {
    pub(crate) name: String,
    pub(crate) config: ModelConfig,
    /// Bytes of weights that one token reads.
    pub(crate) weight_bytes: usize,
    /// Threads of the executor.
    pub(crate) num_threads: usize,
    /// From the command's start of loading to the engine's readiness.
    pub(crate) load_time: Duration,
}

impl Session {
    /// Loads the model of `args` and starts an engine over it.
    ///
    /// # Errors
    /// [`Exit::Model`] if the model cannot be loaded, [`Exit::Usage`] for options that cannot work.
    pub(crate) fn start(args: &EngineArgs, verbosity: Verbosity) -> Result<Session, Failure> {
        Session::tuned(args, Tuning::of(args), verbosity)
    }

    /// The same with an engine that is not the usual one.
    ///
    /// # Errors
    /// As of [`Session::start`].
    pub(crate) fn tuned(args: &EngineArgs, tuning: Tuning, verbosity: Verbosity) -> Result<Session, Failure> {
        let begin = Instant::now();
        let options = cpu_options(args)?;
        let progress = LoadProgress::new(verbosity);
        let load_options = LoadOptions { progress: &progress, ..LoadOptions::default() };
        let mut model = load(&args.model.parse::<ModelRef>()?, &load_options)?;
        if let Some(name) = tuning.served_name {
            model.name = name;
        }
        if let Some(max_tokens) = tuning.max_context_tokens {
            limit_context(&mut model, max_tokens)?;
        }
        let tokenizer = tokenizer(&model)?;
        let templates = Arc::new(Templates::new(&model.special, &tokenizer));
        check_kv_memory(args, &options, &model.config)?;
        let executor = CpuExecutor::new(lazy_attn_models::ModelParts::from(&model), &options, &progress)?;
        let (weight_bytes, num_threads) = (executor.weight_bytes_per_step(), executor.num_threads());
        let metrics = Arc::new(Metrics::new(&model.name, executor.info()));
        let observer = metrics.clone();
        let parts = EngineParts::new(Box::new(executor), Arc::new(tokenizer), model.special.end.clone());
        let parts = EngineParts { observer, ..parts };
        let engine = Engine::start(parts, tuning.engine)?;
        let LoadedModel { name, config, .. } = model;
        let model = ModelSummary { name, config, weight_bytes, num_threads, load_time: begin.elapsed() };
        tracing::info!(model = model.name, seconds = model.load_time.as_secs_f64(), "loaded");
        Ok(Session { engine, model, templates, metrics })
    }

    /// The way to the engine.
    pub(crate) fn handle(&self) -> EngineHandle {
        self.engine.handle()
    }

    /// Sizes of the executor.
    pub(crate) fn executor_info(&self) -> ExecutorInfo {
        self.engine.handle().executor_info().clone()
    }
}

fn tokenizer(model: &LoadedModel) -> Result<Tokenizer, Failure> {
    let Some(source) = &model.tokenizer else {
        let problem = "has no tokenizer, which every command here needs; use a trained model";
        return Err(Failure::new(Exit::Model, format!("model {} {problem}", model.name)));
    };
    Tokenizer::from_source(source, &model.special)
        .map_err(|error| Failure::new(Exit::Model, format!("model {}: {error}", model.name)))
}

fn cpu_options(args: &EngineArgs) -> Result<CpuOptions, Failure> {
    let block_size = BlockSize::new(args.block_size).ok_or_else(|| {
        Failure::usage(format!(
            "--block-size is {}, but must be a power of two from 1 to 256",
            args.block_size
        ))
    })?;
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
        },
        kv_dtype: match args.kv_dtype {
            KvDtypeArg::Auto => default.kv_dtype,
            KvDtypeArg::F32 => Some(KvDtype::F32),
            KvDtypeArg::F16 => Some(KvDtype::F16),
            KvDtypeArg::Bf16 => Some(KvDtype::Bf16),
        },
        kv_budget,
        block_size,
        max_step_tokens: args.max_step_tokens,
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

/// Fewer tokens mean no other model: positions are rotated as before.
fn limit_context(model: &mut LoadedModel, max_tokens: u32) -> Result<(), Failure> {
    let own = model.config.max_context_tokens;
    let wanted = max_tokens as usize;
    if wanted > own {
        let problem = format!("--max-model-len is {wanted}, but model {} was made for {own}", model.name);
        return Err(Failure::usage(format!("{problem} tokens; lower it or leave it out")));
    }
    model.config.max_context_tokens = wanted;
    Ok(())
}
