//! The error of this crate.

use std::io;

use lazy_attn_engine::EngineError;

/// Why an evaluation could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file is larger than what is read into memory.
    #[error("{path} unpacks to more than {max_bytes} bytes; split it")]
    TooLarge {
        /// The file.
        path: String,
        /// Most bytes that are read.
        max_bytes: u64,
    },
    /// An entry of a question set is not in a layout that is known.
    #[error("{path}, entry {entry}: {problem}")]
    Entry {
        /// The file.
        path: String,
        /// Its number, from 1.
        entry: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A question set has no question.
    #[error("{path} holds no question")]
    Empty {
        /// The set.
        path: String,
    },
    /// A name stands for nothing.
    #[error("{what} {name:?} is not known; give one of {known}")]
    Unknown {
        /// Of what.
        what: &'static str,
        /// The name.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The engine refused or failed a request.
    #[error("question {question} in mode {mode}: {source}")]
    Engine {
        /// Number of the question, from 1.
        question: usize,
        /// The mode.
        mode: String,
        /// Why.
        source: EngineError,
    },
    /// No question could be asked in every mode.
    #[error("none of the {questions} questions fits the model in every mode; the last refusal: {last}")]
    NoneFits {
        /// Questions of the set.
        questions: usize,
        /// Why the last one was left out.
        last: EngineError,
    },
}
