//! Plan, execute, commit, over and over, on one thread.

mod measure;
mod overlap;

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use lazy_attn_sched::{Outcome, PlannedRun, SchedError, Scheduler, StepPlan, Submission, Work};
use lazy_attn_types::{
    Capability, ExecError, Executor, FocusedView, OutputKind, RequestId, SegmentKind, SequenceId, StepInput,
    StepOutput, Timestamp,
};

use crate::command::{Answerer, Command, Job, Question};
use crate::documents::pin_error;
use crate::egress::LiveRequest;
use crate::flatten::flatten;
use crate::handle::Shared;
use crate::observe::StepMeter;
use crate::sampling::SamplingScratch;
use crate::watch::News;
use crate::{EngineError, EngineStats, Observation};
use overlap::InFlight;

/// Whether the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    GoOn,
    Stop,
}

/// Everything the loop owns.
pub(crate) struct StepLoop {
    shared: Arc<Shared>,
    executor: Box<dyn Executor>,
    scheduler: Scheduler,
    commands: Receiver<Command>,
    requests: HashMap<RequestId, LiveRequest>,
    owners: HashMap<SequenceId, RequestId>,
    scratch: SamplingScratch,
    stats: EngineStats,
    meter: StepMeter,
    news: News,
    /// Steps submitted to an executor that overlaps them, oldest first.
    in_flight: VecDeque<InFlight>,
    /// When the last step ended.
    last_end: Timestamp,
    /// Why the loop must end: no later step can run.
    lost: Option<EngineError>,
}

impl StepLoop {
    pub(crate) fn new(
        shared: Arc<Shared>,
        executor: Box<dyn Executor>,
        scheduler: Scheduler,
        commands: Receiver<Command>,
    ) -> StepLoop {
        StepLoop {
            meter: StepMeter::new(Arc::clone(&shared.observer)),
            shared,
            executor,
            scheduler,
            commands,
            requests: HashMap::new(),
            owners: HashMap::new(),
            scratch: SamplingScratch::default(),
            stats: EngineStats::default(),
            news: News::default(),
            in_flight: VecDeque::new(),
            last_end: Timestamp(0),
            lost: None,
        }
    }

