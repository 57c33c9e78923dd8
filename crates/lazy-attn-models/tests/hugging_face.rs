//! Hugging Face configs: every supported family, every RoPE type, and what is refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use lazy_attn_models::ModelConfig;
use lazy_attn_models::config::{Bias, HeadWeights, QkNorm, RopePairing, RopeScaling};
use serde_json::{Value, json};

fn parse(config: &Value) -> Result<ModelConfig, String> {
    ModelConfig::from_hugging_face(config).map_err(|error| error.to_string())
}

/// Llama 3.1 8B, as released.
fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 128_000, "eos_token_id": [128_001, 128_008, 128_009], "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
        "max_position_embeddings": 131_072, "mlp_bias": false, "model_type": "llama", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-5,
        "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "rope_theta": 500_000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.43.0", "use_cache": true, "vocab_size": 128_256
    })
}

/// `base` with the keys of `changes`; `null` stands for itself.
fn with(mut base: Value, changes: &Value) -> Value {
    let object = base.as_object_mut().unwrap();
    changes
        .as_object()
        .unwrap()
        .iter()
        .for_each(|(key, value)| drop(object.insert(key.clone(), value.clone())));
    base
}

fn without(mut base: Value, key: &str) -> Value {
    base.as_object_mut().unwrap().remove(key);
    base
}

fn mistral() -> Value {
    let changes = json!({"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 4096,
        "max_position_embeddings": 32768,
        "rope_scaling": null, "rope_theta": 10000.0, "vocab_size": 32000});
    without(without(with(llama(), &changes), "attention_bias"), "mlp_bias")
}

fn qwen2() -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151_643,
        "eos_token_id": 151_645, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02,
        "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2",
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0, "sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "transformers_version": "4.43.1", "use_cache": true, "use_sliding_window": false, "vocab_size": 151_936
    })
}

#[test]
fn released_configs_give_the_shapes_known_by_name() {
    let named = |name: &str| ModelConfig::named(name).unwrap();
    assert_eq!(parse(&llama()).unwrap(), named("llama-3.1-8b"));
    assert_eq!(parse(&mistral()).unwrap(), named("mistral-7b-v0.1"));
    let v3 = json!({"sliding_window": null, "rope_theta": 1e6, "vocab_size": 32768});
    assert_eq!(parse(&with(mistral(), &v3)).unwrap(), named("mistral-7b-v0.3"));
    let tinyllama = json!({"hidden_size": 2048, "intermediate_size": 5632, "max_position_embeddings": 2048,
        "num_hidden_layers": 22, "num_key_value_heads": 4, "rope_scaling": null, "rope_theta": 10000.0,
        "vocab_size": 32000});
    assert_eq!(parse(&with(llama(), &tinyllama)).unwrap(), named("tinyllama-1.1b"));
    let smollm2 = json!({"hidden_size": 576, "intermediate_size": 1536, "is_llama_config": true,
        "max_position_embeddings": 8192, "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100_000, "tie_word_embeddings": true,
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}, "vocab_size": 49152});
    assert_eq!(parse(&with(llama(), &smollm2)).unwrap(), named("smollm2-135m"));
    assert_eq!(parse(&qwen2()).unwrap(), named("qwen2.5-0.5b"));
    let qwen3 = json!({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": false,
        "head_dim": 128, "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960,
        "max_window_layers": 28, "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
        "rope_scaling": null, "sliding_window": null});
    assert_eq!(parse(&with(qwen2(), &qwen3)).unwrap(), named("qwen3-0.6b"));
}

#[test]
fn absent_keys_have_the_defaults_of_their_family() {
    let bare = |config| {
        ["num_key_value_heads", "rope_theta", "rope_scaling", "rms_norm_eps", "tie_word_embeddings"]
            .into_iter()
            .fold(config, without)
    };
    let config = parse(&bare(llama())).unwrap();
    assert_eq!((config.num_kv_heads, config.rope.theta, config.rms_norm_eps), (32, 10_000.0, 1e-6));
    assert_eq!((config.head, config.rope.scaling), (HeadWeights::Untied, RopeScaling::Default));
    assert_eq!(parse(&bare(mistral())).unwrap_err(), "config key `num_key_value_heads`: is missing");
    // Mistral configs without a window write `null`; one that says nothing has the default window.
    assert_eq!(parse(&without(mistral(), "sliding_window")).unwrap().sliding_window, Some(4096));
}

