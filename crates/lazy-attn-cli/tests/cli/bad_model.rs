//! Models that cannot be loaded: exit code 3 and a line that names the file, key or tensor.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::{folder, lazyattn, write};

const EMBEDDED: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../lazy-attn-models/assets/smollm2-block-47m.Q4_0.gguf");

fn assert_refused(model: &str, words: &[&str]) {
    lazyattn(&["--model", model, "run", "Who?"]).assert_error(3, words);
}

fn config() -> Value {
    json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 16,
           "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 16,
           "rms_norm_eps": 1e-5, "max_position_embeddings": 64, "rope_theta": 10000.0, "hidden_act": "silu",
           "tie_word_embeddings": true, "torch_dtype": "float32"})
}

/// Every tensor of [`config`].
const TENSORS: [(&str, &[usize]); 11] = [
    ("model.embed_tokens.weight", &[16, 8]),
    ("model.norm.weight", &[8]),
    ("model.layers.0.input_layernorm.weight", &[8]),
    ("model.layers.0.post_attention_layernorm.weight", &[8]),
    ("model.layers.0.self_attn.q_proj.weight", &[8, 8]),
    ("model.layers.0.self_attn.k_proj.weight", &[4, 8]),
    ("model.layers.0.self_attn.v_proj.weight", &[4, 8]),
    ("model.layers.0.self_attn.o_proj.weight", &[8, 8]),
    ("model.layers.0.mlp.gate_proj.weight", &[16, 8]),
    ("model.layers.0.mlp.up_proj.weight", &[16, 8]),
    ("model.layers.0.mlp.down_proj.weight", &[8, 16]),
];

/// A header with all tensors, changed by `change`, in front of the zeros it describes.
fn safetensors(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut header = json!({});
    let mut end = 0;
    for (name, shape) in TENSORS {
        let num_bytes = 4 * shape.iter().product::<usize>();
        header[name] = json!({"dtype": "F32", "shape": shape, "data_offsets": [end, end + num_bytes]});
        end += num_bytes;
    }
    change(&mut header);
    let text = header.to_string();
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &vec![0; end]].concat()
}

fn model(folder: &Path, config: &Value, weights: &[u8]) -> String {
    write(folder, "config.json", config.to_string());
    write(folder, "model.safetensors", weights);
    folder.to_str().unwrap().to_owned()
}

#[test]
fn a_model_that_is_not_there_is_named() {
    assert_refused("no-such.gguf", &["no-such.gguf", "No such file"]);
    assert_refused("./no-such-folder", &["no-such-folder"]);
    assert_refused("random:x", &["random:x", "seed"]);
}

#[test]
fn a_gguf_file_cut_anywhere_is_refused() {
    let folder = folder("truncated_gguf");
    let whole = fs::read(EMBEDDED).unwrap();
    // Inside the magic, the counts, the vocabulary, the tensor list and the weights.
    for num_bytes in [0, 3, 12, 100_000, 275_000, whole.len() - 1] {
        let path = write(&folder, "cut.gguf", &whole[..num_bytes]);
        assert_refused(&path, &["cut.gguf"]);
    }
    let path = write(&folder, "other.gguf", b"not a GGUF file at all, but long enough for a header");
    assert_refused(&path, &["other.gguf"]);
}

#[test]
fn a_safetensors_file_with_a_wrong_header_is_refused() {
    let folder = folder("bad_safetensors");
    let good = safetensors(|_| ());
    let huge = [&u64::MAX.to_le_bytes()[..], &good[8..]].concat();
    let past_the_end = safetensors(|header| {
        header["model.norm.weight"]["data_offsets"] = json!([1u64 << 40, (1u64 << 40) + 32])
    });
    let overlong = safetensors(|header| header["model.norm.weight"]["shape"] = json!([9]));
    let missing = safetensors(|header| {
        header.as_object_mut().unwrap().remove("model.layers.0.mlp.down_proj.weight");
    });
    let cases: [(&[u8], &str); 7] = [
        (b"", "model.safetensors"),
        (&good[..7], "model.safetensors"),
        (&huge, "model.safetensors"),
        (&good[..good.len() - 1], "model.safetensors"),
        (&past_the_end, "model.safetensors"),
        (&overlong, "model.safetensors"),
        (&missing, "down_proj"),
    ];
    for (index, (weights, word)) in cases.into_iter().enumerate() {
        let model = model(&folder, &config(), weights);
        let ran = lazyattn(&["--model", &model, "run", "Who?"]);
        assert_eq!(ran.code, 3, "case {index}: {}", ran.stderr);
        ran.assert_error(3, &[word]);
    }
}

#[test]
fn a_missing_tokenizer_is_named() {
    let folder = folder("no_tokenizer");
    let model = model(&folder, &config(), &safetensors(|_| ()));
    assert_refused(&model, &["tokenizer"]);
    // A token per byte needs that many logits.
    let small = write(&folder, "small.json", config().to_string());
    assert_refused(&format!("random:1:{small}"), &["random:1", "no tokenizer"]);
}

#[test]
fn a_config_that_cannot_be_run_exactly_is_refused_by_its_key() {
    let folder = folder("bad_config");
    let cases: [(&str, Value, &[&str]); 4] = [
        ("rope_scaling", json!({"rope_type": "spiral", "factor": 2.0}), &["rope", "spiral"]),
        ("rope_scaling", json!({"rope_type": "dynamic", "factor": 2.0}), &["rope", "dynamic"]),
        ("model_type", json!("unicorn"), &["model_type", "unicorn"]),
        ("hidden_act", json!("relu6"), &["hidden_act", "relu6"]),
    ];
    for (key, value, words) in cases {
        let mut config = config();
        config[key] = value;
        let model = model(&folder, &config, &safetensors(|_| ()));
        assert_refused(&model, words);
    }
    let path = model(&folder, &json!({}), &safetensors(|_| ()));
    assert_refused(&path, &["config"]);
}
