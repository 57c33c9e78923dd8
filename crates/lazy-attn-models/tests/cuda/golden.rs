//! The embedded model on a device: its answers are those of the CPU, and of another implementation.

use lazy_attn::KvDtype;
use lazy_attn_models::cuda::CudaOptions;
use lazy_attn_models::weights::HalfDtype;
use lazy_attn_testkit::driver::greedy_token;
use lazy_attn_testkit::{Part, Player};
use lazy_attn_types::{AttentionMode, TokenId};
use serde_json::Value;

use crate::{
    embedded, file, margin, max_difference, on_cpu, on_device, tolerance, tolerance_with_fp8, with_dtype,
};

/// A prompt of `golden_embedded.json`; how it was made is told in `cpu_embedded.rs`.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) mode: AttentionMode,
    pub(crate) prompt: Vec<Part>,
    greedy: Vec<u32>,
    greedy_margin: Vec<f64>,
}

/// The prompts of the embedded model, or those of the file that `LAZY_ATTN_TEST_GOLDEN` names.
pub(crate) fn cases() -> Vec<Case> {
    let path = std::env::var("LAZY_ATTN_TEST_GOLDEN").map(std::path::PathBuf::from);
    let path = path.unwrap_or_else(|_| file("tests/golden_embedded.json"));
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    golden["cases"].as_array().unwrap().iter().map(case).collect()
}

fn numbers(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn case(value: &Value) -> Case {
    let parts: Vec<Vec<u32>> = value["parts"].as_array().unwrap().iter().map(numbers).collect();
    let last = parts.len() - 1;
    let part = |(index, ids): (usize, Vec<u32>)| {
        if index == 0 || index == last { Part::text(ids) } else { Part::document(ids) }
    };
    let is_block = value["mode"] == "block";
    Case {
        name: value["name"].to_string(),
        mode: if is_block { AttentionMode::Block } else { AttentionMode::Full },
        prompt: parts.into_iter().enumerate().map(part).collect(),
        greedy: numbers(&value["greedy"]),
        greedy_margin: value["greedy_margin"]
            .as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap())
            .collect(),
    }
}

#[test]
fn answers_of_the_embedded_model_are_those_of_the_cpu_and_of_the_reference() {
    let model = embedded();
    for dtype in [HalfDtype::F16, HalfDtype::Bf16] {
        let mut device = Player::new(on_device(&model, with_dtype(dtype)), 1);
        let mut cpu = Player::new(on_cpu(&model), 2);
        for case in cases() {
            let at = format!("{} {:?} {dtype:?}", case.name, case.mode);
            let mut got = device.play(&case.prompt, case.mode).unwrap();
            let mut want = cpu.play(&case.prompt, case.mode).unwrap();
            for (&token, &golden_margin) in case.greedy.iter().zip(&case.greedy_margin) {
                let allowed = tolerance(&want.logits, dtype, model.config.num_layers);
                let difference = max_difference(&got.logits, &want.logits);
                println!("{at}: {difference:.4} of {allowed:.4}, margin {golden_margin:.3}");
                assert!(difference <= allowed, "{at}: a logit is off by {difference}, allowed are {allowed}");
                if margin(&want.logits) < 0.1 || golden_margin < 0.1 {
                    // Two right answers may go separate ways from here.
                    break;
                }
                assert_eq!(greedy_token(&got.logits).0, token, "{at}: margin {golden_margin}");
                let token = greedy_token(&got.logits);
                device.advance(&mut got, token).unwrap();
                cpu.advance(&mut want, token).unwrap();
            }
            device.release(got);
            cpu.release(want);
        }
    }
}

#[test]
fn documents_in_any_order_give_the_logits_of_the_cpu() {
    let model = embedded();
    let mut device = Player::new(on_device(&model, with_dtype(HalfDtype::F16)), 1);
    let mut cpu = Player::new(on_cpu(&model), 2);
    // Two documents and more, between two texts.
    for case in cases().into_iter().filter(|case| case.prompt.len() > 3) {
        let mut prompt = case.prompt;
        for _ in 0..3 {
            let last = prompt.len() - 1;
            prompt[1..last].rotate_left(1);
            let got = device.play(&prompt, case.mode).unwrap();
            let want = cpu.play(&prompt, case.mode).unwrap();
            let allowed = tolerance(&want.logits, HalfDtype::F16, model.config.num_layers);
            let difference = max_difference(&got.logits, &want.logits);
            assert!(difference <= allowed, "{}: {difference} > {allowed}", case.name);
            device.release(got);
            cpu.release(want);
        }
    }
}

#[test]
fn answers_with_keys_and_values_of_eight_bits_stay_within_their_rounding() {
    let model = embedded();
    let options = CudaOptions { kv_dtype: Some(KvDtype::Fp8E4m3), ..with_dtype(HalfDtype::Bf16) };
    let mut device = Player::new(on_device(&model, options), 1);
    let mut cpu = Player::new(on_cpu(&model), 2);
    for case in cases() {
        let at = format!("{} {:?}", case.name, case.mode);
        let mut got = device.play(&case.prompt, case.mode).unwrap();
        let mut want = cpu.play(&case.prompt, case.mode).unwrap();
        for &token in &case.greedy {
            let allowed = tolerance_with_fp8(&want.logits, model.config.num_layers);
            let difference = max_difference(&got.logits, &want.logits);
            println!("{at}: {difference:.4} of {allowed:.4}, margin {:.3}", margin(&want.logits));
            assert!(difference <= allowed, "{at}: a logit is off by {difference}, allowed are {allowed}");
            // Two right answers may go separate ways where the margin is less than both could move.
            if margin(&want.logits) < 2.0 * difference {
                break;
            }
            assert_eq!(greedy_token(&got.logits), greedy_token(&want.logits), "{at}");
            device.advance(&mut got, TokenId(token)).unwrap();
            cpu.advance(&mut want, TokenId(token)).unwrap();
        }
        device.release(got);
        cpu.release(want);
    }
}
