//! Weights and configs.

use std::sync::OnceLock;

use lazy_attn_models::ModelConfig;
use lazy_attn_models::weights::expected_tensors;
use serde_json::{Map, Value, json};

#[allow(clippy::unwrap_used, dead_code, reason = "a helper of tests of the models crate")]
#[path = "../../../lazy-attn-models/tests/support/gguf.rs"]
mod file;

use file::{Gguf, Meta};

/// A file whose vocabulary is one, so that everything behind it is read too.
fn tiny(architecture: &str) -> Gguf {
    let mut file = Gguf::tiny(architecture);
    file.set(
        "tokenizer.ggml.tokens",
        Meta::Texts(vec!["<s>", "<|eot_id|>", "</s>", "a", "b", "ab", "d", "e"]),
    );
    file
}

pub(crate) fn gguf() -> Vec<Vec<u8>> {
    let llama = tiny("llama");
    let mut scaled = tiny("llama");
    scaled.set("llama.rope.scaling.type", Meta::Text("linear"));
    scaled.set("llama.rope.scaling.factor", Meta::F32(2.0));
    scaled.set("general.alignment", Meta::U32(32));
    scaled.set("tokenizer.chat_template", Meta::Text("{{ messages[0].content }}"));
    scaled.set("tokenizer.ggml.add_bos_token", Meta::Bool(true));
    let mut no_tensors = tiny("qwen2");
    no_tensors.tensors.clear();
    [llama, scaled, no_tensors, Gguf::tiny("qwen3")].iter().map(Gguf::bytes).collect()
}

/// One layer of one head.
fn small_config_json() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4, "intermediate_size": 4,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2, "vocab_size": 3,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "hidden_act": "silu"
    })
}

/// The model of the safetensors files here.
///
/// # Panics
/// If it is not one any more.
#[allow(clippy::expect_used, reason = "a constant of this file")]
pub(crate) fn small_config() -> &'static ModelConfig {
    static CONFIG: OnceLock<ModelConfig> = OnceLock::new();
    CONFIG.get_or_init(|| {
        ModelConfig::from_hugging_face(&small_config_json()).expect("the small config is one")
    })
}

pub(crate) fn safetensors() -> Vec<Vec<u8>> {
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in expected_tensors(small_config()) {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}));
    }
    let whole = safetensors_file(&Value::Object(header).to_string(), end);
    let one = r#"{"__metadata__": {"format": "pt"}, "a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}"#;
    vec![whole, safetensors_file(one, 8), safetensors_file("{}", 0)]
}

fn safetensors_file(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data_bytes, 0);
    file
}

pub(crate) fn safetensors_index() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"metadata": {"total_size": 8}, "weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}"#,
        r#"{"weight_map": {"a": "a.safetensors"}}"#,
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

pub(crate) fn config() -> Vec<Vec<u8>> {
    let mut llama3 = small_config_json();
    llama3["rope_scaling"] = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192
    });
    let mut yarn = small_config_json();
    yarn["rope_scaling"] = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32});
    yarn["sliding_window"] = json!(16);
    let mut qwen = small_config_json();
    qwen["architectures"] = json!(["Qwen3ForCausalLM"]);
    qwen["model_type"] = json!("qwen3");
    [small_config_json(), llama3, yarn, qwen].iter().map(|config| config.to_string().into_bytes()).collect()
}
