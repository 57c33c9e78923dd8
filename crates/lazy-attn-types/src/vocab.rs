//! What a model file says about its tokenizer, as plain data.
//!
//! `lazy-attn-models` reads it, `lazy-attn-text` builds a tokenizer from it; neither depends on the other.

use std::sync::Arc;

use crate::TokenId;

/// Where a tokenizer comes from.
#[derive(Debug, Clone)]
pub enum TokenizerSource {
    /// The bytes of a Hugging Face `tokenizer.json`.
    Json(Arc<[u8]>),
    /// The vocabulary inside a GGUF file.
    Gguf(Arc<BpeVocab>),
}

/// A GGUF vocabulary (`tokenizer.ggml.*`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BpeVocab {
    /// `tokenizer.ggml.model`: `gpt2` is byte-level BPE, `llama` is SentencePiece.
    pub model: String,
    /// `tokenizer.ggml.pre`: name of the pre-tokeniser, for example `smollm` or `llama-bpe`.
    pub pre: String,
    /// Token texts by id.
    pub tokens: Vec<String>,
    /// Merges in rank order, each `left right`.
    pub merges: Vec<String>,
    /// Token types by id (1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte); may be empty.
    pub token_types: Vec<u32>,
    /// Scores by id (SentencePiece); may be empty.
    pub scores: Vec<f32>,
}

/// Special tokens and the template of a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SpecialTokens {
    /// Beginning of text.
    pub bos: Option<TokenId>,
    /// Tokens that end an answer, at least one for a chat model.
    pub end: Vec<TokenId>,
    /// Whether the model asks for `bos` at position 0.
    pub add_bos: bool,
    /// The chat template (Jinja), if the model has one.
    pub chat_template: Option<String>,
}
