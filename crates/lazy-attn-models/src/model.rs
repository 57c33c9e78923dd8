//! From a [`ModelRef`] to everything an engine needs of a model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lazy_attn_types::{SpecialTokens, TokenId, TokenizerSource};

use crate::byte_vocab::byte_vocab;
use crate::files::{TokenizerFiles, read_json};
use crate::fingerprint::{self, WeightsHash};
use crate::weights::gguf::{self, GgufFile, GgufTensors};
use crate::weights::{
    FileBytes, HubOptions, RandomDtype, RandomTensors, SafetensorsFiles, TensorSource, hub,
};
use crate::{ModelConfig, ModelError, ModelRef, Progress, Silent};

/// How a model is loaded.
pub struct LoadOptions<'a> {
    /// Told of downloads and of hashing.
    pub progress: &'a dyn Progress,
    /// Where hub ids are looked up.
    pub hub: HubOptions,
    /// Element type of random weights.
    pub random_dtype: RandomDtype,
}

impl Default for LoadOptions<'_> {
    /// Tells nobody, takes the hub's settings from the environment, and makes random weights in bfloat16.
    fn default() -> Self {
        LoadOptions { progress: &Silent, hub: HubOptions::from_env(), random_dtype: RandomDtype::default() }
    }
}

/// A model whose weights are still in their file.
pub struct LoadedModel {
    /// What the decoder is.
    pub config: ModelConfig,
    /// Its tensors, exactly those `config` asks for.
    pub tensors: Box<dyn TensorSource>,
    /// Its tokenizer. Random weights have a token per byte, or `None` if they have fewer logits than that.
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

/// What an executor needs of a model: what it is, its tensors, and what identifies them.
#[derive(Clone, Copy)]
pub struct ModelParts<'a> {
    /// What the decoder is.
    pub config: &'a ModelConfig,
    /// Its tensors.
    pub tensors: &'a dyn TensorSource,
    /// Labelled bytes that decide what a segment's KV is, besides what an executor adds.
    pub fingerprint_parts: &'a [(&'static str, Vec<u8>)],
}

impl<'a> From<&'a LoadedModel> for ModelParts<'a> {
    fn from(model: &'a LoadedModel) -> ModelParts<'a> {
        ModelParts {
            config: &model.config,
            tensors: model.tensors.as_ref(),
            fingerprint_parts: &model.fingerprint_parts,
        }
    }
}

/// Name of the embedded model's file.
const EMBEDDED_FILE: &str = "smollm2-block-47m.Q4_0.gguf";

/// Opens the model `reference` names. Weights stay in their file, mapped; only headers are read, and the weights are
/// hashed (see [`HashCoverage`](crate::HashCoverage)).
///
/// # Errors
/// [`ModelError`] naming the file, key or tensor that is missing or wrong.
///
/// ```
/// use lazy_attn_models::{LoadOptions, load};
///
/// let model = load(&"random:7:tiny".parse()?, &LoadOptions::default())?;
/// assert_eq!(model.config.num_layers, 2);
/// # Ok::<(), lazy_attn_models::ModelError>(())
/// ```
pub fn load(reference: &ModelRef, options: &LoadOptions<'_>) -> Result<LoadedModel, ModelError> {
    match reference {
        ModelRef::Embedded => {
            let (path, bytes) = embedded()?;
            load_gguf(GgufFile::read(path, bytes)?, options)
        }
        ModelRef::Gguf(path) => load_gguf(GgufFile::open(path)?, options),
        ModelRef::Safetensors(path) => {
            let weights = SafetensorsFiles::open(std::slice::from_ref(path))?;
            load_safetensors(path.parent().unwrap_or(Path::new(".")), weights, &file_stem(path), options)
        }
        ModelRef::Directory(path) => load_directory(path, options),
        ModelRef::Random { seed, shape } => load_random(*seed, shape, options),
        ModelRef::Hub(id) => {
            let path = hub::fetch(id, &options.hub, options.progress)?;
            if id.file.is_some() {
                load_gguf(GgufFile::open(&path)?, options)
            } else {
                load_safetensors(&path, SafetensorsFiles::open_directory(&path)?, &id.to_string(), options)
            }
        }
    }
}

