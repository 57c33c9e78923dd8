//! What can be loaded, and why the rest cannot.

use std::path::Path;

use crate::weights::hub::{HubAccess, HubOptions, cached_models};
use crate::{LoadOptions, ModelConfig, ModelError, ModelRef, load};

/// A model by the text that loads it.
#[derive(Debug)]
pub struct Listing {
    /// What to give for `--model`.
    pub reference: String,
    /// What it is, or why it does not load.
    pub outcome: Result<Summary, ModelError>,
}

/// A model that loads.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// A name for people.
    pub name: String,
    /// What the decoder is.
    pub config: ModelConfig,
    /// Elements of all weights.
    pub num_parameters: u64,
    /// Bytes of all weights as they are stored.
    pub weight_bytes: u64,
}

/// Opens `reference`, headers only and without the network, and says what it is.
#[must_use]
pub fn describe(reference: &str, options: &LoadOptions<'_>) -> Listing {
    let hub = HubOptions { access: HubAccess::CacheOnly, ..options.hub.clone() };
    let offline = LoadOptions { hub, ..*options };
    let parsed: Result<ModelRef, ModelError> = reference.parse();
    let outcome = parsed.and_then(|parsed| load(&parsed, &offline)).map(|model| Summary {
        num_parameters: model.config.num_parameters(),
        weight_bytes: model.tensors.total_bytes(),
        name: model.name,
        config: model.config,
    });
    Listing { reference: reference.to_owned(), outcome }
}

/// Every model found without being told a place: the embedded one, those in the hub's cache, files and directories in
/// `directory`, and the named shapes for random weights.
#[must_use]
pub fn list(directory: &Path, options: &LoadOptions<'_>) -> Vec<Listing> {
    let mut references = vec!["embedded".to_owned()];
    references.extend(cached_models(&options.hub));
    references.extend(models_in(directory));
    references.extend(ModelConfig::names().map(|name| format!("random:0:{name}")));
    references.iter().map(|reference| describe(reference, options)).collect()
}

/// Files and directories in `directory` that look like models, sorted.
fn models_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<String> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let is_gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
            (is_gguf || path.join("config.json").exists()).then(|| path.display().to_string())
        })
        .collect();
    found.sort();
    found
}
