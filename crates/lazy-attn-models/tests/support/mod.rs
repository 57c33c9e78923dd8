//! Small model files for the tests of loading.
#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

pub(crate) mod gguf;
#[path = "../../src/testing.rs"]
pub(crate) mod testing;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use lazy_attn_models::weights::{RandomDtype, RandomTensors, TensorSource, expected_tensors};
use lazy_attn_models::{LoadOptions, LoadedModel, ModelConfig, ModelError, load};

/// The `config.json` of a Llama small enough to write in a test.
pub(crate) fn tiny_config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 8,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "eos_token_id": 2
    })
}

/// A `tokenizer.json` of eight tokens, the first three special.
pub(crate) fn tiny_tokenizer() -> Value {
    let special = |id: u32, content: &str| json!({"id": id, "content": content, "special": true});
    json!({
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "model": {"type": "BPE", "vocab": {"a": 3, "b": 4, "c": 5, "d": 6, "e": 7}, "merges": []}
    })
}

/// The tensors of `config` as names, shapes and bfloat16 bytes.
pub(crate) fn tiny_tensors(config: &Value) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let config = ModelConfig::from_hugging_face(config).unwrap();
    let random = RandomTensors::new(&config, 7, RandomDtype::Bf16);
    let bytes = |name: &str, shape: &[usize]| random.tensor(name, shape).unwrap().bytes.into_owned();
    expected_tensors(&config)
        .into_iter()
        .map(|(name, shape)| (name.clone(), shape.clone(), bytes(&name, &shape)))
        .collect()
}

/// `tensors` as a safetensors file, written by the reference implementation.
pub(crate) fn safetensors_file(tensors: &[(String, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    safetensors::serialize(views, None).unwrap()
}

/// A directory that holds the tiny model.
pub(crate) fn tiny_directory(label: &str) -> testing::TempDir {
    let directory = testing::TempDir::new(label);
    directory.write("config.json", tiny_config().to_string());
    directory.write("tokenizer.json", tiny_tokenizer().to_string());
    directory.write("model.safetensors", safetensors_file(&tiny_tensors(&tiny_config())));
    directory
}

/// Loads what `reference` names.
pub(crate) fn try_load(reference: &str) -> Result<LoadedModel, ModelError> {
    load(&reference.parse()?, &LoadOptions::default())
}

/// The text of the error that loading `reference` gives.
pub(crate) fn load_error(reference: &str) -> String {
    match try_load(reference) {
        Ok(model) => panic!("{reference} loads as {model:?}"),
        Err(error) => error.to_string(),
    }
}

/// Changes to the bytes of a file.
#[derive(Debug)]
pub(crate) struct Damage {
    changes: Vec<(Index, u8)>,
    /// Where the file is cut off.
    cut: Option<Index>,
}

/// Up to seven changed bytes, and a cut in every second case.
pub(crate) fn damage() -> impl Strategy<Value = Damage> {
    let changes = prop::collection::vec((any::<Index>(), any::<u8>()), 1..8);
    (changes, any::<Option<Index>>()).prop_map(|(changes, cut)| Damage { changes, cut })
}

impl Damage {
    /// Changes bytes of the header, since any bytes are right in the data behind it, and cuts the file.
    pub(crate) fn apply(self, mut bytes: Vec<u8>, header_size: usize) -> Vec<u8> {
        for (index, value) in self.changes {
            bytes[index.index(header_size)] = value;
        }
        if let Some(cut) = self.cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    }
}

/// Every tensor that `source` gives for `config` has as many elements as its shape.
pub(crate) fn check_sizes(source: &dyn TensorSource, config: &ModelConfig) {
    for (name, shape) in expected_tensors(config) {
        if let Ok(tensor) = source.tensor(&name, &shape) {
            assert_eq!(tensor.to_f32().len(), shape.iter().product::<usize>(), "{name}");
        }
    }
}
