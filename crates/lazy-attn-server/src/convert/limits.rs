//! What a request may ask for at most, and what it gets when it does not ask.

use lazy_attn_types::{Exactness, SamplingParams, StopParams};

/// Bounds of one request, checked before anything is tokenised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most parts of a prompt.
    pub max_parts: usize,
    /// Most documents of a prompt.
    pub max_documents: usize,
    /// Longest text of one part in bytes; a token id counts as four.
    pub max_part_bytes: usize,
    /// Longest text of all parts in bytes; a token id counts as four.
    pub max_prompt_bytes: usize,
    /// Longest name: request id, title, model.
    pub max_name_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_parts: 256,
            max_documents: 128,
            max_part_bytes: 4 << 20,
            max_prompt_bytes: 16 << 20,
            max_name_bytes: 1024,
        }
    }
}

/// What fields that a request leaves out mean.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Defaults {
    /// Rung of a request that names none.
    pub exactness: Exactness,
    /// Sampling of a request without options.
    pub sampling: SamplingParams,
    /// Stopping of a request without options.
    pub stopping: StopParams,
}
