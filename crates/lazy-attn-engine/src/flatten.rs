//! A plan as the arrays of the executor. Pure.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use lazy_attn_sched::{PlacedSegment, PlannedReencoding, PlannedRun, RunTokens, StepPlan};
use lazy_attn_types::{
    BlockId, CarriedToken, Reencoding, Run, SegmentHandle, SegmentView, StepInput, TokenRange,
};

/// Lays `plan` out; the block list of a segment that several runs read is stored once.
#[must_use]
pub fn flatten(plan: &StepPlan) -> StepInput {
    let mut flattener = Flattener::default();
    flattener.input.segments.reserve(plan.runs.iter().map(|run| run.num_earlier + 1).sum());
    for run in &plan.runs {
        flattener.push(run);
    }
    for reencoding in &plan.reencodings {
        flattener.push_reencoding(reencoding);
    }
    flattener.input
}

#[derive(Default)]
struct Flattener {
    input: StepInput,
    first_blocks: HashMap<SegmentHandle, u32, BuildHasherDefault<HandleHasher>>,
}

/// Handles are numbered by the cache, not by clients, so multiplying spreads them well enough; a step of many sequences
/// over many documents looks thousands of them up.
#[derive(Default)]
struct HandleHasher(u64);

impl Hasher for HandleHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u64(&mut self, number: u64) {
        // 2^64 over the golden ratio; the table takes its index from the low bits and its tag from the high ones.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Flattener {
    fn push(&mut self, run: &PlannedRun) {
        // Entries are counted in `u32`: a step has at most 2^32 tokens, views and blocks.
        let first_token = self.input.tokens.len() as u32;
        let first_segment = self.input.segments.len() as u32;
        for segment in run.earlier() {
            self.push_view(segment, segment.seen);
        }
        self.push_view(&run.own, TokenRange::whole(run.own.num_tokens));
        self.input.tokens.extend_from_slice(run.tokens());
        if let RunTokens::Carried { row } = run.source {
            self.input.carried.push(CarriedToken { token: first_token, row });
        }
        self.input.runs.push(Run {
            first_token,
            num_tokens: run.num_tokens,
            first_segment,
            num_segments: self.input.segments.len() as u32 - first_segment,
            first_local: run.first_local,
        });
        if run.work.wants_logits() {
            self.input.output_tokens.push(first_token + run.num_tokens - 1);
        }
    }

    fn push_reencoding(&mut self, reencoding: &PlannedReencoding) {
        let PlannedReencoding { from, from_blocks, own, distance, .. } = reencoding;
        let (from_block, to_block) =
            (self.first_block(*from, from_blocks), self.first_block(own.handle, &own.blocks));
        self.input.reencodings.push(Reencoding {
            from: *from,
            from_block,
            to: own.handle,
            to_block,
            num_tokens: own.num_tokens,
            distance: *distance,
        });
    }

    fn first_block(&mut self, handle: SegmentHandle, blocks: &[BlockId]) -> u32 {
        let block_ids: &mut Vec<BlockId> = &mut self.input.block_ids;
        *self.first_blocks.entry(handle).or_insert_with(|| {
            let first = block_ids.len() as u32;
            block_ids.extend_from_slice(blocks);
            first
        })
    }

    fn push_view(&mut self, segment: &PlacedSegment, seen: TokenRange) {
        let first_block = self.first_block(segment.handle, &segment.blocks);
        self.input.segments.push(SegmentView {
            handle: segment.handle,
            first_block,
            num_blocks: segment.blocks.len() as u32,
            first_seen: seen.first,
            num_tokens: seen.end,
            start: segment.start,
            origin: segment.origin,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lazy_attn_sched::Work;
    use lazy_attn_types::{Position, SequenceId, TokenId};

    use super::*;

    fn segment(handle: u64, blocks: &[u32], num_tokens: u32, start: u32) -> PlacedSegment {
        PlacedSegment {
            handle: SegmentHandle(handle),
            blocks: blocks.iter().copied().map(BlockId).collect(),
            num_tokens,
            seen: TokenRange::whole(num_tokens),
            start: Position(start),
            origin: Position(start),
        }
    }

    fn plan(runs: Vec<PlannedRun>) -> StepPlan {
        StepPlan {
            step: 0,
            runs,
            reencodings: Vec::new(),
            preempted: Vec::new(),
            resumed: Vec::new(),
            admitted: Vec::new(),
            filled: Vec::new(),
            rejected: Vec::new(),
            num_running: 2,
            num_waiting: 0,
            max_tokens: 16,
        }
    }

    #[test]
    fn a_document_two_sequences_read_at_different_places_has_one_block_list() {
        let tail = |sequence: u64, token, start, own: PlacedSegment| PlannedRun {
            sequence: SequenceId(sequence),
            work: Work::Decode,
            source: RunTokens::OfTail(TokenId(token)),
            first_local: own.num_tokens - 1,
            num_tokens: 1,
            context: Arc::new([segment(1, &[7, 8], 5, start)]),
            num_earlier: 1,
            own,
        };
        let input = flatten(&plan(vec![
            tail(1, 40, 0, segment(2, &[9], 1, 5)),
            tail(2, 41, 30, segment(3, &[4], 2, 35)),
        ]));
        assert_eq!(input.tokens, [TokenId(40), TokenId(41)]);
        assert_eq!(input.block_ids, [7, 8, 9, 4].map(BlockId));
        let views: Vec<_> =
            input.segments.iter().map(|view| (view.handle.0, view.first_block, view.start.0)).collect();
        assert_eq!(views, [(1, 0, 0), (2, 2, 5), (1, 0, 30), (3, 3, 35)]);
        let runs: Vec<_> =
            input.runs.iter().map(|run| (run.first_token, run.first_segment, run.first_local)).collect();
        assert_eq!(runs, [(0, 0, 0), (1, 2, 1)]);
        assert_eq!(input.output_tokens, [0, 1]);
    }

    #[test]
    fn a_chunk_of_a_segment_takes_its_tokens_and_wants_no_logits() {
        let own = PlacedSegment { num_tokens: 5, ..segment(1, &[3, 1], 7, 0) };
        let input = flatten(&plan(vec![PlannedRun {
            sequence: SequenceId(1),
            work: Work::Encode,
            source: RunTokens::OfSegment((10..17).map(TokenId).collect()),
            first_local: 2,
            num_tokens: 3,
            context: Arc::new([segment(9, &[0], 1, 0)]),
            num_earlier: 0,
            own,
        }]));
        assert_eq!(input.tokens, [12, 13, 14].map(TokenId));
        assert_eq!((input.segments.len(), input.segments[0].num_tokens), (1, 5));
        assert!(input.output_tokens.is_empty());
    }
}
