//! The error of this crate.

/// Why a tokenizer or template could not be built, or a text could not be converted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// Something is larger than its bound.
    #[error("{what} is {got}, more than the {max} allowed")]
    TooLarge {
        /// What was measured, with its unit.
        what: &'static str,
        /// Its size.
        got: u64,
        /// The bound.
        max: u64,
    },
    /// The file asks for something this crate does not do; guessing would change the tokens.
    #[error("tokenizer: {key} is {value:?}, which is not supported; supported: {supported}")]
    Unsupported {
        /// The key in the file.
        key: String,
        /// What it says.
        value: String,
        /// What would be accepted.
        supported: &'static str,
    },
    /// The vocabulary contradicts itself.
    #[error("tokenizer vocabulary: {0}")]
    InvalidVocab(String),
    /// A merge rule cannot be applied.
    #[error("tokenizer merge {line} ({merge:?}): {problem}")]
    InvalidMerge {
        /// 1-based line of the merge list.
        line: usize,
        /// The rule as written.
        merge: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The bytes are not a `tokenizer.json`.
    #[error("tokenizer.json cannot be read: {0}")]
    InvalidJson(String),
    /// A special token lies outside the vocabulary.
    #[error("special token {role} has id {id}, but the tokenizer has {vocab_size} tokens")]
    SpecialTokenOutOfRange {
        /// `bos` or `end`.
        role: &'static str,
        /// Its id.
        id: u32,
        /// Tokens of the tokenizer.
        vocab_size: u32,
    },
    /// A token id is not in the vocabulary.
    #[error("token {id} is not in the vocabulary of {vocab_size} tokens")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Tokens of the tokenizer.
        vocab_size: u32,
    },
    /// The tokenizer refused the text.
    #[error("the text cannot be tokenised: {0}")]
    Encode(String),
    /// The chat template does not parse, does not render, or refuses the conversation.
    #[error("chat template{}: {problem}", .line.map(|line| format!(" line {line}")).unwrap_or_default())]
    Template {
        /// 1-based line of the template, where known.
        line: Option<usize>,
        /// What went wrong; for `raise_exception` the template's own words.
        problem: String,
    },
}

/// Checks `got` against `max`.
///
/// # Errors
/// [`TextError::TooLarge`] if it is larger.
pub(crate) fn check_size(what: &'static str, got: usize, max: usize) -> Result<(), TextError> {
    if got <= max {
        return Ok(());
    }
    Err(TextError::TooLarge { what, got: got as u64, max: max as u64 })
}
