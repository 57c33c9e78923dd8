//! What a row sees, as one number.

use crate::rng::mix64;

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The value of a token before it has seen anything.
pub(super) fn token_hash(token: u32) -> u64 {
    mix64(u64::from(token) + GOLDEN)
}

/// One visible key at `distance` = reader's position - key's position. Summed over all keys, as attention is: the
/// order in which keys are listed does not matter, their positions do.
pub(super) fn seen(key: u64, distance: i64) -> u64 {
    mix64(key ^ (distance as u64).wrapping_mul(GOLDEN))
}

/// Closes a sum of [`seen`] terms for a reader with value `own`.
pub(super) fn close(own: u64, sum: u64) -> u64 {
    mix64(own.wrapping_mul(3).wrapping_add(sum))
}

/// Logit of `token` for a row with hash `row`: uniform in [-8, 8).
pub(super) fn logit(row: u64, token: u32) -> f32 {
    let bits = mix64(row ^ u64::from(token).wrapping_mul(GOLDEN)) >> 40;
    bits as f32 / (1u32 << 24) as f32 * 16.0 - 8.0
}

/// All logits of a row.
pub(super) fn logits(row: u64, vocab_size: u32) -> impl Iterator<Item = f32> {
    (0..vocab_size).map(move |token| logit(row, token))
}
