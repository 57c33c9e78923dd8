//! Two steps at a time: one runs while the next is planned and submitted, and while the rows of the one before it become
//! events.
//!
//! A step is followed by another before its result is known only if the executor draws the token of every row. Which
//! sequences end with it shows when it is committed; their rows in the step behind it are not read.

use lazy_attn_sched::StepPlan;
use lazy_attn_types::{ExecError, StepInput, StepOutput, Timestamp};

use super::{StepLoop, guarded};

/// A step that was submitted and not waited for.
pub(super) struct InFlight {
    plan: StepPlan,
    input: StepInput,
    planned: Timestamp,
    /// Why the executor did not take it: it has nothing to wait for.
    refused: Option<ExecError>,
}

impl InFlight {
    /// Whether the tokens that its sequences go on with stay on the device.
    fn can_be_followed(&self) -> bool {
        self.refused.is_none() && self.input.num_token_rows() == self.input.output_tokens.len()
    }
}

impl StepLoop {
    /// Ends one step, while another is in flight behind it if possible.
    pub(super) fn step_overlapped(&mut self) {
        while self.in_flight.len() < 2 && self.begin_next() {}
        self.end_oldest();
    }

    /// Whether a step was begun.
    fn begin_next(&mut self) -> bool {
        let now = self.shared.clock.now();
        let plan = match self.in_flight.back() {
            None => Some(self.scheduler.plan(now)),
            Some(last) if last.can_be_followed() => self.scheduler.plan_ahead(&last.plan, now),
            Some(_) => None,
        };
        let Some(plan) = plan else { return false };
        self.announce(&plan, now);
        if plan.is_empty() {
            self.scheduler.commit(plan, &[], now);
            return false;
        }
        let (step, tokens, runs) = (plan.step, plan.num_tokens(), plan.runs.len());
        let _span = tracing::debug_span!("step", step, tokens, runs, running = plan.num_running).entered();
        let input = self.input(&plan);
        let refused = run_pipeline(|| self.executor.submit(&input)).err();
        self.in_flight.push_back(InFlight { plan, input, planned: now, refused });
        true
    }

    fn end_oldest(&mut self) {
        let Some(step) = self.in_flight.pop_front() else { return };
        match self.wait(&step) {
            Ok(output) => self.commit(step.plan, &step.input, &output, step.planned),
            Err(error) => {
                let behind = self.in_flight.pop_front();
                if let Some(behind) = &behind {
                    // Void, but it has to end before anybody gets the blocks it writes.
                    let _: Result<_, _> = self.wait(behind);
                }
                self.abort(step.plan, &error);
                if let Some(behind) = behind {
                    self.scheduler.withdraw(behind.plan, self.shared.clock.now());
                }
            }
        }
    }

    fn wait(&mut self, step: &InFlight) -> Result<StepOutput, ExecError> {
        if let Some(error) = &step.refused {
            return Err(error.clone());
        }
        let output = run_pipeline(|| self.executor.wait())?;
        output.check(&step.input, self.executor.info())?;
        Ok(output)
    }

    /// Ends what is in flight when the loop ends; nobody reads it.
    pub(super) fn drain(&mut self) {
        while let Some(step) = self.in_flight.pop_front() {
            let _: Result<_, _> = self.wait(&step);
            self.scheduler.withdraw(step.plan, self.shared.clock.now());
        }
    }
}

/// A panic leaves open which steps the executor still holds, so that no later result could be told from an earlier one:
/// it is as good as gone.
fn run_pipeline<T>(execute: impl FnOnce() -> Result<T, ExecError>) -> Result<T, ExecError> {
    guarded(execute)
        .unwrap_or_else(|message| Err(ExecError::DeviceLost(format!("the executor panicked: {message}"))))
}
