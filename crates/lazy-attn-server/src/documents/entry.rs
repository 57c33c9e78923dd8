//! A document and its pin.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use lazy_attn_types::{SegmentKey, TokenId};

/// Whether the engine keeps the KV of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinState {
    /// It does not.
    Unpinned,
    /// It was asked to, and has not answered yet.
    Pinning,
    /// It does.
    Pinned,
}

/// A registered document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDocument {
    /// Its name.
    pub key: SegmentKey,
    /// Its content.
    pub tokens: Arc<[TokenId]>,
    /// Bytes its KV takes.
    pub kv_bytes: u64,
    /// A name for people.
    pub display_name: String,
    /// The tenant's own marks.
    pub labels: BTreeMap<String, String>,
    /// Its pin.
    pub pin: PinState,
    /// When it is forgotten.
    pub expires: Option<SystemTime>,
    /// When it was put first.
    pub created: SystemTime,
    /// When a request used it last.
    pub last_used: Option<SystemTime>,
    /// Requests that used it.
    pub use_count: u64,
    /// Number of its last change, of all changes of all documents.
    pub revision: u64,
    /// Place among all documents ever put.
    pub serial: u64,
}

impl StoredDocument {
    /// `documents/{key}`.
    #[must_use]
    pub fn name(&self) -> String {
        name_of(&self.key)
    }

    /// Changes with every change of what people attach to the document.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("{:016x}", self.revision)
    }

    pub(super) fn num_bytes(&self) -> u64 {
        // A map entry, its strings and the tokens; the constant covers the entry itself.
        let labels: usize = self.labels.iter().map(|(key, value)| key.len() + value.len() + 64).sum();
        (self.tokens.len() * size_of::<TokenId>() + self.display_name.len() + labels + 512) as u64
    }

    pub(super) fn num_tokens(&self) -> u64 {
        self.tokens.len() as u64
    }
}

/// `documents/{key}`.
pub(crate) fn name_of(key: &SegmentKey) -> String {
    format!("documents/{}", key.to_hex())
}

/// The key of `documents/{64 hexadecimal digits}`.
pub(crate) fn parse_name(name: &str) -> Option<SegmentKey> {
    let digits = name.strip_prefix("documents/")?.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(SegmentKey::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_and_anything_else_is_not_one() {
        let key = SegmentKey::from_bytes(std::array::from_fn(|index| index as u8 * 7));
        let name = name_of(&key);
        assert_eq!(parse_name(&name), Some(key));
        let (short, long) = (&name[..name.len() - 1], format!("{name}0"));
        let others =
            ["", "documents/", short, &long, &name.to_uppercase(), &name.replace("documents", "models")];
        assert!(others.iter().all(|other| parse_name(other).is_none()));
        assert_eq!(parse_name(&name.replace('0', "ü")), None);
    }
}
