//! Rotary frequencies of published models.

use lazy_attn_testkit::oracle::rope::frequencies;
use lazy_attn_testkit::oracle::{Pairing, Rope, RopeKind};

use crate::support::rope;

fn published() -> [(&'static str, f64, RopeKind); 5] {
    let llama3 = |factor| RopeKind::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192.0,
    };
    let yarn = RopeKind::Yarn {
        factor: 4.0,
        original_context: 32768.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: 1.125,
        truncate: true,
    };
    [
        ("Llama 2", 10_000.0, RopeKind::Default),
        ("Llama 2, twice as long", 10_000.0, RopeKind::Linear { factor: 2.0 }),
        ("Llama 3.1", 500_000.0, llama3(8.0)),
        ("Llama 3.2", 500_000.0, llama3(32.0)),
        ("Qwen 2.5", 1_000_000.0, yarn),
    ]
}

#[test]
fn frequencies_of_published_models_are_those_of_the_formulas() {
    for (name, theta, kind) in published() {
        let oracle = Rope { theta, rotary_dim: 128, pairing: Pairing::HalfSplit, kind };
        let got = rope(&oracle).inv_freq();
        let expected = frequencies(&oracle);
        assert_eq!(got.len(), expected.len(), "{name}");
        // A float32 power is off by ln(theta) roundoffs of its exponent, at most 14; a ramp adds a handful.
        let bound = (theta.ln() + 8.0) / f64::from(1u32 << 24);
        for (pair, (got, expected)) in got.iter().zip(expected).enumerate() {
            let error = (f64::from(*got) / expected - 1.0).abs();
            assert!(error <= bound, "{name}, pair {pair}: {got} is not {expected} within {bound}");
        }
    }
}
