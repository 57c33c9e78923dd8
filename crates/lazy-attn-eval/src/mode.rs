//! What is compared: how a request treats its documents.

use std::fmt;
use std::str::FromStr;

use lazy_attn_engine::{CacheUse, GenerateRequest};
use lazy_attn_types::{Exactness, Placement};

use crate::EvalError;

/// Ends the name of a mode that computes everything for each request and keeps nothing.
const UNCACHED: &str = "-uncached";
/// What there is, for messages.
const KNOWN: &str =
    "full, block, head-K, preamble, selective-P, local, parallel, none, each also with -uncached";

/// One way to ask a question. Its text form is its name: `full`, `block`, `head-16`, `preamble`, `selective-10`, `local`,
/// `parallel` or `none`, each also with `-uncached`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// How the documents are seen.
    pub documents: Documents,
    /// Whether KV is reused.
    pub cache: CacheUse,
}

/// How a mode sees the documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Documents {
    /// Not at all.
    Absent,
    /// At their right positions, more or less of them computed in the request's real context.
    Placed(Exactness),
    /// Encoded alone, at positions that are not consecutive.
    Misplaced(Placement),
}

impl Mode {
    /// The documents are ordinary text of one causal context.
    pub const FULL: Mode = Mode::placed(Exactness::Full);
    /// Each document is encoded alone and stands at its right position.
    pub const BLOCK: Mode = Mode::placed(Exactness::Block);
    /// The question without its documents.
    pub const NO_DOCUMENTS: Mode = Mode { documents: Documents::Absent, cache: CacheUse::ReadWrite };

    const fn placed(exactness: Exactness) -> Mode {
        Mode { documents: Documents::Placed(exactness), cache: CacheUse::ReadWrite }
    }

    /// The same with everything computed for each request.
    #[must_use]
    pub fn uncached(self) -> Mode {
        Mode { cache: CacheUse::Bypass, ..self }
    }

    /// Whether the model sees the documents.
    #[must_use]
    pub fn has_documents(self) -> bool {
        self.documents != Documents::Absent
    }

    /// `request`, asked this way.
    #[must_use]
    pub fn applied_to(self, request: GenerateRequest) -> GenerateRequest {
        let (exactness, placement) = match self.documents {
            Documents::Absent => (Exactness::Block, Placement::Consecutive),
            Documents::Placed(exactness) => (exactness, Placement::Consecutive),
            Documents::Misplaced(placement) => (Exactness::Block, placement),
        };
        GenerateRequest { exactness, placement, cache: self.cache, ..request }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.documents {
            Documents::Absent => f.write_str("none"),
            // Its own text form has a colon, which would have to be quoted in a list of modes.
            Documents::Placed(exactness) => f.write_str(&exactness.to_string().replace(':', "-")),
            Documents::Misplaced(Placement::Consecutive) => f.write_str("block"),
            Documents::Misplaced(Placement::Local) => f.write_str("local"),
            Documents::Misplaced(Placement::Parallel) => f.write_str("parallel"),
        }?;
        f.write_str(if self.cache == CacheUse::Bypass { UNCACHED } else { "" })
    }
}

impl FromStr for Mode {
    type Err = EvalError;

    fn from_str(name: &str) -> Result<Mode, EvalError> {
        let (plain, cache) = match name.strip_suffix(UNCACHED) {
            Some(plain) => (plain, CacheUse::Bypass),
            None => (name, CacheUse::ReadWrite),
        };
        let documents = match plain {
            "none" => Documents::Absent,
            "local" => Documents::Misplaced(Placement::Local),
            "parallel" => Documents::Misplaced(Placement::Parallel),
            _ => match plain.replacen('-', ":", 1).parse() {
                Ok(exactness) => Documents::Placed(exactness),
                Err(_) => {
                    return Err(EvalError::Unknown { what: "mode", name: name.into(), known: KNOWN.into() });
                }
            },
        };
        Ok(Mode { documents, cache })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let names = ["full", "block", "head-16", "preamble", "selective-10", "local", "parallel", "none"];
        for name in names.into_iter().flat_map(|name| [name.to_owned(), format!("{name}{UNCACHED}")]) {
            assert_eq!(name.parse::<Mode>().unwrap().to_string(), name);
        }
        for name in ["head-", "head-x", "blocks", "", "-uncached", "selective--1"] {
            let error = name.parse::<Mode>().unwrap_err().to_string();
            assert!(error.contains("selective-P"), "{error}");
        }
    }
}
