//! Models on the Hugging Face hub: every file comes from the cache if it is there, else from the hub.
//!
//! Downloading needs the feature `hub`; without it only models that are in the cache load.

mod cache;
#[cfg(not(feature = "hub"))]
#[path = "disabled.rs"]
mod download;
#[cfg(feature = "hub")]
mod download;
mod options;

use std::path::{Path, PathBuf};

pub(crate) use cache::cached_models;
pub use options::{HubAccess, HubOptions};

use super::safetensors::shard_names;
use crate::{HubId, ModelError, Progress};

/// Files that a model may do without.
const OPTIONAL: [&str; 3] = ["tokenizer_config.json", "generation_config.json", "chat_template.jinja"];

/// Brings the files of `id` into the cache; returns the GGUF file it names, or the directory of its snapshot.
///
/// # Errors
/// [`ModelError::Reference`] naming the file that is neither in the cache nor on the hub.
pub fn fetch(id: &HubId, options: &HubOptions, progress: &dyn Progress) -> Result<PathBuf, ModelError> {
    let fetcher = Fetcher { id, options, progress, cache: cache::Cache::of(id, options) };
    if let Some(file) = &id.file {
        return fetcher.required(file);
    }
    let config = fetcher.required("config.json")?;
    let snapshot = config.parent().unwrap_or(Path::new("")).to_owned();
    let mut paths = vec![fetcher.required("tokenizer.json")?];
    for file in OPTIONAL {
        paths.extend(fetcher.optional(file)?);
    }
    match fetcher.optional("model.safetensors.index.json")? {
        Some(index) => {
            for shard in shard_names(&index)? {
                paths.push(fetcher.required(&shard)?);
            }
            paths.push(index);
        }
        None => paths.push(fetcher.required("model.safetensors")?),
    }
    if paths.iter().any(|path| path.parent() != Some(&snapshot)) {
        return Err(fetcher.error("changed on the hub while it was downloaded; try again"));
    }
    Ok(snapshot)
}

struct Fetcher<'a> {
    id: &'a HubId,
    options: &'a HubOptions,
    progress: &'a dyn Progress,
    cache: cache::Cache,
}

impl Fetcher<'_> {
    fn error(&self, problem: &str) -> ModelError {
        ModelError::reference(&self.id.to_string(), problem)
    }

    fn required(&self, file: &str) -> Result<PathBuf, ModelError> {
        if let Some(path) = self.cache.get(file) {
            return Ok(path);
        }
        if self.options.access == HubAccess::CacheOnly {
            let cache = self.options.cache.display();
            return Err(self.error(&format!(
                "{file} is not in the cache {cache}, and HF_HUB_OFFLINE forbids to download it"
            )));
        }
        let found = download::download(self.id, file, self.options, self.progress)?;
        found.ok_or_else(|| self.error(&format!("the hub has no {file} at revision {}", self.id.revision)))
    }

    fn optional(&self, file: &str) -> Result<Option<PathBuf>, ModelError> {
        if let Some(path) = self.cache.get(file) {
            return Ok(Some(path));
        }
        let cached_weights = self.cache.get("model.safetensors").is_some();
        let index_is_moot = file == "model.safetensors.index.json" && cached_weights;
        if self.options.access == HubAccess::CacheOnly || index_is_moot || self.cache.is_known_absent(file) {
            return Ok(None);
        }
        match download::download(self.id, file, self.options, self.progress) {
            Ok(None) => {
                self.cache.mark_absent(file);
                Ok(None)
            }
            Ok(found) => Ok(found),
            // Without a network a model that is cached still loads.
            Err(_) if self.is_cached() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the cache holds all that a model cannot do without.
    fn is_cached(&self) -> bool {
        let has = |file: &str| self.cache.get(file).is_some();
        let weights = match self.cache.get("model.safetensors.index.json") {
            Some(index) => shard_names(&index).is_ok_and(|shards| shards.iter().all(|shard| has(shard))),
            None => has("model.safetensors"),
        };
        has("config.json") && has("tokenizer.json") && weights
    }
}
