//! Starting an engine, submitting to it, reading its statistics.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use lazy_attn_sched::Scheduler;
use lazy_attn_text::Tokenizer;
use lazy_attn_types::{Executor, ExecutorInfo, KvPolicy, RequestId, SequenceId, SharedReads, TokenId};
use tokio::sync::mpsc::unbounded_channel;

use crate::command::{Command, Job, QueuePlace};
use crate::end::{End, EndMark};
use crate::intake::{Intake, Prepared};
use crate::rankings::Rankings;
use crate::sample::Sample;
use crate::sampling::SequenceSeed;
use crate::step_loop::StepLoop;
use crate::{
    Clock, EngineConfig, EngineError, EngineStats, GenerateRequest, Observation, Observer, RequestStream,
    SystemClock, Unobserved,
};

/// What an engine is made of.
pub struct EngineParts {
    /// Runs the steps.
    pub executor: Box<dyn Executor>,
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// The model's own end tokens.
    pub end_tokens: Vec<TokenId>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Is told what happens.
    pub observer: Arc<dyn Observer>,
}

impl EngineParts {
    /// Parts with the system's clock, unobserved.
    #[must_use]
    pub fn new(
        executor: Box<dyn Executor>,
        tokenizer: Arc<Tokenizer>,
        end_tokens: Vec<TokenId>,
    ) -> EngineParts {
        let (clock, observer) = (Arc::new(SystemClock::new()), Arc::new(Unobserved));
        EngineParts { executor, tokenizer, end_tokens, clock, observer }
    }
}

/// What the loop and all handles see.
pub(crate) struct Shared {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) observer: Arc<dyn Observer>,
    config: EngineConfig,
    pub(crate) stats: Mutex<EngineStats>,
    tokenizer: Arc<Tokenizer>,
    end_tokens: Vec<TokenId>,
    info: ExecutorInfo,
    intake: Intake,
    pub(crate) rankings: Arc<Rankings>,
    num_waiting: Arc<AtomicUsize>,
    next_request: AtomicU64,
    next_sequence: AtomicU64,
    pub(crate) end: End,
}

impl Shared {
    pub(crate) fn kv_policy(&self) -> KvPolicy {
        self.config.kv_policy
    }

    pub(crate) fn shared_reads(&self) -> SharedReads {
        self.config.shared_reads
    }
}

/// A running engine. Dropping it shuts it down and waits for its thread.
#[derive(Debug)]
pub struct Engine {
    handle: EngineHandle,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the loop on a thread of its own.
    ///
    /// # Errors
    /// [`EngineError::Param`] if a bound of `config` cannot work, [`EngineError::Executor`] if the system refuses the
    /// thread.
    pub fn start(parts: EngineParts, config: EngineConfig) -> Result<Engine, EngineError> {
        let EngineParts { executor, tokenizer, end_tokens, clock, observer } = parts;
        let info = executor.info().clone();
        config.validate(&info)?;
        let kv = config.kv(&info);
        let scheduler = Scheduler::new(config.scheduler(&info), kv)
            .map_err(|error| EngineError::Invalid { field: "engine".into(), problem: error.to_string() })?;
        let rankings = Arc::new(Rankings::default());
        let intake = Intake::new(Arc::clone(&tokenizer), executor.as_ref(), Arc::clone(&rankings), &config);
        let shared = Arc::new(Shared {
            config,
            clock,
            observer,
            end_tokens,
            stats: Mutex::new(EngineStats { sched: scheduler.stats(), ..EngineStats::default() }),
            intake,
            rankings,
            tokenizer,
            info,
            num_waiting: Arc::default(),
            next_request: AtomicU64::new(1),
            next_sequence: AtomicU64::new(1),
            end: End::new(),
        });
        let (sender, receiver) = mpsc::channel();
        let step_loop = StepLoop::new(Arc::clone(&shared), executor, scheduler, receiver);
        let mark = EndMark(Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("lazy-attn-engine".into());
        let thread = thread
            .spawn(move || {
                let _mark = mark;
                step_loop.run();
            })
            .map_err(|error| EngineError::Executor(format!("no thread for the engine: {error}")))?;
        Ok(Engine { handle: EngineHandle { shared, commands: sender }, thread: Some(thread) })
    }

    /// A handle to it; handles outlive the engine, but then refuse everything.
    #[must_use]
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.handle.shutdown();
        if let Some(thread) = self.thread.take() {
            // A panic of the loop has been reported by its thread, and its streams have ended with a failure.
            let _ = thread.join();
        }
    }
}

