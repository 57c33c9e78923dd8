//! Opaque ids and units. An index, a count and a size are different types; conversions are named.

use std::fmt;
use std::time::Duration;

/// A token of the model's vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct TokenId(pub u32);

/// A logical position: what RoPE sees. Never an address; see [`BlockId`] for where a token's KV lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct Position(pub u32);

impl Position {
    /// Largest position the engine accepts: 2^30, so that sums and differences stay inside `i32`.
    pub const MAX: Position = Position(1 << 30);

    /// The position `num_tokens` places later.
    #[must_use]
    pub fn advance(self, num_tokens: u32) -> Position {
        Position(self.0 + num_tokens)
    }
}

/// One KV block of the pool: `block_size` slots in every layer and KV head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct BlockId(pub u32);

/// What a client asked; one request may run several sequences (`n > 1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// One stream of tokens of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request-{}", self.0)
    }
}

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sequence-{}", self.0)
    }
}

/// Microseconds on the injected clock; the control plane knows no other time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Microseconds from `earlier` to `self`, zero when the order is reversed.
    #[must_use]
    pub fn micros_since(self, earlier: Timestamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `delay` after it; the end of time if that is out of range.
    #[must_use]
    pub fn after(self, delay: Duration) -> Timestamp {
        let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        Timestamp(self.0.saturating_add(micros))
    }
}

/// Tokens per KV block: a power of two from 1 to 256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockSize(u32);

impl BlockSize {
    /// The size used where nobody asks for another one: short documents waste little of their last block.
    pub const DEFAULT: BlockSize = BlockSize(16);

    /// Checks that `num_tokens` is a power of two from 1 to 256; `None` otherwise.
    #[must_use]
    pub const fn new(num_tokens: u32) -> Option<BlockSize> {
        if num_tokens.is_power_of_two() && num_tokens <= 256 { Some(BlockSize(num_tokens)) } else { None }
    }

    /// Tokens per block.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// Blocks needed to hold `num_tokens`; a partly filled block still costs a block.
    #[must_use]
    pub fn blocks_for(self, num_tokens: u32) -> u32 {
        num_tokens.div_ceil(self.0)
    }

    /// Splits a segment-local token index into (entry of the block list, slot in that block).
    #[must_use]
    pub fn locate(self, local_index: u32) -> (u32, u32) {
        (local_index / self.0, local_index % self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_powers_of_two_up_to_256_are_block_sizes() {
        let valid: Vec<u32> = (0..=1024).filter(|&n| BlockSize::new(n).is_some()).collect();
        assert_eq!(valid, [1, 2, 4, 8, 16, 32, 64, 128, 256]);
    }

    proptest! {
        #[test]
        fn blocks_cover_all_tokens_with_less_than_one_block_spare(n in 0u32..1 << 20, log2 in 0u32..=8) {
            let size = BlockSize(1 << log2);
            prop_assert!(size.blocks_for(n) * size.get() - n < size.get());
        }

        #[test]
        fn locating_a_token_and_going_back_is_the_identity(n in 0u32..1 << 30, log2 in 0u32..=8) {
            let size = BlockSize(1 << log2);
            let (entry, slot) = size.locate(n);
            prop_assert!(slot < size.get());
            prop_assert_eq!(entry * size.get() + slot, n);
        }
    }
}
