//! What the engine does between two steps of 256 sequences over ten documents each, beside the time that the cost model of
//! an 8B model on an H100 gives the step. The executor takes no time, so the engine's time is what the clock shows.

#![allow(clippy::unwrap_used)] // a bench stops where its setup fails

#[path = "../tests/common/busy.rs"]
mod busy;
#[path = "../tests/common/vocab.rs"]
#[allow(dead_code)] // the bench uses its own part of this
mod vocab;

use busy::{busy_steps, percentile};
use lazy_attn_types::Capability;

/// Vocabularies with tokens to generate, that of the test's tokenizer and that of Llama 3, and who draws them.
const CASES: [(u32, u32, Capability); 3] =
    [(258, 400, Capability::Logits), (128_256, 40, Capability::Logits), (128_256, 400, Capability::Samples)];

fn main() {
    println!("256 decodes, 10 of 64 documents of 512 tokens each, greedy; modelled: 8B in bf16 on an H100");
    for (vocab_size, max_tokens, capability) in CASES {
        let steps = busy_steps(vocab_size, max_tokens, capability);
        let modelled = percentile(&steps, 50, |step| step.modelled);
        let [fast, median, slow] =
            [10, 50, 90].map(|percent| percentile(&steps, percent, |step| step.between));
        let share = 100.0 * fast.as_secs_f64() / modelled.as_secs_f64();
        println!(
            "vocabulary {vocab_size}, executor gives {capability:?}: {} steps, between two {fast:?} (p10; p50 {median:?}, p90 {slow:?}), step {modelled:?}: {share:.1} %",
            steps.len()
        );
    }
}
