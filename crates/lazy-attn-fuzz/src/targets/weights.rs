//! What comes with a downloaded model.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use lazy_attn_models::weights::gguf::{self, GgufFile, GgufTensors};
use lazy_attn_models::weights::{FileBytes, SafetensorsFiles, TensorSource, expected_tensors};
use lazy_attn_models::{ModelConfig, ModelError};
use lazy_attn_text::Tokenizer;

use super::said;
use crate::seeds::weights::small_config;

/// Container, config, vocabulary and tensors, as loading does it.
pub(crate) fn gguf(bytes: &[u8]) -> String {
    said(read_gguf(bytes))
}

fn read_gguf(bytes: &[u8]) -> Result<(), String> {
    let told = |error: ModelError| error.to_string();
    let file = GgufFile::read(PathBuf::from("model.gguf"), FileBytes::Owned(bytes.to_vec())).map_err(told)?;
    let touched: usize = file.tensors().map(|(_, place)| file.tensor_bytes(place).len()).sum();
    std::hint::black_box(touched);
    let config = gguf::model_config(&file).map_err(told)?;
    let special = gguf::special_tokens(&file, config.vocab_size).map_err(told)?;
    if let Some(source) = gguf::tokenizer(&file).map_err(told)? {
        Tokenizer::from_source(&source, &special).map_err(|error| error.to_string())?;
    }
    let tensors = GgufTensors::new(file, &config).map_err(told)?;
    read_tensors(&tensors, &config).map_err(told)
}

fn read_tensors(tensors: &impl TensorSource, config: &ModelConfig) -> Result<(), ModelError> {
    for (name, shape) in expected_tensors(config) {
        std::hint::black_box(tensors.tensor(&name, &shape)?.to_f32());
    }
    Ok(())
}

/// One file of weights.
pub(crate) fn safetensors(bytes: &[u8]) -> String {
    said(read_safetensors(bytes))
}

fn read_safetensors(bytes: &[u8]) -> Result<(), ModelError> {
    let mut files = SafetensorsFiles::open(&[])?;
    files.add(Path::new("model.safetensors"), FileBytes::Owned(bytes.to_vec()))?;
    let config = small_config();
    files.check(config)?;
    read_tensors(&files, config)
}

/// The index of weights in several files, with one such file beside it.
pub(crate) fn safetensors_index(bytes: &[u8]) -> String {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        let directory = std::env::temp_dir().join(format!("lazy-attn-fuzz-{}", std::process::id()));
        let made = std::fs::create_dir_all(&directory)
            .and_then(|()| std::fs::write(directory.join("a.safetensors"), b"\x02\0\0\0\0\0\0\0{}"));
        assert!(made.is_ok(), "{}: {made:?}", directory.display());
        directory
    });
    let written = std::fs::write(directory.join("model.safetensors.index.json"), bytes);
    assert!(written.is_ok(), "{written:?}");
    // A path in the error is the same for every input of a process.
    said(SafetensorsFiles::open_directory(directory))
}

/// A `config.json`, and what is asked of it before any weight is read.
pub(crate) fn config(bytes: &[u8]) -> String {
    let value: serde_json::Value = match serde_json::from_slice(bytes) {
        Ok(value) => value,
        Err(error) => return error.to_string(),
    };
    match ModelConfig::from_hugging_face(&value) {
        Ok(config) => {
            std::hint::black_box((
                expected_tensors(&config),
                config.num_parameters(),
                config.rope.inv_freq(),
            ));
            "accepted".to_owned()
        }
        Err(error) => error.to_string(),
    }
}