#[test]
fn biases_are_those_of_the_family() {
    let llama = parse(&with(llama(), &json!({"attention_bias": true, "mlp_bias": true}))).unwrap();
    assert_eq!(llama.bias, Bias { qkv: true, output: true, mlp: true });
    assert_eq!(parse(&qwen2()).unwrap().bias, Bias { qkv: true, output: false, mlp: false });
    let error = parse(&with(mistral(), &json!({"mlp_bias": true}))).unwrap_err();
    assert_eq!(error, "config key `mlp_bias`: is true, but models of this family have no such switch");
}

#[test]
fn a_window_holds_for_all_layers_or_for_none() {
    let window = |changes: Value| parse(&with(qwen2(), &changes)).map(|config| config.sliding_window);
    assert_eq!(window(json!({"use_sliding_window": true, "max_window_layers": 0})), Ok(Some(32768)));
    assert_eq!(window(json!({"use_sliding_window": true, "max_window_layers": 24})), Ok(None));
    let error = window(json!({"use_sliding_window": true})).unwrap_err();
    assert!(error.starts_with("config key `max_window_layers`: is 21 of 24 layers"), "{error}");
    assert_eq!(window(json!({"layer_types": vec!["full_attention"; 24]})), Ok(None));
    let mixed = [vec!["full_attention"; 23], vec!["sliding_attention"]].concat();
    assert!(
        window(json!({"layer_types": mixed})).unwrap_err().starts_with("config key `layer_types`: holds")
    );
    let error = window(json!({"layer_types": ["full_attention"]})).unwrap_err();
    assert_eq!(error, "config key `layer_types`: has 1 entries for 24 layers");
    let error = parse(&with(llama(), &json!({"sliding_window": 4096}))).unwrap_err();
    assert!(error.starts_with("config key `sliding_window`: is set, but Llama"), "{error}");
}

fn scaling(parameters: &Value) -> Result<RopeScaling, String> {
    let old = parse(&with(llama(), &json!({"rope_scaling": parameters}))).map(|config| config.rope.scaling);
    let new = with(without(llama(), "rope_scaling"), &json!({"rope_parameters": parameters}));
    assert_eq!(old, parse(&new).map(|config| config.rope.scaling), "the two spellings differ");
    old
}

#[test]
fn every_rope_type_is_read_in_both_spellings() {
    assert_eq!(scaling(&json!({"rope_type": "default"})), Ok(RopeScaling::Default));
    assert_eq!(scaling(&json!({"type": "linear", "factor": 2})), Ok(RopeScaling::Linear { factor: 2.0 }));
    let yarn = |attention_factor| RopeScaling::Yarn {
        factor: 4.0,
        original_context: 32768.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor,
        truncate: true,
    };
    let yarn_of = |changes: Value| {
        let base = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768});
        scaling(&with(base, &changes)).unwrap()
    };
    // 0.1 ln 4 + 1
    assert_eq!(yarn_of(json!({})), yarn(1.138_629_4));
    assert_eq!(yarn_of(json!({"attention_factor": 1.0})), yarn(1.0));
    // `mscale` counts only beside `mscale_all_dim`, as in transformers.
    assert_eq!(yarn_of(json!({"mscale": 0.7})), yarn(1.138_629_4));
    assert_eq!(yarn_of(json!({"mscale": 1.0, "mscale_all_dim": 1.0})), yarn(1.0));
}

#[test]
fn rope_parameters_carry_theta_and_the_rotated_part() {
    let parameters = json!({"rope_type": "default", "rope_theta": 1234.0, "partial_rotary_factor": 0.25});
    let new = with(
        without(without(llama(), "rope_scaling"), "rope_theta"),
        &json!({"rope_parameters": parameters}),
    );
    let rope = parse(&new).unwrap().rope;
    assert_eq!((rope.theta, rope.rotary_dim, rope.pairing), (1234.0, 32, RopePairing::HalfSplit));
    let interleaved = with(llama(), &json!({"rope_interleaved": true, "partial_rotary_factor": 0.5}));
    let rope = parse(&interleaved).unwrap().rope;
    assert_eq!((rope.rotary_dim, rope.pairing), (64, RopePairing::Interleaved));
}

#[test]
fn yarn_extends_the_context_to_its_factor() {
    let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768});
    let config = parse(&with(qwen2(), &json!({"rope_scaling": yarn}))).unwrap();
    assert_eq!(config.max_context_tokens, 131_072);
}

