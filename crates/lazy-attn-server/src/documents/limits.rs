//! Bounds of the registry.

use std::collections::BTreeMap;
use std::time::Duration;

use super::DocumentError;

/// Most that documents may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentLimits {
    /// Documents of one tenant.
    pub max_documents: usize,
    /// Bytes of retained tokens of one tenant.
    pub max_tenant_bytes: u64,
    /// Bytes of retained tokens of all tenants.
    pub max_total_bytes: u64,
    /// Tokens of pinned documents of one tenant.
    pub max_pinned_tokens: u64,
    /// Labels of a document.
    pub max_labels: usize,
    /// Longest key of a label in bytes.
    pub max_label_key_bytes: usize,
    /// Longest value of a label in bytes.
    pub max_label_value_bytes: usize,
    /// Longest display name in bytes.
    pub max_name_bytes: usize,
    /// Time after which a document that names none is forgotten; `None`: never.
    pub default_ttl: Option<Duration>,
}

impl Default for DocumentLimits {
    fn default() -> Self {
        DocumentLimits {
            max_documents: 100_000,
            max_tenant_bytes: 256 << 20,
            max_total_bytes: 1 << 30,
            max_pinned_tokens: u64::MAX,
            max_labels: 32,
            max_label_key_bytes: 63,
            max_label_value_bytes: 256,
            max_name_bytes: 1024,
            default_ttl: None,
        }
    }
}

impl DocumentLimits {
    pub(super) fn check_name(&self, name: &str) -> Result<(), DocumentError> {
        if name.len() <= self.max_name_bytes {
            return Ok(());
        }
        let (given, max) = (name.len(), self.max_name_bytes);
        Err(DocumentError::field(
            "display_name",
            format!("has {given} bytes, at most {max} are allowed; shorten it"),
        ))
    }

    pub(super) fn check_labels(&self, labels: &BTreeMap<String, String>) -> Result<(), DocumentError> {
        if labels.len() > self.max_labels {
            let (given, max) = (labels.len(), self.max_labels);
            let problem = format!("has {given} entries, at most {max} are allowed; remove some");
            return Err(DocumentError::field("labels", problem));
        }
        for (key, value) in labels {
            if !(1..=self.max_label_key_bytes).contains(&key.len()) {
                let (given, max) = (key.len(), self.max_label_key_bytes);
                let problem = format!("has a key of {given} bytes, but keys have 1 to {max}; rename it");
                return Err(DocumentError::field("labels", problem));
            }
            if value.len() > self.max_label_value_bytes {
                let (given, max) = (value.len(), self.max_label_value_bytes);
                let problem = format!("has {given} bytes, at most {max} are allowed; shorten it");
                return Err(DocumentError::field(format!("labels[{key:?}]"), problem));
            }
        }
        Ok(())
    }
}
