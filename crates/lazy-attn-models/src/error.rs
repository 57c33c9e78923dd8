//! The error of this crate.

use std::path::{Path, PathBuf};

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it claims to be.
    #[error("{path}: {problem}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the numbers, and what to do.
        problem: String,
    },
    /// A config key is missing, unknown or has a value this engine cannot run exactly.
    #[error("config key `{key}`: {problem}")]
    Config {
        /// The key.
        key: String,
        /// What is wrong and what would work.
        problem: String,
    },
    /// A tensor is missing or does not fit the config.
    #[error("tensor `{name}`: {problem}")]
    Tensor {
        /// Its Hugging Face name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A model reference names nothing that can be loaded.
    #[error("model `{reference}`: {problem}")]
    Reference {
        /// The reference as it was given.
        reference: String,
        /// What is wrong and what would work.
        problem: String,
    },
    /// Attention does not take the model's sizes, or its KV store does not fit.
    #[error(transparent)]
    Attention(#[from] lazy_attn::AttnError),
    /// Devices cannot share the model.
    #[error("{world} devices cannot share the model: {problem}")]
    Shard {
        /// Devices that were to share it.
        world: usize,
        /// What is wrong, with the numbers, and what would work.
        problem: String,
    },
    /// The worker threads could not be started.
    #[error("cannot start {num_threads} threads: {problem}; ask for fewer")]
    Threads {
        /// Threads asked for.
        num_threads: usize,
        /// What the system said.
        problem: String,
    },
}

impl ModelError {
    pub(crate) fn format(path: &Path, problem: impl Into<String>) -> ModelError {
        ModelError::Format { path: path.into(), problem: problem.into() }
    }

    pub(crate) fn config(key: &str, problem: impl Into<String>) -> ModelError {
        ModelError::Config { key: key.into(), problem: problem.into() }
    }

    pub(crate) fn tensor(name: &str, problem: impl Into<String>) -> ModelError {
        ModelError::Tensor { name: name.into(), problem: problem.into() }
    }

    pub(crate) fn reference(reference: &str, problem: impl Into<String>) -> ModelError {
        ModelError::Reference { reference: reference.into(), problem: problem.into() }
    }
}
