//! The state between steps.

use std::collections::BTreeMap;

use lazy_attn_kv::{FillState, KvCache, KvError, KvEvent, KvStats, ReserveRequest};
use lazy_attn_types::{RequestId, SegmentKey, SequenceId, Timestamp, TokenId};

use crate::admission::{AdmissionQueue, Waiting};
use crate::fill::Fills;
use crate::pace::Pace;
use crate::planner::Planner;
use crate::running::{Phase, Running, RunningSet};
use crate::{
    Admitted, PlannedRun, Rejected, SchedConfig, SchedError, StepPlan, Submission, Work, blocks_needed,
};

/// What became of a row of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// This token was chosen, and the sequence goes on.
    Continue(TokenId),
    /// The sequence ended, whatever the reason.
    Finished,
}

/// Where the scheduler stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedStats {
    /// Sequences running.
    pub running: u32,
    /// Requests waiting.
    pub waiting: usize,
    /// Prompt tokens that they would have to compute, each segment once.
    pub waiting_tokens: u64,
    /// Steps closed.
    pub steps: u64,
    /// The cache.
    pub kv: KvStats,
}

/// Decides what runs in the next step, and owns the cache.
///
/// An admitted sequence holds every block it can ever need, so it ends or is cancelled but never overflows.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedConfig,
    kv: KvCache,
    queue: AdmissionQueue,
    running: RunningSet,
    fills: Fills,
    /// Number of the next step.
    step: u64,
    plan_is_open: bool,
    /// When the open or the last plan was made.
    planned: Timestamp,
    pace: Pace,
    /// Requests cancelled while a plan was open; they go when it is closed.
    cancelled: Vec<RequestId>,
}

impl Scheduler {
    /// A scheduler without work over `kv`.
    ///
    /// # Errors
    /// [`SchedError::Config`] if a bound cannot work.
    pub fn new(config: SchedConfig, kv: KvCache) -> Result<Scheduler, SchedError> {
        config.validate()?;
        Ok(Scheduler {
            queue: AdmissionQueue::new(&config),
            config,
            kv,
            running: RunningSet::default(),
            fills: Fills::default(),
            step: 0,
            plan_is_open: false,
            planned: Timestamp(0),
            pace: Pace::default(),
            cancelled: Vec::new(),
        })
    }

    /// The cache, to look at.
    #[must_use]
    pub fn kv(&self) -> &KvCache {
        &self.kv
    }

    /// Keeps a complete document from eviction until it is unpinned as often as pinned.
    ///
    /// # Errors
    /// As [`KvCache::pin`].
    pub fn pin(&mut self, key: SegmentKey) -> Result<(), KvError> {
        self.kv.pin(key)
    }

    /// Takes one pin away.
    ///
    /// # Errors
    /// As [`KvCache::unpin`].
    pub fn unpin(&mut self, key: SegmentKey) -> Result<(), KvError> {
        self.kv.unpin(key)
    }

    /// Starts to record what comes into and goes out of the cache; see [`KvCache::record_events`].
    pub fn record_kv_events(&mut self) {
        self.kv.record_events();
    }

    /// The changes of the cache since the last call, oldest first.
    pub fn take_kv_events(&mut self) -> Vec<KvEvent> {
        self.kv.take_events()
    }

    /// Where the scheduler stands.
    #[must_use]
    pub fn stats(&self) -> SchedStats {
        let (running, waiting) = (self.running.len(), self.queue.len());
        let waiting_tokens = self.queue.waiting_tokens();
        SchedStats { running, waiting, waiting_tokens, steps: self.step, kv: self.kv.stats() }
    }

