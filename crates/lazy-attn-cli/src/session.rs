//! The composition root: a model, an executor and an engine from the options of the command line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lazy_attn_engine::{Engine, EngineConfig, EngineHandle, EngineParts};
use lazy_attn_models::{LoadOptions, LoadedModel, ModelConfig, ModelRef, load};
use lazy_attn_server::Metrics;
use lazy_attn_text::Tokenizer;
use lazy_attn_types::{ExecutorInfo, TokenId};

use crate::args::EngineArgs;
use crate::backend::{self, Backend};
use crate::exit::{Exit, Failure};
use crate::prompt::Templates;
use crate::ui::{LoadProgress, Verbosity};

/// A model on its device, before an engine runs over it.
pub(crate) struct OpenModel {
    pub(crate) model: LoadedModel,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) backend: Backend,
}

impl OpenModel {
    /// Loads the model of `args`.
    ///
    /// # Errors
    /// As of [`Session::start`].
    pub(crate) fn open(
        args: &EngineArgs,
        tuning: &Tuning,
        verbosity: Verbosity,
    ) -> Result<OpenModel, Failure> {
        backend::check(args)?;
        let progress = LoadProgress::new(verbosity);
        let load_options = LoadOptions { progress: &progress, ..LoadOptions::default() };
        let mut model = load(&args.model.parse::<ModelRef>()?, &load_options)?;
        if let Some(name) = &tuning.served_name {
            model.name.clone_from(name);
        }
        if let Some(max_tokens) = tuning.max_context_tokens {
            limit_context(&mut model, max_tokens)?;
        }
        let tokenizer = tokenizer(&model)?;
        let backend = backend::open(args, &model, &progress, verbosity)?;
        Ok(OpenModel { model, tokenizer, backend })
    }
}

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
    /// Its step is as long as the executor's.
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
        // A step must have room for one token of every running sequence and one more.
        let max_running = default.max_running.min(backend::least_step_tokens(args) - 1);
        let engine = EngineConfig { max_running, kv_policy: args.kv_policy.into(), ..default };
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
    /// What ends an answer.
    pub(crate) end_token: Option<TokenId>,
    /// Where it runs.
    pub(crate) place: String,
    /// Bytes a second of a device's memory.
    pub(crate) memory_rate: Option<u64>,
    /// Whether an answer depends in no bit on what runs beside it or was resident.
    pub(crate) is_batch_invariant: bool,
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
        let OpenModel { model, tokenizer, backend } = OpenModel::open(args, &tuning, verbosity)?;
        let templates = Arc::new(Templates::new(&model.special, &tokenizer));
        let Backend { executor, weight_bytes, place, memory_rate, is_batch_invariant } = backend;
        let max_step_tokens = executor.info().max_step_tokens;
        let metrics = Arc::new(Metrics::new(&model.name, executor.info()));
        let observer = metrics.clone();
        let parts = EngineParts::new(executor, Arc::new(tokenizer), model.special.end.clone());
        let parts = EngineParts { observer, ..parts };
        let engine = Engine::start(parts, EngineConfig { max_step_tokens, ..tuning.engine })?;
        let LoadedModel { name, config, special, .. } = model;
        let (end_token, load_time) = (special.end.first().copied(), begin.elapsed());
        let model = ModelSummary {
            name,
            config,
            weight_bytes,
            end_token,
            place,
            memory_rate,
            is_batch_invariant,
            load_time,
        };
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
