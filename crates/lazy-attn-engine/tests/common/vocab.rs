//! A tokenizer without a model: token `b` is byte `b`, then two special tokens.

use std::sync::Arc;

use lazy_attn_text::{TextError, Tokenizer};
use lazy_attn_types::{BpeVocab, SpecialTokens, TokenId, TokenizerSource};

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
    // The byte-level alphabet of GPT-2: printable bytes stand for themselves, the others for characters from U+0100.
    let mut next_other = 0x100..;
    let byte_text = |byte: u8| match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte).to_string(),
        _ => next_other.next().and_then(char::from_u32).into_iter().collect(),
    };
    let bytes = (0..=u8::MAX).map(byte_text);
    let vocab = BpeVocab {
        model: "gpt2".into(),
        pre: "smollm".into(),
        tokens: bytes.chain(["<|end|>".into(), "<|start|>".into()]).collect(),
        token_types: [vec![1; 256], vec![3; 2]].concat(),
        ..BpeVocab::default()
    };
    let special = SpecialTokens {
        bos: Some(BOS),
        end: vec![END],
        add_bos: bos == Bos::Add,
        ..SpecialTokens::default()
    };
    Ok(Arc::new(Tokenizer::from_source(&TokenizerSource::Gguf(Arc::new(vocab)), &special)?))
}