    /// Whether nothing runs and nobody waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.len() == 0 && self.queue.len() == 0
    }

    /// Lets `submission`, which arrives `now`, wait for admission.
    ///
    /// # Errors
    /// [`SchedError::NeverFits`] if even an empty pool could not hold one of its sequences; [`SchedError::QueueFull`]
    /// if [`SchedConfig::max_waiting`] requests wait already; [`SchedError::BacklogFull`] if more than
    /// [`SchedConfig::max_waiting_tokens`] would; [`SchedError::DeadlineExceeded`] and
    /// [`SchedError::DeadlineUnmeetable`] if its deadline has passed or comes before the estimate of its first token;
    /// [`SchedError::Config`] if it has no sequence.
    ///
    /// The estimate: prompt tokens that running sequences lack, that wait and go earlier, and its own, times the time
    /// per prompt token in the recent steps that ran any. Time spent waiting for a slot or for blocks is left out, so it
    /// errs on the side of taking a request; before anything was measured nothing is refused for it.
    pub fn submit(&mut self, submission: Submission, now: Timestamp) -> Result<(), SchedError> {
        let allowed = "at least 1";
        if submission.sequences.is_empty() {
            return Err(SchedError::Config { field: "sequences", value: 0, allowed });
        }
        let config = self.kv.config();
        let needed = blocks_needed(&submission.context, submission.tail_tokens(), config.block_size);
        if needed > config.num_blocks {
            return Err(SchedError::NeverFits { needed, total: config.num_blocks });
        }
        let waiting = Waiting::new(submission, now);
        self.queue.check(&waiting, &self.kv)?;
        self.check_deadline(&waiting, now)?;
        self.queue.push(waiting, &self.kv);
        Ok(())
    }

    fn check_deadline(&self, waiting: &Waiting, now: Timestamp) -> Result<(), SchedError> {
        let Some(deadline) = waiting.submission.deadline else { return Ok(()) };
        if deadline <= now {
            return Err(SchedError::DeadlineExceeded { late_micros: now.micros_since(deadline) });
        }
        let being_filled = self.fills.leaders().map(|(handle, _)| u64::from(self.kv.num_missing(handle)));
        let tokens_ahead = being_filled.sum::<u64>() + self.queue.tokens_ahead(waiting, &self.kv);
        let left_micros = deadline.micros_since(now);
        match self.pace.micros_for(tokens_ahead) {
            Some(estimate_micros) if estimate_micros > left_micros => {
                Err(SchedError::DeadlineUnmeetable { estimate_micros, tokens_ahead, left_micros })
            }
            _ => Ok(()),
        }
    }

    /// Ends every request whose deadline is not after `now`.
    fn expire(&mut self, now: Timestamp, rejected: &mut Vec<Rejected>) {
        let waiting = self.queue.iter().map(|waiting| &waiting.submission);
        let waiting = waiting.map(|submission| (submission.request, submission.deadline));
        let running = self.running.iter().map(|running| (running.request, running.deadline));
        let late = waiting.chain(running).filter_map(|(request, deadline)| Some((request, deadline?)));
        let late: BTreeMap<RequestId, Timestamp> = late.filter(|&(_, deadline)| deadline <= now).collect();
        for (request, deadline) in late {
            self.cancel(request, now);
            let late_micros = now.micros_since(deadline);
            rejected.push(Rejected { request, error: SchedError::DeadlineExceeded { late_micros } });
        }
    }

    /// Ends every sequence of `request`. While a plan is open, they end when it is closed.
    pub fn cancel(&mut self, request: RequestId, now: Timestamp) {
        if self.plan_is_open {
            self.cancelled.push(request);
            return;
        }
        self.queue.remove(request);
        let of_request = self.running.iter().filter(|running| running.request == request);
        let sequences: Vec<SequenceId> = of_request.map(|running| running.sequence).collect();
        for sequence in sequences {
            self.end(sequence, now);
        }
    }

    /// Ends whoever is past its deadline, admits who can be admitted and picks the work of one step.
    ///
    /// # Panics
    /// If the last plan was not closed: a bug of the caller.
    pub fn plan(&mut self, now: Timestamp) -> StepPlan {
        assert!(!self.plan_is_open, "every plan is closed by one commit or abort");
        let mut admitted = Vec::new();
        let mut rejected = Vec::new();
        self.expire(now, &mut rejected);
        self.plan_is_open = true;
        self.planned = now;
        self.admit(now, &mut admitted, &mut rejected);
        let filled = self.end_filled(now);
        let planner = Planner::new(&self.kv, &self.fills, self.config.max_step_tokens);
        let runs = planner.plan(&self.running);
        assert!(self.running.len() == 0 || !runs.is_empty(), "some running sequence can always go on");
        StepPlan {
            step: self.step,
            runs,
            admitted,
            filled,
            rejected,
            num_running: self.running.len(),
            num_waiting: self.queue.len(),
            max_tokens: self.config.max_step_tokens,
        }
    }

    /// Closes `plan` after its step ran: one outcome per row, in the order of [`StepPlan::rows`].
    ///
    /// # Panics
    /// If the outcomes are not those of the rows, or a sequence would go on past its `max_tokens`: a bug of the caller.
    pub fn commit(&mut self, plan: StepPlan, outcomes: &[Outcome], now: Timestamp) {
        self.close();
        assert_eq!(plan.rows().count(), outcomes.len(), "a commit has one outcome per row");
        let prompts = plan.runs.iter().filter(|run| run.work != Work::Decode);
        self.pace.note(prompts.map(|run| run.num_tokens).sum(), now.micros_since(self.planned));
        let mut outcomes = outcomes.iter();
        for run in &plan.runs {
            match run.work {
                Work::Encode | Work::Prefill => self.commit_fill(run),
                Work::FirstToken | Work::Decode => {
                    outcomes.next().into_iter().for_each(|outcome| self.commit_row(run, *outcome, now));
                }
            }
        }
        self.cancel_deferred(now);
    }

    /// Closes `plan` after its step failed: everything it would have written is void. Ends every sequence with work in
    /// it and returns them; whoever waited for their segments goes on and fills them again.
    pub fn abort(&mut self, plan: StepPlan, now: Timestamp) -> Vec<SequenceId> {
        self.close();
        let fills = plan.runs.iter().filter(|run| !run.work.wants_logits());
        fills.for_each(|run| self.kv.restart(run.own.handle));
        let mut failed: Vec<SequenceId> = plan.runs.iter().map(|run| run.sequence).collect();
        failed.sort_unstable();
        failed.dedup();
        for &sequence in &failed {
            self.end(sequence, now);
        }
        self.cancel_deferred(now);
        failed
    }

    /// Checks the cache and that every fill is led by a running sequence. For tests.
    ///
    /// # Panics
    /// If an invariant does not hold.
    pub fn check_invariants(&self) {
        self.kv.check_invariants();
        self.queue.check_invariants(&self.kv);
        for (handle, leader) in self.fills.leaders() {
            assert!(self.running.contains(leader), "{leader} fills {handle:?} but does not run");
            assert!(self.kv.state(handle) != FillState::Complete, "{handle:?} is complete and still filled");
        }
        for running in self.running.iter() {
            assert!(
                running.num_written < running.max_tokens || running.max_tokens == 0,
                "{} has a slot for its next token",
                running.sequence
            );
            for placed in running.placed.iter() {
                let is_filled = self.fills.leader(placed.handle).is_some();
                let is_complete = self.kv.state(placed.handle) == FillState::Complete;
                assert!(is_filled != is_complete, "{:?} is complete or someone fills it", placed.handle);
            }
        }
    }

    fn admit(&mut self, now: Timestamp, admitted: &mut Vec<Admitted>, rejected: &mut Vec<Rejected>) {
        if self.running.len() < self.config.max_running {
            self.queue.look(&self.kv);
        }
        while self.running.len() < self.config.max_running {
            let Some(pick) = self.queue.next() else { return };
            let waiting = self.queue.get(pick.ticket);
            let (submission, sequence) = (&waiting.submission, waiting.next_sequence());
            let needs = ReserveRequest { segments: &waiting.needs, tail_tokens: submission.tail_tokens() };
            match self.kv.reserve(&needs, now) {
                Ok(reservation) => {
                    let (running, found) = Running::new(submission, sequence, reservation, &self.kv);
                    admitted.push(Admitted { request: running.request, sequence, found });
                    self.queue.start_one(pick, &self.kv);
                    self.start(running);
                }
                // Whoever runs will free blocks: wait for them.
                Err(_) if self.running.len() > 0 => return,
                Err(error) => {
                    let request = submission.request;
                    self.queue.remove(request);
                    rejected.push(Rejected { request, error: never_fits(&error) });
                }
            }
        }
    }

    /// Ends the sequences that generate nothing and whose segments are complete. Nothing is evicted between this and the
    /// next plan, so the caller can still pin what they filled.
    fn end_filled(&mut self, now: Timestamp) -> Vec<SequenceId> {
        let is_filled = |running: &&Running| {
            let mut placed = running.placed.iter();
            running.max_tokens == 0
                && placed.all(|placed| self.kv.state(placed.handle) == FillState::Complete)
        };
        let filled: Vec<SequenceId> =
            self.running.iter().filter(is_filled).map(|running| running.sequence).collect();
        for &sequence in &filled {
            self.end(sequence, now);
        }
        filled
    }

    fn start(&mut self, running: Running) {
        for (placed, segment) in running.placed.iter().zip(running.context.segments()) {
            if self.kv.state(placed.handle) != FillState::Complete {
                self.fills.join(placed.handle, segment.kind(), running.sequence);
            }
        }
        self.running.push(running);
    }

    fn commit_fill(&mut self, run: &PlannedRun) {
        if self.kv.mark_computed(run.own.handle, run.num_tokens) == FillState::Complete {
            self.fills.complete(run.own.handle);
        }
    }

    fn commit_row(&mut self, run: &PlannedRun, outcome: Outcome, now: Timestamp) {
        match outcome {
            Outcome::Finished => self.end(run.sequence, now),
            Outcome::Continue(token) => {
                if let Some(running) = self.running.get_mut(run.sequence) {
                    running.num_written += 1;
                    running.next_token = token;
                    running.phase = Phase::Decode;
                    let (written, max) = (running.num_written, running.max_tokens);
                    assert!(written < max, "{} ends after its {max} tokens", run.sequence);
                }
            }
        }
    }

    fn end(&mut self, sequence: SequenceId, now: Timestamp) {
        let Some(running) = self.running.remove(sequence) else { return };
        for reference in running.references {
            self.fills.leave(reference.handle(), sequence);
            self.kv.release(reference, now);
        }
        self.kv.release_tail(running.tail);
    }

    fn close(&mut self) {
        assert!(self.plan_is_open, "a plan is closed once");
        self.plan_is_open = false;
        self.step += 1;
    }

    fn cancel_deferred(&mut self, now: Timestamp) {
        for request in std::mem::take(&mut self.cancelled) {
            self.cancel(request, now);
        }
    }
}

fn never_fits(error: &KvError) -> SchedError {
    match *error {
        KvError::Shortfall { needed, available, .. } => SchedError::NeverFits { needed, total: available },
        ref other => unreachable!("a reservation fails for want of blocks only, not with: {other}"),
    }
}
