//! Downloads through `hf-hub`.

use std::path::PathBuf;

use hf_hub::api::sync::{ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use super::options::HubOptions;
use crate::{HubId, ModelError, Progress};

/// Times a broken download is tried again.
const MAX_RETRIES: usize = 3;

/// Downloads `file` into the cache; `None` if the model has no such file.
pub(super) fn download(
    id: &HubId,
    file: &str,
    options: &HubOptions,
    progress: &dyn Progress,
) -> Result<Option<PathBuf>, ModelError> {
    let api = ApiBuilder::from_cache(Cache::new(options.cache.clone()))
        .with_endpoint(options.endpoint.clone())
        .with_token(options.token.clone())
        .with_retries(MAX_RETRIES)
        .with_progress(false)
        .build()
        .map_err(|error| problem(id, file, &error))?;
    let repo = Repo::with_revision(id.repository.clone(), RepoType::Model, id.revision.clone());
    match api.repo(repo).download_with_progress(file, Reporter { progress, has_begun: false }) {
        Ok(path) => Ok(Some(path)),
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) => Err(problem(id, file, &error)),
    }
}

fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match &**error {
            ureq::Error::StatusCode(code) => Some(*code),
            _ => None,
        },
        ApiError::TooManyRetries(error) => status(error),
        _ => None,
    }
}

fn problem(id: &HubId, file: &str, error: &ApiError) -> ModelError {
    let advice = match status(error) {
        Some(401 | 403) => "the model is gated or private: accept its licence on the hub and set HF_TOKEN",
        _ => "check the connection; files that are cached load without one",
    };
    ModelError::reference(&id.to_string(), format!("cannot download {file}: {error}; {advice}"))
}

/// Passes the progress of a download on.
struct Reporter<'a> {
    progress: &'a dyn Progress,
    /// `hf-hub` announces a download once more for every try.
    has_begun: bool,
}

impl hf_hub::api::Progress for Reporter<'_> {
    fn init(&mut self, size: usize, filename: &str) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.progress.begin(&format!("download {filename}"), size as u64);
        }
    }

    fn update(&mut self, size: usize) {
        self.progress.advance(size as u64);
    }

    fn finish(&mut self) {
        self.progress.finish();
    }
}
