//! How much of a document is computed again in a request's own context, and where documents stand.

use std::fmt;
use std::str::FromStr;

use crate::{AttentionMode, DocumentFocus, ParamError};

/// A rung of the ladder from full reuse to full exactness.
///
/// What is computed again is text of the request: it sees everything before it, and is found again by requests that begin
/// in the same way. Everything else is the shared copy of the document, untouched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Exactness {
    /// Nothing is computed again: each document was encoded alone. Full quality needs a block-tuned model.
    #[default]
    Block,
    /// The first tokens of each document, which draw attention as the beginning of everything in a copy encoded alone.
    Head {
        /// How many of them, rounded up to where views may begin; a shorter document is computed again whole.
        num_tokens: u32,
    },
    /// The first and the last tokens of each document. In a real context the last ones gather what stands before them, of other
    /// documents too, for the tokens behind.
    Edges {
        /// How many at each end, at the first rounded up to where views may begin; a document of no more than both is computed
        /// again whole.
        num_tokens: u32,
    },
    /// Nothing is computed again, but documents are encoded behind the text in front of the first one, and see it: a copy for
    /// each such text.
    Preamble,
    /// The tokens whose keys differ most from those of a real context.
    Selective {
        /// Part of each document's tokens, from 0 to 100, in whole KV blocks.
        percent: u32,
    },
    /// Everything: documents are ordinary text of one causal context, and reuse ends at the first difference.
    Full,
}

impl Exactness {
    /// Whether documents are encoded apart from the context at all.
    #[must_use]
    pub fn attention(self) -> AttentionMode {
        if self == Exactness::Full { AttentionMode::Full } else { AttentionMode::Block }
    }

    /// Checks the range of a percentage.
    ///
    /// # Errors
    /// [`ParamError`] with the field `exactness`.
    pub fn validate(self) -> Result<(), ParamError> {
        match self {
            Exactness::Selective { percent } if percent > 100 => Err(ParamError {
                field: "exactness",
                value: self.to_string(),
                allowed: "at most selective:100",
            }),
            _ => Ok(()),
        }
    }
}

impl From<AttentionMode> for Exactness {
    fn from(mode: AttentionMode) -> Exactness {
        match mode {
            AttentionMode::Block => Exactness::Block,
            AttentionMode::Full => Exactness::Full,
        }
    }
}

impl fmt::Display for Exactness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exactness::Block => f.pad("block"),
            Exactness::Head { num_tokens } => write!(f, "head:{num_tokens}"),
            Exactness::Edges { num_tokens } => write!(f, "edges:{num_tokens}"),
            Exactness::Preamble => f.pad("preamble"),
            Exactness::Selective { percent } => write!(f, "selective:{percent}"),
            Exactness::Full => f.pad("full"),
        }
    }
}

/// A text that names no rung.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not block, head:TOKENS, edges:TOKENS, preamble, selective:PERCENT (0 to 100) or full")]
pub struct UnknownExactness(String);

impl FromStr for Exactness {
    type Err = UnknownExactness;

    fn from_str(text: &str) -> Result<Exactness, UnknownExactness> {
        let unknown = || UnknownExactness(text.to_owned());
        let exactness = match text.split_once(':') {
            None if text == "block" => Exactness::Block,
            None if text == "preamble" => Exactness::Preamble,
            None if text == "full" => Exactness::Full,
            Some(("head", number)) => Exactness::Head { num_tokens: number.parse().map_err(|_| unknown())? },
            Some(("edges", number)) => {
                Exactness::Edges { num_tokens: number.parse().map_err(|_| unknown())? }
            }
            Some(("selective", number)) => {
                Exactness::Selective { percent: number.parse().map_err(|_| unknown())? }
            }
            _ => return Err(unknown()),
        };
        exactness.validate().map_err(|_| unknown())?;
        Ok(exactness)
    }
}

