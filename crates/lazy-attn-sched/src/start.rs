//! Sequences get their blocks: those that were preempted, then those that wait.

use lazy_attn_kv::{FillState, ReserveRequest, SegmentNeed};
use lazy_attn_types::{SequenceId, Timestamp};

use crate::running::{Running, Sequence};
use crate::{Admitted, Rejected, SchedError, Scheduler, StepPlan};

/// Whether a sequence can have its blocks.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    Now,
    /// When somebody who runs has ended.
    Later,
    Never(SchedError),
}

/// What a sequence asks for.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    segments: &'a [SegmentNeed],
    /// Tail tokens at first.
    first_slots: u32,
    /// Tail tokens at last.
    max_tokens: u32,
}

impl Scheduler {
    /// Lets sequences start or go on. Nobody new starts while a preempted sequence waits, and nobody at all in a step that
    /// preempts.
    pub(crate) fn admit(&mut self, now: Timestamp, plan: &mut StepPlan) {
        if !plan.preempted.is_empty() {
            return;
        }
        self.resume(now, plan);
        if !self.preempted.is_empty() || self.running.len() >= self.config.max_running {
            return;
        }
        self.queue.look(&self.kv);
        while self.running.len() < self.config.max_running {
            let Some(pick) = self.queue.next(self.pace.token_nanos()) else { return };
            let waiting = self.queue.get(pick.ticket);
            let (submission, segments) = (&waiting.submission, &waiting.needs);
            let (request, max_tokens) = (submission.request, submission.max_tokens);
            match self.room(Wanted { segments, first_slots: max_tokens.min(1), max_tokens }) {
                Room::Now => {
                    let sequence = Sequence::next_of(waiting, self.running.take_turn());
                    let admitted = self.start(sequence, now);
                    self.queue.start_one(pick, &self.kv);
                    plan.admitted.push(admitted);
                }
                Room::Later => return,
                Room::Never(error) => {
                    self.cancel(request, now);
                    plan.rejected.push(Rejected { request, error });
                }
            }
        }
    }

    /// Lets preempted sequences go on, the longest running first.
    fn resume(&mut self, now: Timestamp, plan: &mut StepPlan) {
        while let Some((turn, sequence)) = self.preempted.pop_first() {
            let (segments, max_tokens) = (&sequence.needs, sequence.max_tokens);
            match self.room(Wanted { segments, first_slots: sequence.first_slots(), max_tokens }) {
                Room::Now => plan.resumed.push(self.start(sequence, now)),
                Room::Later => {
                    self.preempted.insert(turn, sequence);
                    return;
                }
                Room::Never(error) => {
                    let request = sequence.request;
                    self.cancel(request, now);
                    plan.rejected.push(Rejected { request, error });
                }
            }
        }
    }

    /// Beside others it also needs a spare block for each sequence that may grow, so that a start is not undone at once.
    fn room(&self, wanted: Wanted<'_>) -> Room {
        let block_size = self.kv.config().block_size;
        let Wanted { segments, first_slots, max_tokens } = wanted;
        let whole = ReserveRequest { segments, tail_tokens: max_tokens };
        let (needed, total) = (self.kv.blocks_needed(&whole), self.kv.available_alone(&whole));
        if needed > total {
            return Room::Never(SchedError::NeverFits { needed, total });
        }
        let grows = block_size.blocks_for(max_tokens) > block_size.blocks_for(first_slots);
        let growing = self.running.iter().filter(|running| running.may_grow(block_size));
        let spare = growing.count() as u32 + u32::from(grows);
        let spare = if self.running.len() == 0 { 0 } else { spare };
        match self.kv.room_after(&ReserveRequest { segments, tail_tokens: first_slots }) {
            Some(room) if room >= spare => Room::Now,
            _ => Room::Later,
        }
    }

    /// `sequence` takes its blocks, for which there is [`Room::Now`], and runs.
    fn start(&mut self, sequence: Sequence, now: Timestamp) -> Admitted {
        let (request, id) = (sequence.request, sequence.id);
        let needs = ReserveRequest { segments: &sequence.needs, tail_tokens: sequence.first_slots() };
        let reservation = match self.kv.reserve(&needs, now) {
            Ok(reservation) => reservation,
            Err(error) => unreachable!("there is room for {id}: {error}"),
        };
        let (running, found) = Running::new(sequence, reservation, &self.kv);
        for (placed, segment) in running.placed.iter().zip(running.sequence.context.segments()) {
            if self.kv.state(placed.handle) != FillState::Complete {
                self.fills.join(placed.handle, segment.kind(), id);
            }
        }
        self.running.push(running);
        Admitted { request, sequence: id, found }
    }

    /// Ends the sequences that generate nothing and whose segments are complete. Nothing is evicted between this and the
    /// next plan, so the caller can still pin what they filled.
    pub(crate) fn end_filled(&mut self, now: Timestamp) -> Vec<SequenceId> {
        let is_filled = |running: &&Running| {
            let mut placed = running.placed.iter();
            running.sequence.max_tokens == 0
                && placed.all(|placed| self.kv.state(placed.handle) == FillState::Complete)
        };
        let filled = self.running.iter().filter(is_filled);
        let filled: Vec<SequenceId> = filled.map(|running| running.sequence.id).collect();
        for &sequence in &filled {
            self.end(sequence, now);
        }
        filled
    }
}
