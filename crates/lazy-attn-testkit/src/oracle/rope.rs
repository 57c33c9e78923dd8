//! Rotary frequencies and rotation, from the published formulas.

use std::f64::consts::TAU;

use super::config::{Pairing, Rope, RopeKind};

/// Angular frequency of each rotated pair, `[rotary_dim / 2]`.
#[must_use]
pub fn frequencies(rope: &Rope) -> Vec<f64> {
    let num_pairs = rope.rotary_dim / 2;
    let plain = |pair: usize| rope.theta.powf(-2.0 * pair as f64 / rope.rotary_dim as f64);
    (0..num_pairs).map(|pair| scaled(rope, pair, plain(pair))).collect()
}

fn scaled(rope: &Rope, pair: usize, plain: f64) -> f64 {
    match rope.kind {
        RopeKind::Default => plain,
        RopeKind::Linear { factor } => plain / factor,
        RopeKind::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let turns = original_context * plain / TAU;
            // Fewer turns than `low_freq_factor`: interpolated; more than `high_freq_factor`: kept; a ramp between.
            let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            kept * plain + (1.0 - kept) * plain / factor
        }
        RopeKind::Yarn { factor, original_context, beta_fast, beta_slow, truncate, .. } => {
            let last = rope.rotary_dim as f64 - 1.0;
            let (mut low, mut high) = (
                pair_of_turns(rope, original_context, beta_fast),
                pair_of_turns(rope, original_context, beta_slow),
            );
            if truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min(last));
            // The reference implementation widens an empty ramp by this much.
            let width = if high > low { high - low } else { 0.001 };
            let interpolated = ((pair as f64 - low) / width).clamp(0.0, 1.0);
            interpolated * plain / factor + (1.0 - interpolated) * plain
        }
    }
}

/// The (fractional) pair that makes `turns` turns over `context` positions.
fn pair_of_turns(rope: &Rope, context: f64, turns: f64) -> f64 {
    rope.rotary_dim as f64 * (context / (turns * TAU)).ln() / (2.0 * rope.theta.ln())
}

/// Rotates one head in place to `position`, from frequencies made by [`frequencies`].
pub fn rotate(rope: &Rope, frequencies: &[f64], position: u32, head: &mut [f64]) {
    rotate_by(rope, frequencies, f64::from(position), head);
}

pub(crate) fn rotate_by(rope: &Rope, frequencies: &[f64], distance: f64, head: &mut [f64]) {
    let gain = match rope.kind {
        RopeKind::Yarn { attention_factor, .. } => attention_factor,
        _ => 1.0,
    };
    let num_pairs = rope.rotary_dim / 2;
    for (pair, frequency) in frequencies.iter().enumerate() {
        let (a, b) = match rope.pairing {
            Pairing::HalfSplit => (pair, pair + num_pairs),
            Pairing::Interleaved => (2 * pair, 2 * pair + 1),
        };
        let (sin, cos) = (distance * frequency).sin_cos();
        let (x, y) = (head[a], head[b]);
        head[a] = gain * (x * cos - y * sin);
        head[b] = gain * (x * sin + y * cos);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(kind: RopeKind) -> Rope {
        Rope { theta: 10000.0, rotary_dim: 8, pairing: Pairing::HalfSplit, kind }
    }

    fn check(kind: RopeKind, expected: [f64; 4]) {
        let got = frequencies(&rope(kind));
        for (a, b) in got.iter().zip(expected) {
            assert!((a - b).abs() <= 1e-12 * b, "{kind:?}: {got:?}");
        }
    }

    #[test]
    fn frequencies_are_those_of_the_formulas_worked_by_hand() {
        check(RopeKind::Default, [1.0, 0.1, 0.01, 0.001]);
        check(RopeKind::Linear { factor: 4.0 }, [0.25, 0.025, 0.0025, 0.00025]);
        // 2 pi over 6283.18.. = 1000 turns of pair 0, 100, 10, 1: bounds 5 and 15 put pair 2 half way.
        let original_context = TAU * 1000.0;
        let (low_freq_factor, high_freq_factor) = (5.0, 15.0);
        let llama3 = RopeKind::Llama3 { factor: 2.0, low_freq_factor, high_freq_factor, original_context };
        check(llama3, [1.0, 0.1, 0.5 * 0.01 + 0.5 * 0.005, 0.0005]);
        // 100 turns are pair 1 and 1 turn is pair 3, so pair 2 is half way.
        let yarn = |truncate| RopeKind::Yarn {
            factor: 2.0,
            original_context,
            beta_fast: 100.0,
            beta_slow: 1.0,
            attention_factor: 1.0,
            truncate,
        };
        check(yarn(false), [1.0, 0.1, 0.0075, 0.0005]);
    }

    #[test]
    fn scores_depend_on_the_distance_only() {
        let rope = rope(RopeKind::Linear { factor: 1.5 });
        let freqs = frequencies(&rope);
        let score = |p: u32, i: u32| {
            let mut q = [0.3, -1.0, 0.7, 0.2, 1.1, -0.4, 0.9, 0.5];
            let mut k = [0.8, 0.1, -0.6, 0.4, -0.2, 1.3, 0.6, -0.9];
            rotate(&rope, &freqs, p, &mut q);
            rotate(&rope, &freqs, i, &mut k);
            q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>()
        };
        assert!((score(90, 17) - score(1090, 1017)).abs() < 1e-12);
        assert!((score(90, 17) - score(90, 18)).abs() > 1e-3);
    }
}
