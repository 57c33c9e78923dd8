//! The cache on disk, shared with other Hugging Face tools.

use std::path::PathBuf;

use crate::HubId;
use crate::weights::HubOptions;

/// The part of the cache that belongs to one model.
pub(super) struct Cache {
    root: PathBuf,
    revision: String,
}

impl Cache {
    pub(super) fn of(id: &HubId, options: &HubOptions) -> Cache {
        let folder = format!("models--{}", id.repository.replace('/', "--"));
        Cache { root: options.cache.join(folder), revision: id.revision.clone() }
    }

    /// The commit `revision` stood for when it was last downloaded; a commit stands for itself.
    fn commit(&self) -> Option<String> {
        let stored = std::fs::read_to_string(self.root.join("refs").join(&self.revision)).ok();
        let commit = stored.map_or_else(|| self.revision.clone(), |text| text.trim().to_owned());
        let plain = !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric());
        plain.then_some(commit)
    }

    fn snapshot(&self) -> Option<PathBuf> {
        Some(self.root.join("snapshots").join(self.commit()?))
    }

    /// The cached `file`.
    pub(super) fn get(&self, file: &str) -> Option<PathBuf> {
        self.snapshot().map(|snapshot| snapshot.join(file)).filter(|path| path.exists())
    }

    fn absence_mark(&self, file: &str) -> Option<PathBuf> {
        Some(self.root.join(".no_exist").join(self.commit()?).join(file))
    }

    /// Whether the hub has said that this revision has no `file`.
    pub(super) fn is_known_absent(&self, file: &str) -> bool {
        self.absence_mark(file).is_some_and(|mark| mark.exists())
    }

    /// Remembers that this revision has no `file`, as other tools do. Failing to is harmless: it is asked again.
    pub(super) fn mark_absent(&self, file: &str) {
        if let Some(mark) = self.absence_mark(file)
            && let Some(parent) = mark.parent()
            && std::fs::create_dir_all(parent).is_ok()
        {
            drop(std::fs::write(mark, b""));
        }
    }
}

/// Models of which the cache holds a config, as `organisation/name`, sorted.
pub(crate) fn cached_models(options: &HubOptions) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(&options.cache) else { return Vec::new() };
    let mut models: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let (organisation, name) = name.strip_prefix("models--")?.split_once("--")?;
            Some(format!("{organisation}/{name}"))
        })
        .collect();
    models.sort();
    models
}
