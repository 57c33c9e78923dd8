//! How KV is reused: this system, and what others do, for comparison in one engine.

use std::fmt;
use std::str::FromStr;

/// What becomes of the KV of a document that is needed again.
///
/// The control plane names the policy, the data plane what it asks of stored keys ([`KvPolicy::stored_keys`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KvPolicy {
    /// Keys are stored rotated to places in their document, and the kernel rotates the query: one copy serves every position.
    #[default]
    Lazy,
    /// Keys are stored rotated to positions of the context: a document at another position is a copy whose keys are rotated
    /// once more (Block-Attention, arXiv:2409.15355). A copy that nobody holds is moved where it lies.
    Reencode,
    /// The same, but nothing is moved: each place at which a document is needed takes a copy of its own.
    ReencodeCopy,
    /// Keys are stored as they are and rotated each time they are read: one copy, and a costlier kernel (MEPIC).
    RotateKeys,
    /// Documents are ordinary text; what is computed is reused up to the first difference.
    Prefix,
    /// Documents are ordinary text, and nothing is reused.
    None,
}

impl KvPolicy {
    /// Those that are compared unless somebody asks for others, this system first. [`KvPolicy::ReencodeCopy`] is not among them:
    /// it is a weaker [`KvPolicy::Reencode`], for a row beside it.
    pub const ALL: [KvPolicy; 5] =
        [KvPolicy::Lazy, KvPolicy::Reencode, KvPolicy::RotateKeys, KvPolicy::Prefix, KvPolicy::None];

    /// Those that have a name.
    fn named() -> impl Iterator<Item = KvPolicy> {
        KvPolicy::ALL.into_iter().chain([KvPolicy::ReencodeCopy])
    }

    /// Its name in settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            KvPolicy::Lazy => "lazy",
            KvPolicy::Reencode => "reencode",
            KvPolicy::ReencodeCopy => "reencode-copy",
            KvPolicy::RotateKeys => "rotate-keys",
            KvPolicy::Prefix => "prefix",
            KvPolicy::None => "none",
        }
    }

    /// How an executor stores keys for it.
    #[must_use]
    pub fn stored_keys(self) -> StoredKeys {
        match self {
            KvPolicy::RotateKeys => StoredKeys::Raw,
            KvPolicy::Lazy
            | KvPolicy::Reencode
            | KvPolicy::ReencodeCopy
            | KvPolicy::Prefix
            | KvPolicy::None => StoredKeys::Rotated,
        }
    }

    /// Whether the stored KV of a segment is of use at one place only.
    #[must_use]
    pub fn has_places(self) -> bool {
        matches!(self, KvPolicy::Reencode | KvPolicy::ReencodeCopy)
    }

    /// Whether documents are ordinary text of one causal context, whatever a request asks for.
    #[must_use]
    pub fn inlines_documents(self) -> bool {
        matches!(self, KvPolicy::Prefix | KvPolicy::None)
    }
}

impl fmt::Display for KvPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// There is no such policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no KV policy {0:?}; it is one of lazy, reencode, reencode-copy, rotate-keys, prefix and none"
)]
pub struct UnknownPolicy(pub String);

impl FromStr for KvPolicy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<KvPolicy, UnknownPolicy> {
        KvPolicy::named().find(|policy| policy.name() == name).ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

/// How keys are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum StoredKeys {
    /// Rotated once, to their distance from the [origin](crate::SegmentView::origin) of their segment.
    #[default]
    Rotated,
    /// As they are, and rotated whenever they are read.
    Raw,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_read_by_the_name_it_is_written_as() {
        for policy in KvPolicy::named() {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert!("Lazy".parse::<KvPolicy>().is_err());
    }
}