    /// Runs until it is told to stop, nobody holds a handle, or the device is lost.
    pub(crate) fn run(mut self) {
        while self.lost.is_none() && self.take_commands() == Flow::GoOn {
            if !self.scheduler.is_idle() {
                match self.executor.info().capability {
                    Capability::Logits | Capability::Samples => self.step(),
                    Capability::Overlaps => self.step_overlapped(),
                }
            }
            self.publish();
        }
        self.drain();
        let end = self.lost.take().unwrap_or(EngineError::ShutDown);
        // Before anybody is told: who then tries again is told the same.
        self.shared.end.set(end.clone());
        let live: Vec<RequestId> = self.requests.keys().copied().collect();
        for request in live {
            self.fail(request, end.clone());
        }
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Submit(job) = command {
                LiveRequest::new(*job, Arc::clone(&self.shared.observer)).fail(end.clone());
            }
        }
        self.publish();
    }

    /// Handles everything that has arrived; without work, waits for something to arrive.
    fn take_commands(&mut self) -> Flow {
        if self.scheduler.is_idle() {
            match self.commands.recv() {
                Ok(command) => {
                    if self.handle(command) == Flow::Stop {
                        return Flow::Stop;
                    }
                }
                Err(_) => return Flow::Stop,
            }
        }
        loop {
            match self.commands.try_recv() {
                Ok(command) => {
                    if self.handle(command) == Flow::Stop {
                        return Flow::Stop;
                    }
                }
                Err(TryRecvError::Empty) => return Flow::GoOn,
                Err(TryRecvError::Disconnected) => return Flow::Stop,
            }
        }
    }

    fn handle(&mut self, command: Command) -> Flow {
        match command {
            Command::Submit(job) => self.submit(*job),
            Command::Cancel(request, cause) => {
                if let Some(live) = self.forget(request) {
                    self.stats.requests_cancelled += 1;
                    live.cancelled(cause);
                }
            }
            Command::Stats(reply) => {
                self.publish();
                // Whoever asked may have given up.
                let _ = reply.send(self.stats);
            }
            Command::Ask(Question(question)) => {
                question(&mut Answerer { scheduler: &mut self.scheduler, news: &mut self.news });
            }
            Command::ShutDown => return Flow::Stop,
        }
        Flow::GoOn
    }

    fn submit(&mut self, job: Job) {
        let request = job.request;
        let prepared = &job.prepared;
        let submission = Submission {
            request,
            sequences: job.sequences.clone(),
            context: Arc::clone(&prepared.context),
            max_tokens: prepared.max_tokens(),
            scope: prepared.scope(request),
            tenant: prepared.tenant,
            priority: prepared.priority,
            deadline: prepared.timeout.map(|timeout| job.submitted.after(timeout)),
        };
        let live = LiveRequest::new(job, Arc::clone(&self.shared.observer));
        self.owners.extend(live.sequences().iter().map(|&sequence| (sequence, request)));
        self.requests.insert(request, live);
        if let Err(error) = self.scheduler.submit(submission, self.shared.clock.now()) {
            self.fail(request, refusal(error));
        }
    }

    fn step(&mut self) {
        let now = self.shared.clock.now();
        let plan = self.scheduler.plan(now);
        self.announce(&plan, now);
        if plan.is_empty() {
            // Nobody could start: those who never can were told so.
            self.scheduler.commit(plan, &[], now);
            return;
        }
        let (step, tokens, runs) = (plan.step, plan.num_tokens(), plan.runs.len());
        let _span = tracing::debug_span!("step", step, tokens, runs, running = plan.num_running).entered();
        let input = self.input(&plan);
        match self.execute(&input) {
            Ok(output) => self.commit(plan, &input, &output, now),
            Err(error) => self.abort(plan, &error),
        }
    }

    /// Tells everybody what `plan`, made `now`, means to them.
    fn announce(&mut self, plan: &StepPlan, now: Timestamp) {
        // A step may be long, and who asks meanwhile should see who runs in it.
        self.publish();
        self.publish_admissions(plan, now);
        self.finish_filled(plan, now);
        for run in &plan.runs {
            if let Some(live) = self.owners.get(&run.sequence).and_then(|owner| self.requests.get_mut(owner))
            {
                live.note_run(run, now);
            }
        }
    }

    /// The arrays of `plan`, with how each row is wanted.
    fn input(&self, plan: &StepPlan) -> StepInput {
        let mut input = flatten(plan);
        input.stored_keys = self.shared.kv_policy().stored_keys();
        input.shared_reads = self.shared.shared_reads();
        if self.executor.info().capability >= Capability::Samples {
            input.outputs.extend(plan.rows().map(|run| self.output_kind(run)));
        }
        if self.requests.values().any(|live| live.context().focus().is_on()) {
            self.focus_documents(plan, &mut input);
        }
        input
    }

    /// Says which of the views that `plan` reads are documents that their request looks at in another way. The arrays have the
    /// runs in the order of the plan, and a run the segments of its context.
    fn focus_documents(&self, plan: &StepPlan, input: &mut StepInput) {
        for (planned, run) in plan.runs.iter().zip(&input.runs) {
            let owner = self.owners.get(&planned.sequence).and_then(|owner| self.requests.get(owner));
            let Some(context) = owner.map(LiveRequest::context) else { continue };
            let focus = context.focus();
            if !focus.is_on() {
                continue;
            }
            let earlier = context.segments().iter().zip(run.first_segment..).take(planned.num_earlier);
            let documents = earlier.filter(|(segment, _)| segment.kind() == SegmentKind::Document);
            input.focused.extend(documents.map(|(_, view)| FocusedView { view, focus }));
        }
    }

    fn output_kind(&self, run: &PlannedRun) -> OutputKind {
        let live = self.owners.get(&run.sequence).and_then(|owner| self.requests.get(owner));
        // The token that a tail runs as its `i`th is followed by the one it generates as its `i`th.
        live.map_or(OutputKind::Logits, |live| live.output_kind(run.sequence, run.first_local))
    }

    fn publish_admissions(&mut self, plan: &StepPlan, now: Timestamp) {
        for preempted in &plan.preempted {
            if let Some(live) = self.requests.get_mut(&preempted.request) {
                live.preempted();
            }
        }
        for admitted in &plan.admitted {
            if let Some(live) = self.requests.get_mut(&admitted.request) {
                live.admit(&admitted.found, now);
            }
        }
        for rejected in &plan.rejected {
            self.fail(rejected.request, refusal(rejected.error.clone()));
        }
    }

    /// Ends the requests that wanted the KV of a document and nothing else.
    fn finish_filled(&mut self, plan: &StepPlan, now: Timestamp) {
        for sequence in &plan.filled {
            let Some(&request) = self.owners.get(sequence) else { continue };
            // Before the next plan, so nothing can have evicted it.
            let to_pin = self.requests.get(&request).and_then(LiveRequest::document_to_pin);
            match to_pin.map_or(Ok(()), |key| self.scheduler.pin(key).map_err(pin_error)) {
                Ok(()) => self.finish(request, now),
                Err(error) => self.fail(request, error),
            }
        }
    }

    fn finish(&mut self, request: RequestId, now: Timestamp) {
        if let Some(live) = self.forget(request) {
            self.stats.requests_done += 1;
            live.done(now);
        }
    }

    fn execute(&mut self, input: &StepInput) -> Result<StepOutput, ExecError> {
        let output = run_guarded(|| self.executor.execute(input))?;
        output.check(input, self.executor.info())?;
        Ok(output)
    }

    /// `plan`, made at `planned`, is done.
    fn commit(&mut self, plan: StepPlan, input: &StepInput, output: &StepOutput, planned: Timestamp) {
        let now = self.shared.clock.now();
        self.measure(&plan, Duration::from_micros(now.micros_since(planned.max(self.last_end))));
        self.last_end = now;
        let vocab_size = self.executor.info().vocab_size;
        let mut outcomes = Vec::new();
        let mut failures = Vec::new();
        let mut ended = Vec::new();
        for (run, row) in plan.rows().zip(output.rows(input, vocab_size)) {
            if !self.scheduler.is_running(run.sequence) {
                // It ended after this step was planned.
                outcomes.push(Outcome::Finished);
                continue;
            }
            let Some(&request) = self.owners.get(&run.sequence) else {
                unreachable!("{} runs for a request the loop knows", run.sequence);
            };
            let Some(live) = self.requests.get_mut(&request) else {
                unreachable!("{request} is live while one of its sequences runs");
            };
            match live.row(run.sequence, row, &mut self.scratch, now) {
                Ok(outcome) => {
                    self.stats.tokens_generated += 1;
                    outcomes.push(outcome);
                }
                Err(error) => {
                    outcomes.push(Outcome::Finished);
                    failures.push((request, EngineError::Executor(error.to_string())));
                }
            }
            if live.is_done() {
                ended.push(request);
            }
        }
        self.stats.tokens_run += u64::from(plan.num_tokens());
        self.stats.tokens_reencoded += u64::from(plan.num_reencoded_tokens());
        for run in plan.runs.iter().filter(|run| run.work == Work::Encode) {
            self.stats.tokens_encoded += u64::from(run.num_tokens);
            if let Some(live) = self.owners.get(&run.sequence).and_then(|owner| self.requests.get_mut(owner))
            {
                live.encoded(run, now);
            }
        }
        self.measure_documents(&plan);
        self.scheduler.commit(plan, &outcomes, now);
        for (request, error) in failures {
            self.fail(request, error);
        }
        for request in ended {
            self.finish(request, now);
        }
    }

    /// `plan` took `took`.
    fn measure(&mut self, plan: &StepPlan, took: Duration) {
        self.meter.start();
        for run in &plan.runs {
            if let Some(live) = self.owners.get(&run.sequence).and_then(|owner| self.requests.get(owner)) {
                self.meter.plan(run, live.documents());
            }
        }
        self.meter.commit(plan, took);
    }

    fn abort(&mut self, plan: StepPlan, error: &ExecError) {
        tracing::error!(step = plan.step, %error, "the executor failed a step");
        self.stats.steps_failed += 1;
        let cause = match error {
            ExecError::DeviceLost(_) => EngineError::DeviceLost(error.to_string()),
            _ => EngineError::Executor(error.to_string()),
        };
        if matches!(cause, EngineError::DeviceLost(_)) {
            self.lost = Some(cause.clone());
        }
        let failed = self.scheduler.abort(plan, self.shared.clock.now());
        for sequence in failed {
            // Two sequences of one request fail it once.
            if let Some(&request) = self.owners.get(&sequence) {
                self.fail(request, cause.clone());
            }
        }
    }

    fn fail(&mut self, request: RequestId, error: EngineError) {
        if let Some(live) = self.forget(request) {
            self.stats.requests_failed += 1;
            live.fail(error);
        }
    }

    /// Takes a request out of the loop and gives its blocks back.
    fn forget(&mut self, request: RequestId) -> Option<LiveRequest> {
        let live = self.requests.remove(&request)?;
        for sequence in live.sequences() {
            self.owners.remove(sequence);
        }
        self.scheduler.cancel(request, self.shared.clock.now());
        Some(live)
    }

    fn publish(&mut self) {
        self.news.publish(&mut self.scheduler);
        self.stats.sched = self.scheduler.stats();
        self.stats.requests_running = self.requests.len().saturating_sub(self.stats.sched.waiting);
        self.shared.observer.observe(&Observation::State(&self.stats));
        // A panic elsewhere leaves plain numbers behind.
        *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner) = self.stats;
    }
}

