//! The embedded model through the CPU executor, against logits of another implementation.
//!
//! `golden_embedded.json` was made with `transformers` (float32, eager attention) from the dequantised weights: prompts
//! in both attention modes, with the largest logits of the first new token and the greedy continuation. `golden_oracle.json` was
//! made by the float64 oracle of the test kit (`cargo xtask golden`).
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use lazy_attn::KvDtype;
use lazy_attn_models::cpu::{CpuExecutor, CpuOptions, KvBudget, WeightDtype};
use lazy_attn_models::{LoadOptions, LoadedModel, ModelRef, Silent, load};
use lazy_attn_testkit::driver::greedy_token;
use lazy_attn_testkit::fixture::GoldenCase;
use lazy_attn_testkit::{Part, Player};
use lazy_attn_types::{AttentionMode, Executor};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    mode: String,
    /// Text before the documents, the documents, text after them.
    parts: Vec<Vec<u32>>,
    top_ids: Vec<usize>,
    top_logits: Vec<f64>,
    logsumexp: f64,
    greedy: Vec<u32>,
    greedy_margin: Vec<f64>,
}

impl Case {
    fn prompt(&self) -> Vec<Part> {
        let last = self.parts.len() - 1;
        let part = |(index, ids): (usize, &Vec<u32>)| {
            if index == 0 || index == last {
                Part::text(ids.iter().copied())
            } else {
                Part::document(ids.iter().copied())
            }
        };
        self.parts.iter().enumerate().map(part).collect()
    }

    fn mode(&self) -> AttentionMode {
        if self.mode == "block" { AttentionMode::Block } else { AttentionMode::Full }
    }
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden_embedded.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn embedded() -> LoadedModel {
    load(&ModelRef::Embedded, &LoadOptions::default()).unwrap()
}

fn player(model: &LoadedModel, weight_dtype: WeightDtype, kv_dtype: KvDtype) -> Player<CpuExecutor> {
    let options = CpuOptions {
        weight_dtype,
        kv_dtype: Some(kv_dtype),
        kv_budget: KvBudget::Blocks(512),
        ..CpuOptions::default()
    };
    Player::new(CpuExecutor::new(lazy_attn_models::ModelParts::from(model), &options, &Silent).unwrap(), 1)
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|x| (f64::from(*x) - f64::from(largest)).exp()).sum();
    f64::from(largest) + sum.ln()
}

/// Largest difference of a log-probability among the reference's largest ones.
fn max_difference(case: &Case, logits: &[f32]) -> f64 {
    let shift = log_sum_exp(logits);
    let difference =
        |(&id, &logit): (&usize, &f64)| ((f64::from(logits[id]) - shift) - (logit - case.logsumexp)).abs();
    case.top_ids.iter().zip(&case.top_logits).map(difference).fold(0.0, f64::max)
}

#[test]
fn float32_log_probabilities_and_greedy_tokens_are_those_of_the_reference() {
    let model = embedded();
    let mut player = player(&model, WeightDtype::F32, KvDtype::F32);
    for case in golden().cases {
        let at = format!("{} ({})", case.name, case.mode);
        let mut played = player.play(&case.prompt(), case.mode()).unwrap();
        let difference = max_difference(&case, &played.logits);
        println!("{at}: {difference:.6}");
        // Both are float32 over sums of up to 1536 terms, 12 layers deep; the reference itself is 2e-4 from float64.
        assert!(difference < 2e-3, "{at}: a log-probability is off by {difference}");
        for (&token, &margin) in case.greedy.iter().zip(&case.greedy_margin) {
            // Behind a closer call than both errors together, two right answers may go separate ways.
            if margin < 4e-3 {
                break;
            }
            let got = greedy_token(&played.logits);
            assert_eq!(got.0, token, "{at}: greedy token with margin {margin}");
            player.advance(&mut played, got).unwrap();
        }
        player.release(played);
    }
}

#[test]
fn float32_logits_and_greedy_tokens_are_those_of_the_float64_oracle() {
    #[derive(Deserialize)]
    struct File {
        cases: Vec<GoldenCase>,
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden_oracle.json");
    let File { cases } = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(!cases.is_empty());
    let model = embedded();
    let mut player = player(&model, WeightDtype::F32, KvDtype::F32);
    for case in cases {
        let at = format!("{} ({:?})", case.name, case.mode);
        let mut played = player.play(&case.prompt(), case.mode.mode()).unwrap();
        let differences =
            case.top.iter().map(|&(id, logit)| (f64::from(played.logits[id as usize]) - logit).abs());
        let difference = differences.fold(0.0, f64::max);
        println!("{at}: {difference:.6}");
        // Float32 over sums of up to 1536 terms, 12 layers deep, as above; this reference has no error of its own.
        assert!(difference < 2e-3, "{at}: a logit is off by {difference}");
        for &(token, margin) in case.greedy.iter().take_while(|(_, margin)| *margin >= 4e-3) {
            let got = greedy_token(&played.logits);
            assert_eq!(got.0, token, "{at}: greedy token with margin {margin}");
            player.advance(&mut played, got).unwrap();
        }
        player.release(played);
    }
}

#[test]
fn weights_as_stored_and_half_precision_keys_keep_the_answer() {
    let model = embedded();
    let mut player = player(&model, WeightDtype::Auto, KvDtype::F16);
    for case in golden().cases {
        let at = format!("{} ({})", case.name, case.mode);
        let mut played = player.play(&case.prompt(), case.mode()).unwrap();
        println!("{at}: {:.6}", max_difference(&case, &played.logits));
        for (&token, &margin) in case.greedy.iter().zip(&case.greedy_margin) {
            // Activations rounded to 8 bits in blocks of 32 move these logits by up to some tenths.
            if margin < 1.0 {
                break;
            }
            let got = greedy_token(&played.logits);
            assert_eq!(got.0, token, "{at}: greedy token with margin {margin}");
            player.advance(&mut played, got).unwrap();
        }
        player.release(played);
    }
}

#[test]
fn a_token_takes_exactly_the_bytes_of_its_keys_and_values() {
    let model = embedded();
    for (dtype, size) in [(KvDtype::F32, 4), (KvDtype::F16, 2), (KvDtype::Bf16, 2)] {
        let executor = player(&model, WeightDtype::Auto, dtype).executor;
        assert_eq!(executor.info().kv_bytes_per_token, 2 * 12 * 3 * 64 * size);
        assert_eq!(executor.info().num_blocks, 512);
    }
}

#[test]
fn the_fingerprint_tells_weight_and_kv_dtypes_apart() {
    let model = embedded();
    let fingerprint = |weights, kv| player(&model, weights, kv).executor.info().fingerprint;
    let all = [
        fingerprint(WeightDtype::Auto, KvDtype::F16),
        fingerprint(WeightDtype::F32, KvDtype::F16),
        fingerprint(WeightDtype::Auto, KvDtype::Bf16),
    ];
    assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2]);
    assert_eq!(all[0], fingerprint(WeightDtype::Auto, KvDtype::F16));
}