#[test]
fn what_would_change_the_result_is_refused_by_key() {
    let cases = [
        (json!({"clip_qkv": 8.0}), "config key `clip_qkv`: is unknown, and may change the model's results"),
        (
            json!({"quantization_config": {}}),
            "config key `quantization_config`: says the weights are quantised",
        ),
        (json!({"hidden_act": "gelu"}), "config key `hidden_act`: is `gelu`, but must be `silu`"),
        (
            json!({"model_type": "gemma"}),
            "config key `model_type`: is `gemma`, but llama, mistral, qwen2 and qwen3",
        ),
        (json!({"model_type": null}), "config key `model_type`: is missing"),
        (json!({"architectures": ["LlamaModel"]}), "config key `architectures`: holds \"LlamaModel\""),
        (json!({"is_decoder": true}), "config key `is_decoder`: is true, but must be off"),
        (json!({"hidden_size": "4096"}), "config key `hidden_size`: is \"4096\", but must be a whole number"),
        (json!({"hidden_size": null}), "config key `hidden_size`: is missing"),
        (
            json!({"hidden_size": 1 << 20}),
            "config key `hidden_size`: is 1048576, but must be from 1 to 65536",
        ),
        (json!({"num_hidden_layers": 0}), "config key `num_hidden_layers`: is 0, but must be from 1 to 1024"),
        (
            json!({"num_key_value_heads": 5}),
            "config key `num_key_value_heads`: is 5, which does not divide the 32",
        ),
        (
            json!({"num_attention_heads": 33}),
            "config key `num_attention_heads`: is 33, which does not divide",
        ),
        (json!({"vocab_size": 1u64 << 23}), "config key `vocab_size`: is 8388608, but must be"),
        (json!({"rms_norm_eps": 0.0}), "config key `rms_norm_eps`: is 0, but must be above 0"),
        (json!({"rope_theta": -1.0}), "config key `rope_theta`: is -1, but must be above 1"),
        (
            json!({"partial_rotary_factor": 0.01}),
            "config key `partial_rotary_factor`: rotates 1 of 128 dimensions",
        ),
        (
            json!({"partial_rotary_factor": 2.0}),
            "config key `partial_rotary_factor`: is 2, but must be above 0",
        ),
    ];
    for (changes, wanted) in cases {
        let error = parse(&with(llama(), &changes)).unwrap_err();
        assert!(error.starts_with(wanted), "`{error}` is not `{wanted}`");
    }
    assert_eq!(parse(&json!([])).unwrap_err(), "config key `config.json`: must be a JSON object");
}

#[test]
fn rope_that_is_unknown_or_depends_on_the_length_is_refused() {
    for kind in ["dynamic", "longrope", "su"] {
        let error = scaling(&json!({"rope_type": kind, "factor": 2.0})).unwrap_err();
        assert!(error.starts_with(&format!("config key `rope_type`: is `{kind}`: it selects a RoPE whose angles depend on the total length")), "{error}");
    }
    let error =
        scaling(&json!({"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]})).unwrap_err();
    assert!(error.contains("depend on the total length"), "{error}");
    let error = scaling(&json!({"rope_type": "spiral"})).unwrap_err();
    assert!(error.starts_with("config key `rope_type`: is `spiral`, an unknown RoPE type"), "{error}");
    let error = scaling(&json!({"rope_type": "default", "mrope_section": [1]})).unwrap_err();
    assert!(error.starts_with("config key `mrope_section`: is unknown in the RoPE parameters"), "{error}");
    assert_eq!(scaling(&json!({"rope_type": "linear"})).unwrap_err(), "config key `factor`: is missing");
    assert!(
        scaling(&json!({"rope_type": "linear", "factor": 0}))
            .unwrap_err()
            .starts_with("config key `factor`: is 0")
    );
    let both = with(llama(), &json!({"rope_parameters": {"rope_type": "default"}}));
    assert!(parse(&both).unwrap_err().starts_with("config key `rope_scaling`: is given beside"));
    let partial = json!({"partial_rotary_factor": 0.5,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}});
    let error = parse(&with(llama(), &partial)).unwrap_err();
    assert!(error.starts_with("config key `attention_factor`: scales only the rotated"), "{error}");
}

#[test]
fn qwen3_heads_have_128_elements_unless_the_config_says_otherwise() {
    let changes = json!({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"});
    let config = parse(&with(qwen2(), &changes)).unwrap();
    assert_eq!((config.head_dim, config.qk_norm), (128, QkNorm::PerHead));
}
