//! Blocks whose keys are wanted at other positions, as a step asks for them.

use std::collections::HashSet;
use std::ops::Range;

use lazy_attn_types::{BlockId, BlockSize, StepInput};

/// A block to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCopy {
    /// What is read.
    pub from: BlockId,
    /// What is written; the same to rotate keys where they are.
    pub to: BlockId,
    /// What its keys are rotated by when they are re-encoded.
    pub distance: i32,
}

/// The blocks that a valid `input` re-encodes, one after the other.
#[must_use]
pub fn reencoded_blocks(input: &StepInput, block_size: BlockSize) -> Vec<BlockCopy> {
    let blocks = input.reencodings.iter().flat_map(|reencoding| {
        let (from, to) = input.blocks_of_reencoding(reencoding, block_size);
        let distance = reencoding.distance;
        from.iter().zip(to).map(move |(&from, &to)| BlockCopy { from, to, distance })
    });
    blocks.collect()
}

/// Cuts `copies` so that those of a range may be done in any order: no block is written by one and read or written by
/// another.
#[must_use]
pub fn independent(copies: &[BlockCopy]) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut begin = 0;
    let (mut read, mut written) = (HashSet::new(), HashSet::new());
    for (index, copy) in copies.iter().enumerate() {
        if written.contains(&copy.from) || written.contains(&copy.to) || read.contains(&copy.to) {
            ranges.push(begin..index);
            begin = index;
            read.clear();
            written.clear();
        }
        read.insert(copy.from);
        written.insert(copy.to);
    }
    if begin < copies.len() {
        ranges.push(begin..copies.len());
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy((from, to): (u32, u32)) -> BlockCopy {
        BlockCopy { from: BlockId(from), to: BlockId(to), distance: 1 }
    }

    #[test]
    fn copies_are_cut_where_one_needs_another_to_be_done_before() {
        // Copies, and how many there are before each cut.
        let check = |copies: &[(u32, u32)], ends: &[usize]| {
            let copies: Vec<BlockCopy> = copies.iter().copied().map(copy).collect();
            let ranges = independent(&copies);
            let begins: Vec<usize> = ranges.iter().map(|range| range.start).collect();
            assert_eq!(ranges.iter().map(|range| range.end).collect::<Vec<_>>(), ends, "{copies:?}");
            assert!(
                begins.iter().skip(1).eq(&ends[..ends.len().saturating_sub(1)]),
                "they follow each other"
            );
        };
        check(&[], &[]);
        check(&[(0, 1), (0, 2), (3, 3)], &[3]);
        check(&[(0, 1), (1, 2)], &[1, 2]);
        check(&[(0, 0), (0, 1), (0, 2)], &[1, 3]);
        check(&[(0, 1), (2, 0)], &[1, 2]);
        check(&[(0, 1), (2, 1), (3, 4)], &[1, 3]);
    }
}
