//! A tokenizer without a model: token `b` is byte `b`, then two special tokens.

use std::sync::Arc;

use lazy_attn_testkit::byte_vocab;
use lazy_attn_text::{TextError, Tokenizer};
use lazy_attn_types::{SpecialTokens, TokenId, TokenizerSource};

/// `<|end|>`, which ends an answer.
pub(crate) const END: TokenId = TokenId(256);
/// `<|start|>`, the beginning of text.
pub(crate) const BOS: TokenId = TokenId(257);
/// Tokens of the vocabulary.
pub(crate) const VOCAB_SIZE: u32 = 258;

/// Whether the model asks for [`BOS`] at position 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bos {
    Add,
    Omit,
}

/// The tokenizer.
pub(crate) fn byte_tokenizer(bos: Bos) -> Result<Arc<Tokenizer>, TextError> {
    let vocab = byte_vocab(&["<|end|>", "<|start|>"]);
    let special = SpecialTokens {
        bos: Some(BOS),
        end: vec![END],
        add_bos: bos == Bos::Add,
        ..SpecialTokens::default()
    };
    Ok(Arc::new(Tokenizer::from_source(&TokenizerSource::Gguf(Arc::new(vocab)), &special)?))
}
