//! Plans that are not closed yet, and blocks that wait until they are.

use lazy_attn_types::Timestamp;

use crate::running::Running;

/// A plan whose step may be running.
#[derive(Debug, Clone, Copy)]
struct Open {
    step: u64,
    planned: Timestamp,
}

/// The open plans, and the sequences that ended meanwhile: a step may still write their blocks, so nobody gets these
/// before it has ended.
#[derive(Debug, Default)]
pub(crate) struct OpenPlans {
    /// In the order of their steps, at most two.
    plans: Vec<Open>,
    /// Who ended, and the last step that may write its blocks.
    ended: Vec<(u64, Running)>,
    next_step: u64,
    last_closed: Timestamp,
}

impl OpenPlans {
    /// The number of the next plan.
    pub(crate) fn next_step(&self) -> u64 {
        self.next_step
    }

    /// Plans closed so far.
    pub(crate) fn num_closed(&self) -> u64 {
        self.next_step - self.plans.len() as u64
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }

    /// Whether `step` is the only open plan.
    pub(crate) fn is_only(&self, step: u64) -> bool {
        self.plans.len() == 1 && self.plans[0].step == step
    }

    /// The plan with the next number is made `now`.
    pub(crate) fn push(&mut self, now: Timestamp) {
        self.plans.push(Open { step: self.next_step, planned: now });
        self.next_step += 1;
    }

    /// Closes the plan of `step` and tells how many microseconds it took: since it was planned, or since the one before it
    /// was closed.
    pub(crate) fn close(&mut self, step: u64, now: Timestamp) -> u64 {
        let index = self.plans.iter().position(|open| open.step == step);
        assert!(index.is_some(), "a plan is closed once");
        let planned = index.map_or(now, |index| self.plans.remove(index).planned);
        let began = planned.max(self.last_closed);
        self.last_closed = now;
        now.micros_since(began)
    }

    /// Keeps the blocks of who ended until all plans that are open now are closed; gives it back if there is none.
    pub(crate) fn keep(&mut self, running: Running) -> Option<Running> {
        match self.plans.last() {
            Some(open) => {
                self.ended.push((open.step, running));
                None
            }
            None => Some(running),
        }
    }

    /// Those whose blocks no open plan can write.
    pub(crate) fn take_released(&mut self) -> Vec<Running> {
        let first_open = self.plans.first().map_or(u64::MAX, |open| open.step);
        let (released, kept) =
            std::mem::take(&mut self.ended).into_iter().partition(|(last, _)| *last < first_open);
        self.ended = kept;
        let released: Vec<(u64, Running)> = released;
        released.into_iter().map(|(_, running)| running).collect()
    }

    /// Those that ended and still hold their blocks.
    pub(crate) fn ended(&self) -> impl Iterator<Item = &Running> {
        self.ended.iter().map(|(_, running)| running)
    }
}
