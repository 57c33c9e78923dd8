//! How far float32 may be from float64, derived and not tuned.

use lazy_attn_testkit::fixture::GoldenCase;
use lazy_attn_testkit::oracle::{KvNoise, Oracle, OracleConfig};

/// Unit roundoff of float32.
const F32_ROUNDOFF: f64 = 1.0 / (1u64 << 24) as f64;
/// Unit roundoff of bfloat16: 8 significant bits.
pub(crate) const BF16_ROUNDOFF: f64 = 1.0 / 512.0;
/// Unit roundoff of float16: 11 significant bits.
pub(crate) const F16_ROUNDOFF: f64 = 1.0 / 4096.0;

/// Bound on the error of a logit, relative to the largest one.
///
/// A float32 sum of `n` terms is off by at most `n` roundoffs of the sum of their magnitudes. The reductions that a
/// logit passes through one after the other are, per layer, two norms and the q/k/v projection over `hidden_size`, a
/// score over `head_dim`, the softmax and the mix of values over the context, the output projection over the query
/// heads, and the feed-forward layer over `hidden_size` and `ffn_size`; then the last norm and the head. Their lengths
/// add up. Frequencies are rounded to float32, so an angle is off by at most `context` roundoffs, which counts as one
/// more reduction over the context. Growth of an error inside a layer (sharp attention) and its decay (rounding
/// errors of both signs) are left out: they pull in opposite directions, and the sum of worst cases has room.
pub(crate) fn relative(config: &OracleConfig, num_tokens: usize) -> f64 {
    let c = config;
    let attention = 3 * num_tokens + c.head_dim + c.num_q_heads * c.head_dim;
    let layer = 4 * c.hidden_size + attention + c.ffn_size;
    F32_ROUNDOFF * (c.num_layers * layer + 2 * c.hidden_size) as f64
}

/// The bound for `case`, in logits.
pub(crate) fn of_case(config: &OracleConfig, case: &GoldenCase) -> f64 {
    let num_tokens: usize = case.prompt().iter().map(|part| part.tokens.len()).sum();
    // The golden file keeps the largest logits, largest first.
    relative(config, num_tokens + case.greedy.len()) * case.top[0].1.abs()
}

/// What rounding every key and value to a dtype of `roundoff` may do to the logits of `forward`.
///
/// The oracle says it: keys and values are disturbed at random by up to the roundoff, which deviates at least as much
/// as rounding does. Many small errors add up to a normal one; its deviation is the root mean square over the draws,
/// and five deviations are met by one case in a million, four (should sixteen draws underestimate it) by one in 10^4.
pub(crate) fn of_kv_dtype(oracle: &Oracle, roundoff: f64, forward: impl Fn(&Oracle) -> Vec<f64>) -> f64 {
    const NUM_DRAWS: u64 = 16;
    let exact = forward(oracle);
    let change = |seed| {
        let noisy = Oracle { kv_noise: Some(KvNoise { relative: roundoff, seed }), ..oracle.clone() };
        max_difference(&forward(&noisy), &exact)
    };
    let mean_square = (0..NUM_DRAWS).map(|seed| change(seed).powi(2)).sum::<f64>() / NUM_DRAWS as f64;
    5.0 * mean_square.sqrt()
}

/// Largest difference of two rows.
pub(crate) fn max_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "rows of one vocabulary");
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}