/// A way to the engine, for any number of threads.
#[derive(Clone)]
pub struct EngineHandle {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

impl EngineHandle {
    /// Tokenises and checks `request` on this thread and hands it to the engine.
    ///
    /// # Errors
    /// [`EngineError::Param`] and [`EngineError::Invalid`] for a field outside its range,
    /// [`EngineError::ContextTooLong`] and [`EngineError::NeverFits`] for a request that could never run,
    /// [`EngineError::QueueFull`] if [`EngineConfig::max_waiting`] requests wait already, [`EngineError::ShutDown`] or
    /// [`EngineError::DeviceLost`] after the engine's end.
    pub fn submit(&self, request: GenerateRequest) -> Result<RequestStream, EngineError> {
        self.submit_prepared(|intake| intake.prepare(request))
    }

    /// Takes a place to wait, then does the costly part, then hands the request to the loop: an overloaded engine refuses
    /// fast.
    pub(crate) fn submit_prepared(
        &self,
        prepare: impl FnOnce(&Intake) -> Result<Prepared, EngineError>,
    ) -> Result<RequestStream, EngineError> {
        self.try_submit(prepare)
            .inspect_err(|error| self.shared.observer.observe(&Observation::Failed { error }))
    }

    fn try_submit(
        &self,
        prepare: impl FnOnce(&Intake) -> Result<Prepared, EngineError>,
    ) -> Result<RequestStream, EngineError> {
        let shared = &self.shared;
        let submitted = shared.clock.now();
        let place = QueuePlace::take(&shared.num_waiting, shared.config.max_waiting)?;
        let prepared = prepare(&shared.intake)?;
        let id = RequestId(shared.next_request.fetch_add(1, Ordering::Relaxed));
        let num_samples = u64::from(prepared.sampling.n);
        let first = shared.next_sequence.fetch_add(num_samples, Ordering::Relaxed);
        let sequences = (first..first + num_samples).map(SequenceId).collect();
        let seed = prepared.sampling.seed.unwrap_or_else(|| seed_of(shared.config.seed, id));
        let sample = |index| {
            let seed = SequenceSeed::new(seed, index);
            Sample::new(&prepared, &shared.tokenizer, &shared.end_tokens, seed)
        };
        let num_sampled = if prepared.generates() { prepared.sampling.n } else { 0 };
        let samples = (0..num_sampled).map(sample).collect();
        let (events, receiver) = unbounded_channel();
        let span = tracing::debug_span!("request", request_id = id.0);
        tracing::debug!(parent: &span, prompt_tokens = prepared.context.num_prompt_tokens(), "submitted");
        let job = Job { request: id, sequences, prepared, seed, samples, events, submitted, place, span };
        self.send(Command::Submit(Box::new(job)))?;
        Ok(RequestStream::new(id, receiver, self.commands.clone()))
    }

    /// Whether a request submitted now would find a free place to wait; never waits itself. A caller that does work
    /// before [`EngineHandle::submit`] asks first, so that an overloaded engine refuses fast.
    ///
    /// # Errors
    /// [`EngineError::QueueFull`] if [`EngineConfig::max_waiting`] requests wait already.
    pub fn check_room(&self) -> Result<(), EngineError> {
        let waiting = self.shared.num_waiting.load(Ordering::SeqCst);
        if waiting < self.shared.config.max_waiting {
            Ok(())
        } else {
            Err(EngineError::QueueFull { waiting })
        }
    }

    /// The statistics after the last step; never waits.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        // A panic elsewhere leaves plain numbers behind.
        *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The statistics once everything this thread did before (submitting, dropping streams) has reached the loop; waits
    /// for the running step.
    ///
    /// # Errors
    /// [`EngineError::ShutDown`] after the engine's end.
    pub fn settled_stats(&self) -> Result<EngineStats, EngineError> {
        let (reply, answer) = mpsc::channel();
        self.send(Command::Stats(reply))?;
        answer.recv().map_err(|_| self.end_reason())
    }

    /// Sizes and identity of the executor.
    #[must_use]
    pub fn executor_info(&self) -> &ExecutorInfo {
        &self.shared.info
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.shared.tokenizer
    }

    /// Ends every request with [`EngineError::ShutDown`] after the running step, and the loop with them.
    pub fn shutdown(&self) {
        // An engine that is gone has shut down already.
        let _ = self.commands.send(Command::ShutDown);
    }

    pub(crate) fn intake(&self) -> &Intake {
        &self.shared.intake
    }

    pub(crate) fn send(&self, command: Command) -> Result<(), EngineError> {
        self.commands.send(command).map_err(|_| self.end_reason())
    }

    /// Why an engine that is gone gives no answer.
    pub(crate) fn end_reason(&self) -> EngineError {
        self.shared.end.reason()
    }

    /// Resolves once the engine is gone: [`EngineError::DeviceLost`] if its device failed, else
    /// [`EngineError::ShutDown`].
    pub async fn ended(&self) -> EngineError {
        self.shared.end.wait().await
    }
}

impl std::fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineHandle").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// SplitMix64 of the engine's seed and the request's id: requests differ, runs of the same requests do not.
fn seed_of(engine_seed: u64, request: RequestId) -> u64 {
    let mut z = engine_seed.wrapping_add(request.0.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
