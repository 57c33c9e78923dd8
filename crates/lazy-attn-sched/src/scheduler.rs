//! The state between steps.

use std::collections::BTreeMap;

use lazy_attn_kv::{FillSource, FillState, KvCache, KvError, KvEvent, KvStats};
use lazy_attn_types::{RequestId, SegmentHandle, SegmentKey, SequenceId, Timestamp, TokenId};

use crate::admission::{AdmissionQueue, Waiting};
use crate::ahead::Ahead;
use crate::fill::Fills;
use crate::open::OpenPlans;
use crate::pace::Pace;
use crate::planner::Planner;
use crate::running::{Phase, Running, RunningSet, Sequence};
use crate::{PlannedRun, Rejected, SchedConfig, SchedError, StepPlan, Submission, Work, blocks_needed};

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
    /// Sequences that were preempted and have not gone on yet.
    pub preempted: u32,
    /// Preemptions so far.
    pub preemptions: u64,
    /// Steps closed.
    pub steps: u64,
    /// The cache.
    pub kv: KvStats,
}

/// Decides what runs in the next step, and owns the cache.
///
/// A sequence is admitted only if it could end alone, so [whoever is admitted ends](crate::preempt), though it may have to
/// give its blocks to others for a while.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) config: SchedConfig,
    pub(crate) kv: KvCache,
    pub(crate) queue: AdmissionQueue,
    pub(crate) running: RunningSet,
    pub(crate) fills: Fills,
    /// Sequences that gave their blocks away, by their turn.
    pub(crate) preempted: BTreeMap<u64, Sequence>,
    pub(crate) num_preemptions: u64,
    pub(crate) open: OpenPlans,
    pub(crate) pace: Pace,
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
            preempted: BTreeMap::new(),
            num_preemptions: 0,
            open: OpenPlans::default(),
            pace: Pace::default(),
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
        SchedStats {
            running,
            waiting,
            waiting_tokens,
            preempted: self.preempted.len() as u32, // bounded by `max_running`
            preemptions: self.num_preemptions,
            steps: self.open.num_closed(),
            kv: self.kv.stats(),
        }
    }

    /// Whether nothing runs, nobody waits, and nobody who ended still holds blocks.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let nobody_runs = self.running.len() == 0 && self.open.ended().next().is_none();
        nobody_runs && self.queue.len() == 0 && self.preempted.is_empty()
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
    /// The estimate: prompt tokens that running sequences lack, that wait and go earlier, and its own, and the tails that
    /// preempted sequences run again, times the time per prompt token in the recent steps that ran any. Time spent waiting for a slot or for blocks is left out, so it
    /// errs on the side of taking a request; before anything was measured nothing is refused for it.
    pub fn submit(&mut self, submission: Submission, now: Timestamp) -> Result<(), SchedError> {
        let allowed = "at least 1";
        if submission.sequences.is_empty() {
            return Err(SchedError::Config { field: "sequences", value: 0, allowed });
        }
        let config = self.kv.config();
        let (kv_policy, tail_tokens) = (self.config.kv_policy, submission.tail_tokens());
        let needed = blocks_needed(&submission.context, tail_tokens, config.block_size, kv_policy);
        if needed > config.num_blocks {
            return Err(SchedError::NeverFits { needed, total: config.num_blocks });
        }
        let waiting = Waiting::new(submission, now, kv_policy);
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
        let again: u64 = self.preempted.values().map(|sequence| sequence.tail_tokens.len() as u64).sum();
        let tokens_ahead = being_filled.sum::<u64>() + again + self.queue.tokens_ahead(waiting, &self.kv);
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
        let running = self.running.iter().map(|running| &running.sequence);
        let started = running.chain(self.preempted.values());
        let started = started.map(|sequence| (sequence.request, sequence.deadline));
        let late = waiting.chain(started).filter_map(|(request, deadline)| Some((request, deadline?)));
        let late: BTreeMap<RequestId, Timestamp> = late.filter(|&(_, deadline)| deadline <= now).collect();
        for (request, deadline) in late {
            self.cancel(request, now);
            let late_micros = now.micros_since(deadline);
            rejected.push(Rejected { request, error: SchedError::DeadlineExceeded { late_micros } });
        }
    }

    /// Whether `sequence` was admitted, has its blocks and has not ended.
    #[must_use]
    pub fn is_running(&self, sequence: SequenceId) -> bool {
        self.running.contains(sequence)
    }

    /// Ends every sequence of `request`. Their blocks come back when every plan that is open now is closed.
    pub fn cancel(&mut self, request: RequestId, now: Timestamp) {
        self.queue.remove(request);
        self.preempted.retain(|_, sequence| sequence.request != request);
        let sequences = self.running.iter().map(|running| &running.sequence);
        let of_request = sequences.filter(|sequence| sequence.request == request);
        let sequences: Vec<SequenceId> = of_request.map(|sequence| sequence.id).collect();
        for sequence in sequences {
            self.end(sequence, now);
        }
    }

    /// Ends whoever is past its deadline, preempts for those who need blocks, admits who can be admitted and picks the work
    /// of one step.
    ///
    /// # Panics
    /// If the last plan was not closed: a bug of the caller.
    pub fn plan(&mut self, now: Timestamp) -> StepPlan {
        assert!(self.open.is_empty(), "every plan is closed by one commit or abort");
        let plan = self.fill_plan(&Ahead::default(), now);
        assert!(self.running.len() == 0 || !plan.is_empty(), "some running sequence can always go on");
        plan
    }

    /// A plan behind what `ahead` will have done.
    pub(crate) fn fill_plan(&mut self, ahead: &Ahead, now: Timestamp) -> StepPlan {
        let mut plan = StepPlan::empty(self.open.next_step(), self.config.max_step_tokens);
        self.expire(now, &mut plan.rejected);
        if self.open.is_empty() {
            self.make_room(now, &mut plan);
        }
        self.admit(now, &mut plan);
        plan.filled = self.end_filled(now);
        self.give_up_copies();
        let planner = Planner::new(&self.kv, &self.fills, ahead, self.config.max_step_tokens);
        (plan.reencodings, plan.runs) = planner.plan(&self.running);
        (plan.num_running, plan.num_waiting) = (self.running.len(), self.queue.len());
        self.open.push(now);
        plan
    }

    /// Closes `plan` after its step ran: one outcome per row, in the order of [`StepPlan::rows`]. That of a sequence which
    /// ended since the plan was made is not looked at.
    ///
    /// # Panics
    /// If the outcomes are not those of the rows, or a sequence would go on past its `max_tokens`: a bug of the caller.
    pub fn commit(&mut self, plan: StepPlan, outcomes: &[Outcome], now: Timestamp) {
        let micros = self.open.close(plan.step, now);
        assert_eq!(plan.rows().count(), outcomes.len(), "a commit has one outcome per row");
        let prompts = plan.runs.iter().filter(|run| run.work != Work::Decode);
        self.pace.note(prompts.map(|run| run.num_tokens).sum(), micros);
        for reencoding in &plan.reencodings {
            self.commit_fill(reencoding.own.handle, reencoding.own.num_tokens);
        }
        let mut outcomes = outcomes.iter();
        for run in &plan.runs {
            match run.work {
                Work::Encode | Work::Prefill => self.commit_fill(run.own.handle, run.num_tokens),
                Work::Rerun => self.commit_rerun(run),
                Work::FirstToken | Work::Decode => {
                    outcomes.next().into_iter().for_each(|outcome| self.commit_row(run, *outcome, now));
                }
            }
        }
        self.give_back_released(now);
    }

    /// Closes `plan` after its step failed: everything it would have written is void. Ends every sequence with work in
    /// it and returns them; whoever waited for their segments goes on and fills them again.
    pub fn abort(&mut self, plan: StepPlan, now: Timestamp) -> Vec<SequenceId> {
        self.open.close(plan.step, now);
        let fills = plan.runs.iter().filter(|run| matches!(run.work, Work::Encode | Work::Prefill));
        fills.for_each(|run| self.kv.restart(run.own.handle));
        self.spoil_reencodings(&plan);
        let reencodings = plan.reencodings.iter().map(|reencoding| reencoding.sequence);
        let mut failed: Vec<SequenceId> =
            plan.runs.iter().map(|run| run.sequence).chain(reencodings).collect();
        failed.sort_unstable();
        failed.dedup();
        // Who ended since the plan was made has nothing to lose.
        failed.retain(|&sequence| self.running.contains(sequence));
        for &sequence in &failed {
            self.end(sequence, now);
        }
        self.give_back_released(now);
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
            let just_ended = self.open.ended().any(|ended| ended.sequence.id == leader);
            assert!(
                self.running.contains(leader) || just_ended,
                "{leader} fills {handle:?} but does not run"
            );
            assert!(self.kv.state(handle) != FillState::Complete, "{handle:?} is complete and still filled");
        }
        let num_started = self.running.len() as usize + self.preempted.len();
        assert!(num_started <= self.config.max_running as usize, "whoever was preempted finds a slot");
        for (turn, sequence) in &self.preempted {
            assert!(*turn == sequence.turn && !self.running.contains(sequence.id), "it waits or it runs");
        }
        for running in self.running.iter() {
            let Sequence { id, max_tokens, ref tail_tokens, .. } = running.sequence;
            assert!(running.num_written < max_tokens || max_tokens == 0, "{id} has a token to run");
            assert!(running.num_written < tail_tokens.len() as u32, "{id} runs what was chosen");
            for placed in running.placed.iter() {
                let is_filled = self.fills.leader(placed.handle).is_some();
                let is_complete = self.kv.state(placed.handle) == FillState::Complete;
                assert!(is_filled != is_complete, "{:?} is complete or someone fills it", placed.handle);
            }
        }
    }

    fn commit_fill(&mut self, handle: SegmentHandle, num_tokens: u32) {
        if self.kv.mark_computed(handle, num_tokens) == FillState::Complete {
            self.fills.complete(handle);
        }
    }

    /// The step of `plan` did not run to its end: what it would have rotated where it is holds nothing.
    pub(crate) fn spoil_reencodings(&mut self, plan: &StepPlan) {
        plan.reencodings.iter().for_each(|reencoding| self.kv.restart(reencoding.own.handle));
        if !plan.reencodings.is_empty() {
            self.running.place_again(&self.kv);
        }
    }

    /// Whoever waits to copy what nobody runs any more runs it itself.
    fn give_up_copies(&mut self) {
        let is_given_up = |&(handle, _): &(SegmentHandle, SequenceId)| match self.kv.source(handle) {
            FillSource::Copy { from, .. } => {
                self.kv.state(from) != FillState::Complete && self.fills.leader(from).is_none()
            }
            FillSource::Run | FillSource::InPlace { .. } => false,
        };
        let given_up: Vec<_> = self.fills.leaders().filter(is_given_up).collect();
        given_up.iter().for_each(|&(handle, _)| self.kv.detach(handle));
        if !given_up.is_empty() {
            self.running.place_again(&self.kv);
        }
    }

    fn commit_rerun(&mut self, run: &PlannedRun) {
        if let Some(running) = self.running.get_mut(run.sequence) {
            running.num_written = run.end();
            if running.num_written as usize == running.rerun.len() {
                running.phase = Phase::Decode;
            }
        }
    }

    fn commit_row(&mut self, run: &PlannedRun, outcome: Outcome, now: Timestamp) {
        match outcome {
            Outcome::Finished => self.end(run.sequence, now),
            Outcome::Continue(token) => {
                if let Some(running) = self.running.get_mut(run.sequence) {
                    running.num_written += 1;
                    running.sequence.tail_tokens.push(token);
                    running.phase = Phase::Decode;
                    let (written, max) = (running.num_written, running.sequence.max_tokens);
                    assert!(written < max, "{} ends after its {max} tokens", run.sequence);
                }
            }
        }
    }

    pub(crate) fn end(&mut self, sequence: SequenceId, now: Timestamp) {
        if let Some(running) = self.running.remove(sequence).and_then(|running| self.open.keep(running)) {
            self.give_back(running, now);
        }
    }

    /// Takes the blocks of who ended while plans were open that are closed by now.
    pub(crate) fn give_back_released(&mut self, now: Timestamp) {
        for running in self.open.take_released() {
            self.give_back(running, now);
        }
    }

    /// Takes its blocks from a sequence that does not run any more.
    pub(crate) fn give_back(&mut self, running: Running, now: Timestamp) -> Sequence {
        for reference in running.references {
            self.fills.leave(reference.handle(), running.sequence.id);
            self.kv.release(reference, now);
        }
        self.kv.release_tail(running.tail);
        running.sequence
    }
}
