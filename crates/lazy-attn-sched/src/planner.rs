//! Fills one step with work, most urgent first.

use std::collections::{HashMap, HashSet};

use lazy_attn_kv::{FillSource, FillState, KvCache};
use lazy_attn_types::{Position, SegmentHandle, SegmentKind};

use crate::ahead::{Ahead, Stand};
use crate::fill::Fills;
use crate::running::{Phase, Running, RunningSet};
use crate::{PlacedSegment, PlannedReencoding, PlannedRun, RunTokens, Work};

/// Of the tokens that decodes leave, documents get at least one in this many while any is being encoded, so that a
/// stream of short texts cannot hold a document back for ever.
const ENCODE_SHARE: u32 = 4;

/// A step being planned. Changes nothing but itself.
#[derive(Debug)]
pub(crate) struct Planner<'a> {
    kv: &'a KvCache,
    fills: &'a Fills,
    ahead: &'a Ahead,
    left: u32,
    reencodings: Vec<PlannedReencoding>,
    runs: Vec<PlannedRun>,
    /// The run of each segment filled in this step.
    fill_runs: HashMap<SegmentHandle, usize>,
    /// What comes to another position in this step.
    reencoded: HashSet<SegmentHandle>,
}

impl<'a> Planner<'a> {
    /// A step of `max_tokens` tokens behind what `ahead` will have done.
    pub(crate) fn new(kv: &'a KvCache, fills: &'a Fills, ahead: &'a Ahead, max_tokens: u32) -> Planner<'a> {
        Planner {
            kv,
            fills,
            ahead,
            left: max_tokens,
            reencodings: Vec::new(),
            runs: Vec::new(),
            fill_runs: HashMap::new(),
            reencoded: HashSet::new(),
        }
    }

    /// What can come to another position, then decodes, then text whose documents are there, then documents, then text
    /// that these complete.
    pub(crate) fn plan(mut self, running: &RunningSet) -> (Vec<PlannedReencoding>, Vec<PlannedRun>) {
        self.runs.reserve(running.len() as usize);
        let stands = running.iter().filter_map(|running| Some((running, self.ahead.stand(running)?)));
        let (decoding, prompting): (Vec<_>, Vec<_>) =
            stands.partition(|(_, stand)| stand.phase == Phase::Decode);
        for (running, stand) in decoding {
            self.push_tail(running, stand, Work::Decode);
        }
        for (running, _) in &prompting {
            self.reencode(running);
        }
        let kept = if self.fills.any_document() { self.left.div_ceil(ENCODE_SHARE) } else { 0 };
        for (running, stand) in &prompting {
            self.text(running, stand, kept);
        }
        for (running, _) in &prompting {
            self.documents(running);
        }
        for (running, stand) in &prompting {
            self.text(running, stand, 0);
        }
        (self.reencodings, self.runs)
    }

    /// Brings segments that `running` leads to their positions, if what they come from is there when the step begins. This
    /// reads and writes KV, but runs no token, so it takes nothing of the budget.
    fn reencode(&mut self, running: &Running) {
        for placed in running.placed.iter() {
            let is_mine = self.fills.leader(placed.handle) == Some(running.sequence.id);
            if !is_mine
                || self.ahead.filled(placed.handle).is_some()
                || self.reencoded.contains(&placed.handle)
            {
                continue;
            }
            let (from, distance) = match self.kv.source(placed.handle) {
                FillSource::Run => continue,
                FillSource::InPlace { distance } => (placed.handle, distance),
                FillSource::Copy { from, distance } if self.is_there(from) => (from, distance),
                FillSource::Copy { .. } => continue,
            };
            self.reencoded.insert(placed.handle);
            self.reencodings.push(PlannedReencoding {
                sequence: running.sequence.id,
                from,
                from_blocks: self.kv.segment(from).blocks,
                own: placed.clone(),
                distance,
            });
        }
    }

    /// Whether earlier steps, those not closed included, or what this step re-encoded so far, complete `handle`.
    fn is_there(&self, handle: SegmentHandle) -> bool {
        let is_filled = self.ahead.filled(handle) == Some(self.kv.segment(handle).num_tokens);
        is_filled || self.reencoded.contains(&handle) || self.kv.state(handle) == FillState::Complete
    }

    /// Runs the texts of `running` as far as everything before them is complete, and then its first token; `kept`
    /// tokens of the budget stay untouched.
    fn text(&mut self, running: &Running, stand: &Stand, kept: u32) {
        for (index, segment) in running.sequence.context.segments().iter().enumerate() {
            let placed = &running.placed[index];
            let is_mine = self.fills.leader(placed.handle) == Some(running.sequence.id);
            if is_mine && segment.kind() == SegmentKind::Text {
                self.fill(fill_run(running, index, Work::Prefill), kept);
            }
            if self.missing(placed) > 0 {
                return;
            }
        }
        if !running.rerun.is_empty() {
            // Its next token follows in the next step.
            self.extend(rerun_run(running, stand), running.rerun.len() as u32, kept);
            return;
        }
        let is_planned = self.fill_runs.contains_key(&running.tail.handle());
        if self.left > kept && !is_planned && running.sequence.max_tokens > 0 {
            self.push_tail(running, stand.clone(), Work::FirstToken);
        }
    }

    /// Encodes the documents that `running` leads, each alone from position 0, or behind its preamble once that is there.
    fn documents(&mut self, running: &Running) {
        for (index, segment) in running.sequence.context.segments().iter().enumerate() {
            let placed = &running.placed[index];
            let is_mine = self.fills.leader(placed.handle) == Some(running.sequence.id);
            let preamble = &running.placed[..segment.num_preamble()];
            let is_ready = is_mine && preamble.iter().all(|placed| self.missing(placed) == 0);
            if is_ready && segment.kind() == SegmentKind::Document {
                self.fill(fill_run(running, index, Work::Encode), 0);
            }
        }
    }

    /// Fills the segment that `run` writes as far as it is missing and allowed.
    fn fill(&mut self, run: PlannedRun, kept: u32) {
        if self.kv.source(run.own.handle) != FillSource::Run {
            return;
        }
        let (first_local, num_tokens) = (self.computed(&run.own), run.own.num_tokens);
        self.extend(PlannedRun { first_local, ..run }, num_tokens, kept);
    }

    /// Gives what `run` writes as many of its `num_tokens` tokens as are missing and allowed, in one run a step.
    fn extend(&mut self, run: PlannedRun, num_tokens: u32, kept: u32) {
        let handle = run.own.handle;
        let planned = self.fill_runs.get(&handle).copied();
        let written = planned.map_or(run.first_local, |index| self.runs[index].end());
        let take = (num_tokens - written).min(self.left.saturating_sub(kept));
        if take == 0 {
            return;
        }
        let index = planned.unwrap_or_else(|| {
            self.runs.push(run);
            self.fill_runs.insert(handle, self.runs.len() - 1);
            self.runs.len() - 1
        });
        let run = &mut self.runs[index];
        run.num_tokens += take;
        run.own.num_tokens = run.end();
        self.left -= take;
    }

    fn push_tail(&mut self, running: &Running, stand: Stand, work: Work) {
        assert!(self.left > 0, "every decode fits a step: `max_step_tokens` is above `max_running`");
        let first_local = stand.num_written;
        let own = PlacedSegment { num_tokens: first_local + 1, ..running.placed_tail() };
        if work == Work::FirstToken {
            // Looked for once more in this step.
            self.fill_runs.insert(own.handle, self.runs.len());
        }
        self.runs.push(PlannedRun {
            sequence: running.sequence.id,
            work,
            source: stand.token,
            first_local,
            num_tokens: 1,
            context: running.placed.clone(),
            num_earlier: running.placed.len(),
            own,
        });
        self.left -= 1;
    }

    /// Tokens of `placed` that neither earlier steps, those not closed included, nor this one write.
    fn missing(&self, placed: &PlacedSegment) -> u32 {
        if self.reencoded.contains(&placed.handle) {
            return 0;
        }
        let written = match self.fill_runs.get(&placed.handle) {
            Some(&index) => self.runs[index].end(),
            None => self.computed(placed),
        };
        placed.num_tokens - written
    }

    fn computed(&self, placed: &PlacedSegment) -> u32 {
        if let Some(filled) = self.ahead.filled(placed.handle) {
            return filled;
        }
        match self.kv.state(placed.handle) {
            FillState::Filling { computed } => computed,
            FillState::Complete => placed.num_tokens,
        }
    }
}

/// A run, empty so far, of the tail tokens that a preemption took away.
fn rerun_run(running: &Running, stand: &Stand) -> PlannedRun {
    PlannedRun {
        sequence: running.sequence.id,
        work: Work::Rerun,
        source: RunTokens::OfSegment(running.rerun.clone()),
        first_local: stand.num_written,
        num_tokens: 0,
        context: running.placed.clone(),
        num_earlier: running.placed.len(),
        own: running.placed_tail(),
    }
}

/// A run, empty so far, of segment `index` of the context of `running`: a document right behind its preamble, which is
/// usually nothing, a text behind everything before it. Where a document stands makes no difference to its KV.
fn fill_run(running: &Running, index: usize, work: Work) -> PlannedRun {
    let own = running.placed[index].clone();
    let segment = &running.sequence.context.segments()[index];
    let (num_earlier, start, origin) = match work {
        Work::Encode => {
            let preamble = &running.placed[..segment.num_preamble()];
            let end = preamble.last().map_or(Position(0), |last| last.start.advance(last.num_tokens));
            (preamble.len(), end, end)
        }
        _ => (index, own.start, own.origin),
    };
    PlannedRun {
        sequence: running.sequence.id,
        work,
        source: RunTokens::OfSegment(segment.tokens().clone()),
        first_local: 0,
        num_tokens: 0,
        context: running.placed.clone(),
        num_earlier,
        own: PlacedSegment { start, origin, ..own },
    }
}
