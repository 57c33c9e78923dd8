//! Stands in for the download where the feature `hub` is off.

use std::path::PathBuf;

use super::options::HubOptions;
use crate::{HubId, ModelError, Progress};

/// Refuses: this build only reads the cache.
pub(super) fn download(
    id: &HubId,
    file: &str,
    options: &HubOptions,
    _progress: &dyn Progress,
) -> Result<Option<PathBuf>, ModelError> {
    let problem = format!(
        "is not in the cache {} (no {file}), and this build cannot download it; rebuild with `--features hub`",
        options.cache.display()
    );
    Err(ModelError::reference(&id.to_string(), problem))
}
