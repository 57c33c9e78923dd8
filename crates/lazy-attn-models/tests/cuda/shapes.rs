//! Decoders of every kind the configs can describe, with random weights: logits of every step against the CPU in f32.

use lazy_attn_models::weights::HalfDtype;
use lazy_attn_models::{LoadOptions, LoadedModel, ModelRef, load};
use lazy_attn_testkit::driver::greedy_token;
use lazy_attn_testkit::{Part, Player};
use lazy_attn_types::AttentionMode;

use crate::{max_difference, on_cpu, on_device, tolerance, with_dtype};

/// A small config with `changes` on top of the common keys.
pub(crate) fn model(name: &str, changes: &str) -> LoadedModel {
    let common = r#""vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "rope_theta": 10000.0, "hidden_act": "silu""#;
    let folder = std::env::temp_dir().join(format!("lazy-attn-cuda-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("config.json");
    std::fs::write(&path, format!("{{{common}, {changes}}}")).unwrap();
    let reference: ModelRef = format!("random:7:{}", path.display()).parse().unwrap();
    let model = load(&reference, &LoadOptions::default()).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    model
}

const CASES: [(&str, &str); 6] = [
    ("gqa", r#""model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64"#),
    (
        "tied",
        r#""model_type": "llama", "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128, "tie_word_embeddings": true"#,
    ),
    (
        "window",
        r#""model_type": "mistral", "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64, "sliding_window": 40"#,
    ),
    ("bias", r#""model_type": "qwen2", "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64"#),
    (
        "qk norm",
        r#""model_type": "qwen3", "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128, "attention_bias": false"#,
    ),
    (
        "llama3",
        r#""model_type": "llama", "num_attention_heads": 16, "num_key_value_heads": 1, "head_dim": 64, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}"#,
    ),
];

fn request() -> Vec<Part> {
    vec![Part::text(0..5), Part::document(10..90), Part::document(200..233), Part::text(300..317)]
}

#[test]
fn logits_are_those_of_the_cpu_for_every_kind_of_decoder() {
    for (name, changes) in CASES {
        let model = model(name, changes);
        for (dtype, mode) in [(HalfDtype::Bf16, AttentionMode::Block), (HalfDtype::F16, AttentionMode::Full)]
        {
            let mut device = Player::new(on_device(&model, with_dtype(dtype)), 3);
            let mut cpu = Player::new(on_cpu(&model), 4);
            let mut got = device.play(&request(), mode).unwrap();
            let mut want = cpu.play(&request(), mode).unwrap();
            for step in 0..4 {
                let allowed = tolerance(&want.logits, dtype, model.config.num_layers);
                let difference = max_difference(&got.logits, &want.logits);
                println!("{name} {dtype:?} {mode:?} step {step}: {difference:.5} of {allowed:.5}");
                assert!(difference <= allowed, "{name} {dtype:?} step {step}: {difference} > {allowed}");
                let token = greedy_token(&want.logits);
                device.advance(&mut got, token).unwrap();
                cpu.advance(&mut want, token).unwrap();
            }
        }
    }
}
