//! What is compared: a policy, and how often documents are read that several sequences share.

use std::fmt;
use std::str::FromStr;

use lazy_attn_types::{KvPolicy, SharedReads};

/// Behind the name of a policy: every sequence reads its documents on its own.
const UNGROUPED: &str = "-ungrouped";

/// One row of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contender {
    /// How KV is reused.
    pub policy: KvPolicy,
    /// How often a document is read that several sequences of a step see.
    pub reads: SharedReads,
}

impl From<KvPolicy> for Contender {
    fn from(policy: KvPolicy) -> Contender {
        Contender { policy, reads: SharedReads::Once }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = match self.reads {
            SharedReads::Once => "",
            SharedReads::Apart => UNGROUPED,
        };
        f.pad(&format!("{}{suffix}", self.policy.name()))
    }
}

impl FromStr for Contender {
    type Err = String;

    fn from_str(name: &str) -> Result<Contender, String> {
        let (policy, reads) = match name.strip_suffix(UNGROUPED) {
            Some(policy) => (policy, SharedReads::Apart),
            None => (name, SharedReads::Once),
        };
        let policy = policy.parse::<KvPolicy>();
        let policy =
            policy.map_err(|error| format!("{error}, each with {UNGROUPED} behind it or without"))?;
        Ok(Contender { policy, reads })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contender_is_read_by_the_name_it_is_written_as() {
        for name in ["lazy", "reencode-ungrouped", "reencode-copy", "prefix-ungrouped"] {
            assert_eq!(name.parse::<Contender>().map(|contender| contender.to_string()), Ok(name.to_owned()));
        }
        let error = "best-ungrouped".parse::<Contender>().unwrap_err();
        assert!(error.contains("\"best\"") && error.contains("-ungrouped"), "{error}");
    }
}
