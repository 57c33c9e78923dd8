//! Tails grow block by block; when no block is left, a sequence gives way and is computed again later.
//!
//! The victim is, of all running sequences but the longest running one, that of the lowest priority, and of those the one
//! with the least KV that nobody else needs; it gives back its tail and its references, so documents that others read
//! stay. It goes on before anybody new starts, with the tokens it has: its segments are looked up again, its tail is run
//! again as far as it was written, and nothing is sampled twice. The tail is the same segment at the same place, so where
//! results are folded in fixed units of a segment its later tokens are the same bit by bit.
//!
//! **Everybody ends.** *Proof.* A sequence is admitted only if it fits the pool alone, without what is pinned. Let `s` be
//! the longest running of those that run or were preempted. If it runs, it is no victim, and each growth it asks for is
//! granted: every other sequence can be preempted, and then everything but its own segments and pins is free or can be
//! evicted. So it advances in each step and ends. If it does not run, nobody new is admitted until it does, and those that
//! run are finitely many, of whom the longest running one ends by the same argument; when the last one has ended, `s` is
//! admitted. By induction on the order of first admissions everybody becomes `s`. ∎ Only a pin made meanwhile can break
//! the premise; then the sequence that does not fit any more is refused with the numbers.

use std::cmp::Reverse;

use lazy_attn_types::{SequenceId, Timestamp};

use crate::ahead::Ahead;
use crate::running::{Running, Sequence};
use crate::{Preempted, Rejected, SchedError, Scheduler, StepPlan};

impl Scheduler {
    /// Gives every decoding sequence a slot for its token, the longest running first.
    pub(crate) fn make_room(&mut self, now: Timestamp, plan: &mut StepPlan) {
        // Ranked once a step: whoever gives way changes what the others would have to compute by little.
        let mut victims: Option<Vec<SequenceId>> = None;
        for id in self.full(&Ahead::default()) {
            while !self.grow(id) {
                match victims.get_or_insert_with(|| self.victims()).pop() {
                    Some(victim) => self.preempt(victim, now, plan),
                    None => self.refuse_growth(id, now, plan),
                }
            }
        }
    }

    /// Whether `id` has a slot for its next token, or does not run any more.
    pub(crate) fn grow(&mut self, id: SequenceId) -> bool {
        let Some(running) = self.running.get_mut(id) else { return true };
        self.kv.grow_tail(&mut running.tail, 1).is_ok()
    }

    /// All running sequences but the longest running one, who gives way first at the end.
    fn victims(&self) -> Vec<SequenceId> {
        let rank = |running: &Running| {
            let Sequence { id, priority, turn, .. } = running.sequence;
            (Reverse((priority, running.private_tokens(&self.kv))), turn, id)
        };
        let mut ranked: Vec<_> = self.running.iter().skip(1).map(rank).collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, _, id)| id).collect()
    }

    fn preempt(&mut self, id: SequenceId, now: Timestamp, plan: &mut StepPlan) {
        assert!(self.open.is_empty(), "no step writes blocks that are given away");
        let Some(running) = self.running.remove(id) else { return };
        let lost_tokens = running.private_tokens(&self.kv);
        let sequence = self.give_back(running, now);
        plan.preempted.push(Preempted { request: sequence.request, sequence: id, lost_tokens });
        self.num_preemptions += 1;
        self.preempted.insert(sequence.turn, sequence);
    }

    /// `id` runs alone and still lacks a block: it holds everything that is not pinned.
    fn refuse_growth(&mut self, id: SequenceId, now: Timestamp, plan: &mut StepPlan) {
        let Some(running) = self.running.get_mut(id) else { return };
        let (request, tail) = (running.sequence.request, running.tail.blocks().len() as u32);
        let mut held: Vec<_> =
            running.placed.iter().map(|placed| (placed.handle, placed.blocks.len())).collect();
        held.sort_unstable();
        held.dedup();
        let total = tail + held.iter().map(|(_, num_blocks)| *num_blocks as u32).sum::<u32>();
        self.cancel(request, now);
        plan.rejected.push(Rejected { request, error: SchedError::NeverFits { needed: total + 1, total } });
    }
}
