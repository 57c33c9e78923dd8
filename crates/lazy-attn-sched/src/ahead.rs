//! Planning a step while the one before it runs.
//!
//! What the open plan does is taken as done: its segments are filled as far as it fills them, and a sequence with a row in it
//! goes on with the token that it draws, which is not known yet. Nothing of this is stored: the state changes when a plan
//! is closed, in the order of the steps. A sequence that turns out to have ended leaves a row in the next plan that nobody
//! reads, and its blocks wait (`open`) until that plan is closed.
//!
//! Nobody is preempted here: whoever gives its blocks away would do so while a step writes them. Where a sequence lacks a
//! block there is no plan, the open one is closed, and [`Scheduler::plan`] makes room.

use std::collections::HashMap;

use lazy_attn_types::{SegmentHandle, SequenceId, Timestamp};

use crate::running::{Phase, Running};
use crate::{RunTokens, Scheduler, StepPlan, Work};

/// What an open plan will have done; nothing by default.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// Tokens written of each segment that it fills.
    fills: HashMap<SegmentHandle, u32>,
    tails: HashMap<SequenceId, Tail>,
}

/// What an open plan does to a tail.
#[derive(Debug, Clone, Copy)]
enum Tail {
    /// Runs its last token, up to `end`, and draws the next as row `row`.
    Row { end: u32, row: u32 },
    /// Runs old tokens again, up to `end`.
    Rerun { end: u32 },
}

/// Where a sequence stands when the open plan is done.
#[derive(Debug, Clone)]
pub(crate) struct Stand {
    pub(crate) phase: Phase,
    /// Tail tokens whose KV is written.
    pub(crate) num_written: u32,
    /// The token to run next.
    pub(crate) token: RunTokens,
}

impl Ahead {
    pub(crate) fn of(plan: &StepPlan) -> Ahead {
        let mut ahead = Ahead::default();
        let mut row = 0;
        for reencoding in &plan.reencodings {
            ahead.fills.insert(reencoding.own.handle, reencoding.own.num_tokens);
        }
        for run in &plan.runs {
            match run.work {
                Work::Encode | Work::Prefill => {
                    ahead.fills.insert(run.own.handle, run.end());
                }
                Work::Rerun => {
                    ahead.tails.insert(run.sequence, Tail::Rerun { end: run.end() });
                }
                Work::FirstToken | Work::Decode => {
                    ahead.tails.insert(run.sequence, Tail::Row { end: run.end(), row });
                    row += 1;
                }
            }
        }
        ahead
    }

    /// Tokens that will be written of the segment behind `handle`, if the plan fills it.
    pub(crate) fn filled(&self, handle: SegmentHandle) -> Option<u32> {
        self.fills.get(&handle).copied()
    }

    /// Where `running` will stand; nothing if the token that is being drawn is its last.
    pub(crate) fn stand(&self, running: &Running) -> Option<Stand> {
        let known = |phase, num_written| {
            Some(Stand { phase, num_written, token: RunTokens::OfTail(running.sequence.next_token()) })
        };
        match self.tails.get(&running.sequence.id) {
            None => known(running.phase, running.num_written),
            Some(&Tail::Rerun { end }) if end as usize == running.rerun.len() => known(Phase::Decode, end),
            Some(&Tail::Rerun { end }) => known(running.phase, end),
            Some(&Tail::Row { end, .. }) if end == running.sequence.max_tokens => None,
            Some(&Tail::Row { end, row }) => {
                Some(Stand { phase: Phase::Decode, num_written: end, token: RunTokens::Carried { row } })
            }
        }
    }
}

impl Scheduler {
    /// Plans the step behind `open`, the one plan that is not closed, every row of which goes on with a token that the next
    /// step can take over before it is known ([`RunTokens::Carried`]). Nothing if a sequence lacks a block: then `open` has
    /// to be closed first. A plan without runs has nothing to execute and is closed at once.
    ///
    /// # Panics
    /// If `open` is not the one open plan: a bug of the caller.
    pub fn plan_ahead(&mut self, open: &StepPlan, now: Timestamp) -> Option<StepPlan> {
        assert!(self.open.is_only(open.step), "a step is planned behind the one that runs");
        let ahead = Ahead::of(open);
        if !self.grow_ahead(&ahead) {
            return None;
        }
        Some(self.fill_plan(&ahead, now))
    }

    /// Closes `plan` without its effects: its step ran behind one that failed, so what it wrote is void. Its sequences go
    /// on as if it had not been planned.
    ///
    /// # Panics
    /// If it is closed already: a bug of the caller.
    pub fn withdraw(&mut self, plan: StepPlan, now: Timestamp) {
        self.open.close(plan.step, now);
        self.spoil_reencodings(&plan);
        self.give_back_released(now);
    }

    /// Gives every sequence that will decode a slot for its token, if there are blocks for all.
    fn grow_ahead(&mut self, ahead: &Ahead) -> bool {
        self.full(ahead).into_iter().all(|id| self.grow(id))
    }

    /// The sequences whose next token has no slot, the longest running first.
    pub(crate) fn full(&self, ahead: &Ahead) -> Vec<SequenceId> {
        let block_size = self.kv.config().block_size;
        let is_full = |running: &&Running| {
            ahead.stand(running).is_some_and(|stand| {
                let num_blocks = running.tail.blocks().len() as u32;
                stand.phase == Phase::Decode && block_size.blocks_for(stand.num_written + 1) > num_blocks
            })
        };
        self.running.iter().filter(is_full).map(|running| running.sequence.id).collect()
    }
}
