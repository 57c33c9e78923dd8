//! Where the hub and its cache are.

use std::path::PathBuf;

/// Settings of the Hugging Face hub.
#[derive(Clone, PartialEq, Eq)]
pub struct HubOptions {
    /// Directory of the cache: `models--organisation--name` lie in it.
    pub cache: PathBuf,
    /// Address of the hub.
    pub endpoint: String,
    /// Token of the user, for gated and private models.
    pub token: Option<String>,
    /// Whether the hub may be asked for files the cache does not hold.
    pub access: HubAccess,
}

/// Whether the network is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubAccess {
    /// The cache first, then the hub.
    Online,
    /// The cache only.
    CacheOnly,
}

impl HubOptions {
    /// The settings other Hugging Face tools would use: `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN` and
    /// `HF_HUB_OFFLINE`; without a token the one `huggingface-cli login` stored.
    #[must_use]
    pub fn from_env() -> HubOptions {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = set("HF_HOME").map_or_else(
            || std::env::home_dir().unwrap_or_default().join(".cache").join("huggingface"),
            PathBuf::from,
        );
        let stored = || {
            let token = std::fs::read_to_string(home.join("token")).ok()?;
            Some(token.trim().to_owned()).filter(|token| !token.is_empty())
        };
        let offline =
            text("HF_HUB_OFFLINE").is_some_and(|value| !matches!(value.as_str(), "0" | "false" | "no"));
        HubOptions {
            cache: set("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token: text("HF_TOKEN").or_else(stored),
            access: if offline { HubAccess::CacheOnly } else { HubAccess::Online },
        }
    }
}

impl std::fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubOptions")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| ".."))
            .field("access", &self.access)
            .finish()
    }
}
