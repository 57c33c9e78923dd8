//! From a [`ModelRef`] to everything an engine needs of a model.

use std::path::{Path, PathBuf};

use lazy_attn_types::{SpecialTokens, TokenId, TokenizerSource};

use crate::fingerprint::{self, WeightsHash};
use crate::weights::gguf::{self, GgufFile, GgufTensors};
use crate::weights::{FileBytes, TensorSource};
use crate::{ModelConfig, ModelError, ModelRef, Progress, Silent};

/// How a model is loaded.
pub struct LoadOptions<'a> {
    /// Told of downloads and of hashing.
    pub progress: &'a dyn Progress,
}

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        LoadOptions { progress: &Silent }
    }
}

/// A model whose weights are still in their file.
pub struct LoadedModel {
    /// What the decoder is.
    pub config: ModelConfig,
    /// Its tensors, exactly those `config` asks for.
    pub tensors: Box<dyn TensorSource>,
    /// Its tokenizer; `None` for random weights.
    pub tokenizer: Option<TokenizerSource>,
    /// Special tokens and chat template.
    pub special: SpecialTokens,
    /// A name for people.
    pub name: String,
    /// Hash of the weights.
    pub hash: WeightsHash,
    /// Labelled bytes that decide what a segment's KV is; an executor adds its KV dtype to them.
    pub fingerprint_parts: Vec<(&'static str, Vec<u8>)>,
}

impl std::fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedModel")
            .field("name", &self.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Name of the embedded model's file.
const EMBEDDED_FILE: &str = "smollm2-block-47m.Q4_0.gguf";

/// Opens the model `reference` names. Weights stay in their file, mapped; only headers are read, and the weights are
/// hashed (see [`HashCoverage`](crate::HashCoverage)).
///
/// # Errors
/// [`ModelError`] naming the file, key or tensor that is missing or wrong.
pub fn load(reference: &ModelRef, options: &LoadOptions<'_>) -> Result<LoadedModel, ModelError> {
    match reference {
        ModelRef::Embedded => {
            let (path, bytes) = embedded()?;
            load_gguf(GgufFile::read(path, bytes)?, options)
        }
        ModelRef::Gguf(path) => load_gguf(GgufFile::open(path)?, options),
        _ => Err(ModelError::reference(&reference.to_string(), "is of a kind that cannot be loaded")),
    }
}

#[cfg(feature = "embedded")]
#[allow(clippy::unnecessary_wraps, reason = "its twin below can fail")]
fn embedded() -> Result<(PathBuf, FileBytes), ModelError> {
    static BYTES: &[u8] = include_bytes!("../assets/smollm2-block-47m.Q4_0.gguf");
    Ok((PathBuf::from(EMBEDDED_FILE), FileBytes::Static(BYTES)))
}

#[cfg(not(feature = "embedded"))]
fn embedded() -> Result<(PathBuf, FileBytes), ModelError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").join(EMBEDDED_FILE);
    let bytes = FileBytes::map(&path)?;
    Ok((path, bytes))
}

fn load_gguf(file: GgufFile, options: &LoadOptions<'_>) -> Result<LoadedModel, ModelError> {
    let config = gguf::model_config(&file)?;
    let tokenizer = gguf::tokenizer(&file)?.ok_or_else(|| {
        ModelError::format(
            file.path(),
            "has no tokenizer (`tokenizer.ggml.model`); convert the model again with one",
        )
    })?;
    let special = gguf::special_tokens(&file, config.vocab_size)?;
    let name = match file.value("general.name") {
        Some(gguf::Value::Text(name)) => name.clone(),
        _ => file_stem(file.path()),
    };
    let hash = WeightsHash::of_files(std::iter::once(file.bytes()), options.progress);
    Ok(LoadedModel {
        fingerprint_parts: fingerprint::parts(&config, &hash, Some(&tokenizer)),
        tensors: Box::new(GgufTensors::new(file, &config)?),
        tokenizer: Some(tokenizer),
        config,
        special,
        name,
        hash,
    })
}

fn file_stem(path: &Path) -> String {
    path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// `tokens` without repetitions, in order.
pub(crate) fn distinct(tokens: Vec<TokenId>) -> Vec<TokenId> {
    let mut seen = Vec::new();
    for token in tokens {
        if !seen.contains(&token) {
            seen.push(token);
        }
    }
    seen
}
