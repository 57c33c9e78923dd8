//! Single flight: a segment that several sequences need is filled for one of them, and the others wait.

use std::collections::{BTreeMap, VecDeque};

use lazy_attn_types::{SegmentHandle, SegmentKind, SequenceId};

/// A segment being filled.
#[derive(Debug)]
struct Fill {
    kind: SegmentKind,
    /// The sequence its work is done for.
    leader: SequenceId,
    /// Those that wait for it, in the order in which they joined.
    followers: VecDeque<SequenceId>,
}

/// Every segment being filled.
#[derive(Debug, Default)]
pub(crate) struct Fills {
    by_handle: BTreeMap<SegmentHandle, Fill>,
}

impl Fills {
    /// Leads the fill of `handle`, or follows the one that does.
    pub(crate) fn join(&mut self, handle: SegmentHandle, kind: SegmentKind, sequence: SequenceId) {
        let fill = self.by_handle.entry(handle).or_insert_with(|| Fill {
            kind,
            leader: sequence,
            followers: VecDeque::new(),
        });
        if fill.leader != sequence && !fill.followers.contains(&sequence) {
            fill.followers.push_back(sequence);
        }
    }

    /// The sequence that `handle` is filled for.
    pub(crate) fn leader(&self, handle: SegmentHandle) -> Option<SequenceId> {
        self.by_handle.get(&handle).map(|fill| fill.leader)
    }

    /// The segment is complete: nobody waits any more.
    pub(crate) fn complete(&mut self, handle: SegmentHandle) {
        self.by_handle.remove(&handle);
    }

    /// `sequence` ends. If it led, the longest waiting follower leads now and keeps the progress.
    pub(crate) fn leave(&mut self, handle: SegmentHandle, sequence: SequenceId) {
        let Some(fill) = self.by_handle.get_mut(&handle) else { return };
        fill.followers.retain(|&follower| follower != sequence);
        if fill.leader == sequence {
            match fill.followers.pop_front() {
                Some(follower) => fill.leader = follower,
                None => self.complete(handle),
            }
        }
    }

    pub(crate) fn any_document(&self) -> bool {
        self.by_handle.values().any(|fill| fill.kind == SegmentKind::Document)
    }

    pub(crate) fn leaders(&self) -> impl Iterator<Item = (SegmentHandle, SequenceId)> {
        self.by_handle.iter().map(|(&handle, fill)| (handle, fill.leader))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: SegmentHandle = SegmentHandle(1);

    fn filled_for(sequences: &[u64]) -> Fills {
        let mut fills = Fills::default();
        for &sequence in sequences {
            fills.join(SEGMENT, SegmentKind::Document, SequenceId(sequence));
        }
        fills
    }

    #[test]
    fn the_longest_waiting_follower_is_promoted() {
        let mut fills = filled_for(&[1, 2, 3, 2, 1]);
        fills.leave(SEGMENT, SequenceId(1));
        assert_eq!(fills.leader(SEGMENT), Some(SequenceId(2)));
        fills.leave(SEGMENT, SequenceId(3));
        assert_eq!(fills.leader(SEGMENT), Some(SequenceId(2)));
        fills.leave(SEGMENT, SequenceId(2));
        assert_eq!(fills.leader(SEGMENT), None);
    }

    #[test]
    fn a_follower_that_left_is_never_promoted() {
        let mut fills = filled_for(&[1, 2, 3]);
        fills.leave(SEGMENT, SequenceId(2));
        fills.leave(SEGMENT, SequenceId(1));
        assert_eq!(fills.leader(SEGMENT), Some(SequenceId(3)));
    }
}
