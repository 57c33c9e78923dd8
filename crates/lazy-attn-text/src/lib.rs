//! Bytes to tokens and back: tokenizer, chat template, incremental detokenizer.
//!
//! Every part of a prompt is tokenised alone, so the tokens of a document never depend on its neighbours. Reading order:
//!
//! * [`tokenizer`]: text to tokens, and the bytes of each token.
//! * `build`: tokenizers from `tokenizer.json` and from GGUF vocabularies.
//! * `table`: the bytes each token stands for.
//! * [`detokenizer`]: tokens to text, one token at a time, never splitting a character.
//! * [`chat`]: the model's own Jinja template, bounded in work and output.
//! * [`block`]: the prompt of a question over documents, as separate parts.
//! * [`error`]: the one error of this crate.

pub mod block;
mod build;
pub mod chat;
pub mod detokenizer;
pub mod error;
mod table;
#[cfg(test)]
mod test_vocab;
pub mod tokenizer;

pub use block::{BlockPrompt, BlockTemplate, Document};
pub use chat::{ChatInput, ChatMessage, ChatTemplate, GenerationPrompt, TemplateTokens};
pub use detokenizer::{DetokenizeOptions, Detokenizer, LeadingSpace, SpecialTokenText};
pub use error::TextError;
pub use tokenizer::Tokenizer;

/// The examples of the README, as tests.
#[cfg(doctest)]
mod readme {
    #![doc = include_str!("../README.md")]
}
