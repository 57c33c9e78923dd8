//! What the fake executor must choose, from the logical context alone: no blocks, no runs, no reuse.

use lazy_attn_types::{AttentionMode, TokenId};

use super::hash::{close, logits, seen, token_hash};
use crate::driver::{extended, greedy_token};
use crate::part::{Part, Placed, Spot, distance, place, sees, spots};

/// Greedy continuation of `parts` by `num_tokens` tokens, as [`super::FakeExecutor`] must give it.
#[must_use]
pub fn expected_tokens(
    parts: &[Part],
    mode: AttentionMode,
    vocab_size: u32,
    num_tokens: usize,
) -> Vec<TokenId> {
    expected_placed(place(parts, mode), None, vocab_size, num_tokens)
}

/// The same for a placed context and a sliding window.
///
/// # Panics
/// If the context is empty.
#[must_use]
pub fn expected_placed(
    mut context: Vec<Placed>,
    sliding_window: Option<u32>,
    vocab_size: u32,
    num_tokens: usize,
) -> Vec<TokenId> {
    let mut states: Vec<u64> = Vec::new();
    let mut tokens = Vec::with_capacity(num_tokens);
    while tokens.len() < num_tokens {
        let all = spots(&context);
        for reader in &all[states.len()..] {
            let values = all.iter().map(|key| token_hash(key.token.0));
            let own = token_hash(reader.token.0);
            states.push(close(own, sum_seen(reader, &all, values, sliding_window)));
        }
        assert!(!all.is_empty(), "a context has at least one token");
        let last = all.len() - 1;
        let sum = sum_seen(&all[last], &all, states.iter().copied(), sliding_window);
        let row: Vec<f32> = logits(close(states[last], sum), vocab_size).collect();
        tokens.push(greedy_token(&row));
        context = extended(context, &tokens[tokens.len() - 1..]);
    }
    tokens
}

fn sum_seen(
    reader: &Spot,
    keys: &[Spot],
    values: impl Iterator<Item = u64>,
    sliding_window: Option<u32>,
) -> u64 {
    let visible = keys.iter().zip(values).filter(|(key, _)| sees(reader, key, sliding_window));
    visible.fold(0, |sum: u64, (key, value)| sum.wrapping_add(seen(value, distance(reader, key))))
}
