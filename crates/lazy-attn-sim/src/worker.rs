//! A scheduler and the step that it runs.

use std::collections::HashSet;
use std::time::Duration;

use lazy_attn_sched::{Outcome, Scheduler, StepPlan, Submission};
use lazy_attn_types::cost::visible_pairs;
use lazy_attn_types::{CostModel, KvPolicy, Position, SegmentHandle, StepSize, Timestamp, TokenId};

use crate::{ClusterConfig, SimError};

/// Whether steps take time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// What the cost model says.
    Modelled,
    /// A microsecond each, so that the order of uses is kept.
    Free,
}

/// A step that runs.
#[derive(Debug)]
struct Step {
    plan: StepPlan,
    ends: Timestamp,
}

/// A device with its scheduler and KV store.
#[derive(Debug)]
pub(crate) struct Worker {
    scheduler: Scheduler,
    cost: CostModel,
    policy: KvPolicy,
    step: Option<Step>,
    /// Segments of the step that is being sized; kept for its memory.
    seen: HashSet<(SegmentHandle, Position)>,
    /// How long steps ran, by the model.
    pub(crate) busy: Duration,
    /// Steps that ran.
    pub(crate) num_steps: u64,
}

impl Worker {
    pub(crate) fn new(config: &ClusterConfig) -> Result<Worker, SimError> {
        Ok(Worker {
            scheduler: config.scheduler()?,
            cost: config.cost,
            policy: config.policy,
            step: None,
            seen: HashSet::new(),
            busy: Duration::ZERO,
            num_steps: 0,
        })
    }

    pub(crate) fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    pub(crate) fn submit(&mut self, submission: Submission, now: Timestamp) -> Result<(), SimError> {
        Ok(self.scheduler.submit(submission, now)?)
    }

    /// Whether it runs a step.
    pub(crate) fn is_busy(&self) -> bool {
        self.step.is_some()
    }

    /// Begins a step if there is work. Returns its plan and when it ends.
    pub(crate) fn begin(&mut self, now: Timestamp, pace: Pace) -> Option<(&StepPlan, Timestamp)> {
        assert!(self.step.is_none(), "a worker runs one step at a time");
        if self.scheduler.is_idle() {
            return None;
        }
        let plan = self.scheduler.plan(now);
        let took = match pace {
            Pace::Free => Duration::from_micros(1),
            Pace::Modelled => {
                let size = self.size(&plan);
                let took = self.cost.time(&size);
                self.busy += took;
                self.num_steps += 1;
                took
            }
        };
        let step = self.step.insert(Step { plan, ends: now.after(took) });
        Some((&step.plan, step.ends))
    }

    /// Ends the step that runs; `outcome` is asked for each of its rows.
    pub(crate) fn end(&mut self, now: Timestamp, mut outcome: impl FnMut(u64) -> Outcome) {
        let Some(Step { plan, ends }) = self.step.take() else {
            unreachable!("only a step that runs can end");
        };
        assert_eq!(ends, now, "a step ends when the model says");
        let outcomes: Vec<Outcome> = plan.rows().map(|run| outcome(run.sequence.0)).collect();
        self.scheduler.commit(plan, &outcomes, now);
    }

    /// What `plan` amounts to. Reading is shared by all that have a segment; where keys are rotated as they are read, only by
    /// those that have it at the same place.
    fn size(&mut self, plan: &StepPlan) -> StepSize {
        let mut size = StepSize {
            rows: plan.rows().count() as f64,
            copied_tokens: f64::from(plan.num_reencoded_tokens()),
            ..StepSize::default()
        };
        self.seen.clear();
        for run in &plan.runs {
            let mut num_earlier = 0.0;
            for segment in run.earlier().iter().chain([&run.own]) {
                let place = if self.policy == KvPolicy::RotateKeys { segment.start } else { Position(0) };
                if self.seen.insert((segment.handle, place)) {
                    size.kv_tokens += f64::from(segment.num_tokens);
                }
            }
            num_earlier += run.earlier().iter().map(|segment| f64::from(segment.num_tokens)).sum::<f64>();
            size.tokens += f64::from(run.num_tokens);
            size.token_keys += visible_pairs(run.num_tokens, run.first_local, num_earlier);
        }
        size
    }
}

/// The token that every row draws.
pub(crate) const DRAWN: Outcome = Outcome::Continue(TokenId(0));