/// Loads a directory of Hugging Face files, or one with a single GGUF file.
fn load_directory(path: &Path, options: &LoadOptions<'_>) -> Result<LoadedModel, ModelError> {
    if !path.join("config.json").exists()
        && let Some(file) = only_gguf(path)?
    {
        return load_gguf(GgufFile::open(&file)?, options);
    }
    let has = |name: &str| path.join(name).exists();
    if !has("model.safetensors") && !has("model.safetensors.index.json") {
        let advice = if has("pytorch_model.bin") || has("pytorch_model.bin.index.json") {
            "only pickled weights (pytorch_model.bin), which are not read: convert them to safetensors"
        } else {
            "neither model.safetensors, nor model.safetensors.index.json, nor one .gguf"
        };
        return Err(ModelError::format(path, format!("holds {advice}")));
    }
    load_safetensors(path, SafetensorsFiles::open_directory(path)?, &file_stem(path), options)
}

/// The GGUF file of a directory that holds exactly one.
fn only_gguf(directory: &Path) -> Result<Option<PathBuf>, ModelError> {
    let io = |source| ModelError::Io { path: directory.into(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            found.push(path);
        }
    }
    match found.len() {
        0 | 1 => Ok(found.pop()),
        count => {
            Err(ModelError::format(directory, format!("holds {count} GGUF files; give the path of one")))
        }
    }
}

fn load_safetensors(
    directory: &Path,
    weights: SafetensorsFiles,
    name: &str,
    options: &LoadOptions<'_>,
) -> Result<LoadedModel, ModelError> {
    let config_json = read_json(&directory.join("config.json"))?;
    let config = ModelConfig::from_hugging_face(&config_json)?;
    weights.check(&config)?;
    let tokenizer = TokenizerFiles::read(directory, &config_json, config.vocab_size)?;
    let hash = WeightsHash::of_files(weights.files(), options.progress);
    Ok(LoadedModel {
        fingerprint_parts: fingerprint::parts(&config, &hash, Some(&tokenizer.source)),
        tensors: Box::new(weights),
        tokenizer: Some(tokenizer.source),
        config,
        special: tokenizer.special,
        name: name.to_owned(),
        hash,
    })
}

fn load_random(seed: u64, shape: &str, options: &LoadOptions<'_>) -> Result<LoadedModel, ModelError> {
    let config = match ModelConfig::named(shape) {
        Some(config) => config,
        None if Path::new(shape).exists() => ModelConfig::from_hugging_face(&read_json(Path::new(shape))?)?,
        None => {
            let names: Vec<&str> = ModelConfig::names().collect();
            let problem =
                format!("has the unknown shape `{shape}`: give a config.json or one of {}", names.join(", "));
            return Err(ModelError::reference(&format!("random:{seed}:{shape}"), problem));
        }
    };
    let hash = WeightsHash::of_seed(seed, &config);
    let tokenizer = byte_vocab(config.vocab_size).map(|vocab| TokenizerSource::Gguf(Arc::new(vocab)));
    Ok(LoadedModel {
        fingerprint_parts: fingerprint::parts(&config, &hash, tokenizer.as_ref()),
        tensors: Box::new(RandomTensors::new(&config, seed, options.random_dtype)),
        tokenizer,
        config,
        special: SpecialTokens::default(),
        name: format!("random:{seed}:{shape}"),
        hash,
    })
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
    if !path.exists() {
        let problem = format!(
            "is not part of this build, and {} is missing: build in the repository, or give the path of another model",
            path.display()
        );
        return Err(ModelError::reference("embedded", problem));
    }
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