/// Where the documents of a context stand. A start is only metadata: no placement touches a key or a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Placement {
    /// One behind the other: the positions that a single causal context would have.
    #[default]
    Consecutive,
    /// Every document at position 0, where it was encoded; texts stand where they would in a single context. What reuse
    /// without position handling gives, for comparison.
    Local,
    /// Neighbouring documents at one position, and the text behind them behind the longest, as in parallel encoding (Yang et
    /// al., arXiv:2502.05431).
    Parallel,
}

/// How a [`ContextBuilder`](crate::ContextBuilder) treats documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextRules {
    /// How much of them is computed again.
    pub exactness: Exactness,
    /// Where they stand.
    pub placement: Placement,
    /// Views of documents begin at multiples of so many tokens: what the executor's [`view_grain`](crate::Executor::view_grain)
    /// says, at least one.
    pub view_grain: u32,
    /// How texts look at them.
    pub focus: DocumentFocus,
}

impl ContextRules {
    /// Checks that the placement and the rung go together.
    ///
    /// # Errors
    /// [`ParamError`] with the field `exactness` for a percentage above 100, or `placement` for one that is not consecutive
    /// where documents are, or are partly, text of the context; `focus` where all of them are, so that there is nothing to
    /// look at.
    pub fn validate(&self) -> Result<(), ParamError> {
        self.exactness.validate()?;
        if self.focus.is_on() && self.exactness == Exactness::Full {
            return Err(ParamError {
                field: "focus",
                value: format!("{} and {}", self.focus.temperature(), self.focus.scale()),
                allowed: "1 and 1 where documents are text of the context (full, or a kv-policy that makes them so)",
            });
        }
        let is_apart = matches!(self.exactness, Exactness::Block | Exactness::Preamble);
        if self.placement == Placement::Consecutive || is_apart {
            return Ok(());
        }
        Err(ParamError {
            field: "placement",
            value: format!("{:?} with {}", self.placement, self.exactness),
            allowed: "Consecutive unless the exactness is block or preamble",
        })
    }
}

impl From<Exactness> for ContextRules {
    fn from(exactness: Exactness) -> ContextRules {
        let placement = Placement::Consecutive;
        ContextRules { exactness, placement, view_grain: 1, focus: DocumentFocus::OFF }
    }
}

impl From<AttentionMode> for ContextRules {
    fn from(mode: AttentionMode) -> ContextRules {
        ContextRules::from(Exactness::from(mode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rung_is_read_as_it_is_written() {
        let rungs = ["block", "head:0", "head:16", "edges:8", "preamble", "selective:10", "full"];
        for text in rungs {
            assert_eq!(text.parse::<Exactness>().unwrap().to_string(), text);
        }
        for text in ["", "Block", "head", "head:", "head:-1", "edges:", "selective:101", "full:1", "block:2"]
        {
            assert!(text.parse::<Exactness>().is_err(), "{text}");
        }
    }

    #[test]
    fn documents_that_are_text_stand_where_text_does() {
        let rules = |exactness, placement| ContextRules { placement, ..ContextRules::from(exactness) };
        for placement in [Placement::Local, Placement::Parallel] {
            rules(Exactness::Block, placement).validate().unwrap();
            rules(Exactness::Preamble, placement).validate().unwrap();
            for exactness in
                [Exactness::Full, Exactness::Head { num_tokens: 1 }, Exactness::Edges { num_tokens: 1 }]
            {
                assert_eq!(rules(exactness, placement).validate().unwrap_err().field, "placement");
            }
        }
        rules(Exactness::Full, Placement::Consecutive).validate().unwrap();
        let focus = DocumentFocus::new(0.5, 1.0).unwrap();
        let focused = |exactness| ContextRules { focus, ..ContextRules::from(exactness) };
        assert_eq!(focused(Exactness::Full).validate().unwrap_err().field, "focus");
        focused(Exactness::Head { num_tokens: 16 }).validate().unwrap();
        let too_much = rules(Exactness::Selective { percent: 101 }, Placement::Consecutive);
        assert_eq!(too_much.validate().unwrap_err().field, "exactness");
    }
}
