//! What is compared: how a request treats its documents.

use std::fmt;
use std::str::FromStr;

use lazy_attn_engine::{CacheUse, GenerateRequest};
use lazy_attn_types::{DocumentFocus, Exactness, Placement};

use crate::EvalError;

/// Ends the name of a mode that computes everything for each request and keeps nothing.
const UNCACHED: &str = "-uncached";
/// What there is, for messages.
const KNOWN: &str = "full, block, head-K, edges-K, preamble, selective-P, local, parallel, none; but for full and none also with \
                     -T-S (temperature and scale, from 0.1 to 4) behind it, and each with -uncached";

/// One way to ask a question. Its text form is its name: `full`, `block`, `head-16`, `edges-8`, `preamble`, `selective-10`, `local`,
/// `parallel` or `none`. Behind one that has shared copies of documents may stand how they are looked at, as temperature and
/// scale (`block-0.8-0.9`, `head-16-0.8-0.9`), and at the end of each `-uncached`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// How the documents are seen.
    pub documents: Documents,
    /// How they are looked at.
    pub focus: DocumentFocus,
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
    pub const NO_DOCUMENTS: Mode = Mode::with(Documents::Absent);

    const fn placed(exactness: Exactness) -> Mode {
        Mode::with(Documents::Placed(exactness))
    }

    const fn with(documents: Documents) -> Mode {
        Mode { documents, focus: DocumentFocus::OFF, cache: CacheUse::ReadWrite }
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
        GenerateRequest { exactness, placement, focus: self.focus, cache: self.cache, ..request }
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
        if self.focus.is_on() {
            write!(f, "-{}-{}", self.focus.temperature(), self.focus.scale())?;
        }
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
        let unfocused = documents(plain).map(|documents| (documents, DocumentFocus::OFF));
        match unfocused.or_else(|| focused(plain)) {
            Some((documents, focus)) => Ok(Mode { documents, focus, cache }),
            None => Err(EvalError::Unknown { what: "mode", name: name.into(), known: KNOWN.into() }),
        }
    }
}

fn documents(name: &str) -> Option<Documents> {
    match name {
        "none" => Some(Documents::Absent),
        "local" => Some(Documents::Misplaced(Placement::Local)),
        "parallel" => Some(Documents::Misplaced(Placement::Parallel)),
        _ => name.replacen('-', ":", 1).parse().ok().map(Documents::Placed),
    }
}

/// A name with temperature and scale behind it.
fn focused(name: &str) -> Option<(Documents, DocumentFocus)> {
    let (name, scale) = name.rsplit_once('-')?;
    let (name, temperature) = name.rsplit_once('-')?;
    let focus = DocumentFocus::new(temperature.parse().ok()?, scale.parse().ok()?).ok()?;
    let has_copies =
        |documents: &Documents| !matches!(documents, Documents::Absent | Documents::Placed(Exactness::Full));
    documents(name).filter(has_copies).map(|documents| (documents, focus))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let names =
            ["full", "block", "head-16", "edges-8", "preamble", "selective-10", "local", "parallel", "none"];
        let focused = [
            "block-0.8-0.9",
            "parallel-0.5-1",
            "head-16-1-0.75",
            "edges-8-0.9-1",
            "preamble-2-1",
            "selective-10-0.1-4",
        ];
        let names = names.into_iter().chain(focused);
        for name in names.flat_map(|name| [name.to_owned(), format!("{name}{UNCACHED}")]) {
            assert_eq!(name.parse::<Mode>().unwrap().to_string(), name);
        }
        assert_eq!("block-1-1".parse::<Mode>().unwrap(), Mode::BLOCK);
        let wrong = ["block-0.8", "head-0.8-0.9", "none-0.8-0.9", "full-0.8-0.9", "block-0-1", "block-1-5"];
        for name in ["head-", "head-x", "blocks", "", "-uncached", "selective--1"].into_iter().chain(wrong) {
            let error = name.parse::<Mode>().unwrap_err().to_string();
            assert!(error.contains("selective-P"), "{error}");
        }
    }
}
