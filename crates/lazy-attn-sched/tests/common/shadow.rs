//! What every block holds, as far as plans say.

use std::collections::HashMap;

use lazy_attn_sched::{PlacedSegment, PlannedReencoding, PlannedRun, StepPlan, Work};
use lazy_attn_types::{BlockId, KvPolicy, SegmentHandle};

/// What a storage holds: so many tokens, and by how much the key of the first is rotated.
type Held = (u32, i64);

/// What every storage holds once all plans that were applied have run. Storage names are never used twice.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shadow {
    kv_policy: KvPolicy,
    held: HashMap<SegmentHandle, Held>,
}

impl Shadow {
    pub(crate) fn new(kv_policy: KvPolicy) -> Shadow {
        Shadow { kv_policy, held: HashMap::new() }
    }

    /// Runs `plan`: it re-encodes what is whole and stands where it says, writes each storage in order at one place, and
    /// reads nothing that is not whole at its place by then.
    pub(crate) fn apply(&mut self, plan: &StepPlan) {
        assert!(plan.reencodings.is_empty() || self.kv_policy.has_places());
        plan.reencodings.iter().for_each(|reencoding| self.reencode(reencoding));
        for run in &plan.runs {
            let rotated = rotation(&run.own);
            let end = run.first_local + run.num_tokens;
            let (at, at_rotated) = self.held.insert(run.own.handle, (end, rotated)).unwrap_or((0, rotated));
            assert_eq!(
                (run.first_local, rotated),
                (at, at_rotated),
                "{run:?} goes on where its segment ends"
            );
            assert_eq!(run.own.num_tokens, end);
            assert!(run.num_tokens > 0 && run.tokens().len() == run.num_tokens as usize);
        }
        plan.runs.iter().for_each(|run| self.check_reads(run));
    }

    fn reencode(&mut self, reencoding: &PlannedReencoding) {
        let PlannedReencoding { from, from_blocks, own, distance, .. } = reencoding;
        let old = (own.num_tokens, rotation(own) - i64::from(*distance));
        assert_eq!(self.held.get(from), Some(&old), "{reencoding:?} reads it whole");
        if *from == own.handle {
            assert_eq!(from_blocks, &own.blocks, "it stays where it is");
        } else {
            assert_eq!(self.held.get(&own.handle), None, "{reencoding:?} is all that writes it");
            assert!(own.blocks.iter().all(|block| !from_blocks.contains(block)));
        }
        self.held.insert(own.handle, (own.num_tokens, rotation(own)));
    }

    fn check_reads(&self, run: &PlannedRun) {
        for seen in run.earlier() {
            let whole = (seen.num_tokens, rotation(seen));
            assert_eq!(self.held.get(&seen.handle), Some(&whole), "{:?} reads {:?}", run.work, seen.handle);
        }
    }

    /// The step of `plan`, which was not applied, failed: what it would have filled holds nothing.
    pub(crate) fn spoil(&mut self, plan: &StepPlan) {
        for run in plan.runs.iter().filter(|run| matches!(run.work, Work::Encode | Work::Prefill)) {
            self.held.remove(&run.own.handle);
        }
        self.spoil_moves(plan);
    }

    /// The step of `plan`, which was not applied, ran in part or not at all: what it moves holds nothing.
    pub(crate) fn spoil_moves(&mut self, plan: &StepPlan) {
        for reencoding in &plan.reencodings {
            self.held.remove(&reencoding.own.handle);
        }
    }
}

fn rotation(placed: &PlacedSegment) -> i64 {
    i64::from(placed.start.0) - i64::from(placed.origin.0)
}

/// Whose each block is that the plan reads or writes.
pub(crate) fn owners(plan: &StepPlan) -> HashMap<BlockId, SegmentHandle> {
    let views = plan.runs.iter().flat_map(|run| run.earlier().iter().chain([&run.own]));
    let owned = views.map(|view| (view.handle, &view.blocks));
    let moved = plan.reencodings.iter().flat_map(|reencoding| {
        [(reencoding.from, &reencoding.from_blocks), (reencoding.own.handle, &reencoding.own.blocks)]
    });
    let all = owned.chain(moved);
    all.flat_map(|(handle, blocks)| blocks.iter().map(move |&block| (block, handle))).collect()
}
