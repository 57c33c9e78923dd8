//! Which tokens of a document a copy of it gets most wrong, as far as that was measured.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lazy_attn_types::{BlockSize, SegmentKey, TokenRange};

/// Blocks of all rankings that are kept, at four bytes each.
const MAX_BLOCKS: usize = 1 << 20;

/// Shared by the loop, which measures, and by intake, which chooses.
#[derive(Debug, Default)]
pub(crate) struct Rankings(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Blocks of a document, those whose keys deviate most first.
    by_key: HashMap<SegmentKey, Arc<[u32]>>,
    /// In the order in which they came; the first to go first.
    order: VecDeque<SegmentKey>,
    num_blocks: usize,
    /// Why the executor measures nothing.
    refusal: Option<String>,
}

impl Rankings {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves whole entries behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing can be measured, if the executor said so.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.inner().refusal.clone()
    }

    pub(crate) fn refuse(&self, reason: String) {
        self.inner().refusal = Some(reason);
    }

    /// Keeps what was measured of the document `key`: the deviation of each of its blocks.
    pub(crate) fn insert(&self, key: SegmentKey, deviation: &[f32]) {
        let mut blocks: Vec<u32> = (0..deviation.len() as u32).collect();
        blocks.sort_by(|&a, &b| deviation[b as usize].total_cmp(&deviation[a as usize]));
        let mut inner = self.inner();
        if blocks.len() > MAX_BLOCKS || inner.by_key.contains_key(&key) {
            return;
        }
        inner.num_blocks += blocks.len();
        inner.by_key.insert(key, blocks.into());
        inner.order.push_back(key);
        while inner.num_blocks > MAX_BLOCKS {
            let Some(oldest) = inner.order.pop_front() else { return };
            let gone = inner.by_key.remove(&oldest).map_or(0, |blocks| blocks.len());
            inner.num_blocks -= gone;
        }
    }

    /// The `percent` of the blocks of the document `key` that deviate most, as ascending ranges of its `num_tokens` tokens;
    /// nothing if it was not measured.
    pub(crate) fn choose(
        &self,
        key: SegmentKey,
        percent: u32,
        (num_tokens, block_size): (u32, BlockSize),
    ) -> Option<Vec<TokenRange>> {
        let blocks = Arc::clone(self.inner().by_key.get(&key)?);
        let num_chosen = (blocks.len() as u64 * u64::from(percent)).div_ceil(100) as usize;
        let mut chosen: Vec<u32> = blocks[..num_chosen.min(blocks.len())].to_vec();
        chosen.sort_unstable();
        let mut ranges: Vec<TokenRange> = Vec::new();
        for block in chosen {
            let first = block * block_size.get();
            let end = (first + block_size.get()).min(num_tokens);
            match ranges.last_mut() {
                Some(last) if last.end == first => last.end = end,
                _ => ranges.push(TokenRange { first, end }),
            }
        }
        Some(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: u32) -> SegmentKey {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&name.to_le_bytes());
        SegmentKey::from_bytes(bytes)
    }

    fn chosen(rankings: &Rankings, percent: u32) -> Vec<(u32, u32)> {
        let size = (70, BlockSize::DEFAULT);
        let ranges = rankings.choose(key(1), percent, size).unwrap();
        ranges.into_iter().map(|range| (range.first, range.end)).collect()
    }

    #[test]
    fn the_blocks_that_deviate_most_are_chosen_and_neighbours_are_one_range() {
        let rankings = Rankings::default();
        rankings.insert(key(1), &[0.9, 0.1, 0.2, 0.0, 0.5]);
        assert_eq!(chosen(&rankings, 0), []);
        assert_eq!(chosen(&rankings, 1), [(0, 16)]);
        assert_eq!(chosen(&rankings, 40), [(0, 16), (64, 70)]);
        assert_eq!(chosen(&rankings, 60), [(0, 16), (32, 48), (64, 70)]);
        assert_eq!(chosen(&rankings, 80), [(0, 48), (64, 70)]);
        assert_eq!(chosen(&rankings, 100), [(0, 70)]);
        assert_eq!(rankings.choose(key(2), 10, (70, BlockSize::DEFAULT)), None);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let rankings = Rankings::default();
        let half = vec![0.0; MAX_BLOCKS / 2];
        (0..2).for_each(|name| rankings.insert(key(name), &half));
        let is_known = |name| rankings.choose(key(name), 0, (1, BlockSize::DEFAULT)).is_some();
        assert!(is_known(0) && is_known(1));
        rankings.insert(key(2), &[0.0]);
        assert!(!is_known(0) && is_known(1) && is_known(2));
        rankings.insert(key(3), &vec![0.0; MAX_BLOCKS + 1]);
        assert!(!is_known(3) && is_known(1), "what is larger than everything is not kept");
    }
}
