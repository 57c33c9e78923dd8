//! How KV is reused.

use std::fmt;

/// What becomes of the KV of a document that is needed again. Copies that are rotated to another position (`reencode`) are
/// not simulated yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// One copy serves every position, and one reading all who have it.
    #[default]
    Lazy,
    /// One copy, whose keys are rotated as they are read: a reading serves those who have it at one position.
    RotateKeys,
    /// Documents are ordinary text; what is computed is reused up to the first difference.
    Prefix,
    /// Documents are ordinary text, and nothing is reused.
    None,
}

impl Policy {
    /// All of them, this system first.
    pub const ALL: [Policy; 4] = [Policy::Lazy, Policy::RotateKeys, Policy::Prefix, Policy::None];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Policy::Lazy => "lazy",
            Policy::RotateKeys => "rotate-keys",
            Policy::Prefix => "prefix",
            Policy::None => "none",
        }
    }

    /// Whether documents are ordinary text of one causal context.
    #[must_use]
    pub fn inlines_documents(self) -> bool {
        matches!(self, Policy::Prefix | Policy::None)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
