//! Documents that come to another position.

use super::{ExecError, ExecutorInfo, SegmentHandle, StepInput};
use crate::{BlockId, BlockSize, StoredKeys};

/// Tokens whose KV is wanted at another position: values as they are, keys rotated by `distance`,
/// `R(distance) R(p) k = R(p + distance) k`.
///
/// Reencodings of a step are done one after the other: one may read what an earlier one wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reencoding {
    /// Storage that is read.
    pub from: SegmentHandle,
    /// First entry of its block list in [`StepInput::block_ids`].
    pub from_block: u32,
    /// Storage that is written: another one that shares no block with the first, or the same.
    pub to: SegmentHandle,
    /// First entry of its block list.
    pub to_block: u32,
    /// Tokens, at least one, from the first of both on.
    pub num_tokens: u32,
    /// New position less old one.
    pub distance: i32,
}

impl StepInput {
    /// The blocks that `reencoding` reads and those that it writes, in order.
    #[must_use]
    pub fn blocks_of_reencoding(
        &self,
        reencoding: &Reencoding,
        block_size: BlockSize,
    ) -> (&[BlockId], &[BlockId]) {
        let num_blocks = block_size.blocks_for(reencoding.num_tokens) as usize;
        let blocks = |first: u32| &self.block_ids[first as usize..][..num_blocks];
        (blocks(reencoding.from_block), blocks(reencoding.to_block))
    }

    pub(super) fn validate_reencodings(&self, info: &ExecutorInfo) -> Result<(), ExecError> {
        let invalid = |what: &str| Err(ExecError::InvalidStep(what.into()));
        if !self.reencodings.is_empty() && self.stored_keys == StoredKeys::Raw {
            return invalid("it re-encodes keys that are not rotated");
        }
        for reencoding in &self.reencodings {
            let num_blocks = u64::from(info.block_size.blocks_for(reencoding.num_tokens));
            let fits = |first: u32| u64::from(first) + num_blocks <= self.block_ids.len() as u64;
            if reencoding.num_tokens == 0 || !fits(reencoding.from_block) || !fits(reencoding.to_block) {
                return invalid("it re-encodes nothing, or blocks outside its list");
            }
            let (from, to) = self.blocks_of_reencoding(reencoding, info.block_size);
            if from.iter().chain(to).any(|block| block.0 >= info.num_blocks) {
                return invalid("it re-encodes blocks outside the pool");
            }
            let is_same = reencoding.from == reencoding.to;
            if is_same != (from == to) || (!is_same && to.iter().any(|block| from.contains(block))) {
                return invalid("it re-encodes blocks into each other");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{info, step};
    use super::*;

    /// Block 3 is copied to block 1.
    fn copying() -> StepInput {
        let (from, to) = (SegmentHandle(1), SegmentHandle(2));
        let copy = Reencoding { from, from_block: 0, to, to_block: 1, num_tokens: 2, distance: -5 };
        StepInput { block_ids: vec![BlockId(3), BlockId(1)], reencodings: vec![copy], ..step() }
    }

    #[test]
    fn a_reencoding_stays_inside_the_pool_and_between_two_segments() {
        let info = ExecutorInfo { stored_keys: &[StoredKeys::Rotated, StoredKeys::Raw], ..info() };
        copying().validate(&info).unwrap();
        assert_eq!(
            copying().blocks_of_reencoding(&copying().reencodings[0], info.block_size),
            (&[BlockId(3)][..], &[BlockId(1)][..])
        );
        let breaks: [fn(&mut StepInput); 6] = [
            |s| s.stored_keys = StoredKeys::Raw,
            |s| s.reencodings[0].num_tokens = 0,
            |s| s.reencodings[0].num_tokens = 17,
            |s| s.reencodings[0].to_block = 2,
            |s| s.block_ids[1] = BlockId(4),
            |s| s.block_ids[1] = BlockId(3),
        ];
        for (index, change) in breaks.into_iter().enumerate() {
            let mut broken = copying();
            change(&mut broken);
            assert!(broken.validate(&info).is_err(), "case {index} passed");
        }
    }
}