/// A panic of the executor costs the requests of its step, as an error would. Nothing such a step would have written is
/// read afterwards, so what the unwinding left half done does not matter.
fn run_guarded<T>(execute: impl FnOnce() -> Result<T, ExecError>) -> Result<T, ExecError> {
    guarded(execute).unwrap_or_else(|message| Err(ExecError::Failed(format!("it panicked: {message}"))))
}

/// The message of the panic, if it panics.
fn guarded<T>(execute: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(execute)).map_err(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
        message.unwrap_or("no message").to_owned()
    })
}

fn refusal(error: SchedError) -> EngineError {
    match error {
        SchedError::NeverFits { needed, total } => {
            EngineError::NeverFits { needed_blocks: needed, total_blocks: total }
        }
        SchedError::QueueFull { waiting } => EngineError::QueueFull { waiting },
        SchedError::BacklogFull { waiting_tokens, needed_tokens, max_tokens } => {
            EngineError::BacklogFull { waiting_tokens, needed_tokens, max_tokens }
        }
        SchedError::DeadlineUnmeetable { estimate_micros, left_micros, .. } => {
            let (estimate, left) =
                (Duration::from_micros(estimate_micros), Duration::from_micros(left_micros));
            EngineError::DeadlineUnmeetable { estimate, left }
        }
        SchedError::DeadlineExceeded { late_micros } => {
            EngineError::DeadlineExceeded { late: Duration::from_micros(late_micros) }
        }
        other => EngineError::Invalid { field: "request".into(), problem: other.to_string() },
    }
}
