//! The vocabulary, special tokens and chat template of a GGUF file.

use std::sync::Arc;

use lazy_attn_types::{BpeVocab, SpecialTokens, TokenId, TokenizerSource};

use super::file::GgufFile;
use super::keys::Keys;
use super::value::Value;
use crate::ModelError;

/// Token type of control tokens.
const CONTROL: u32 = 3;

/// Control tokens that end a turn in the models of this crate, whatever the file says its end token is.
const END_OF_TURN: [&str; 5] = ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>"];

/// The vocabulary of `file`; `None` if the file has none.
///
/// # Errors
/// [`ModelError`] if a list is malformed, or disagrees with the number of tokens.
pub fn tokenizer(file: &GgufFile) -> Result<Option<TokenizerSource>, ModelError> {
    let keys = Keys { file, architecture: "" };
    Ok(vocab(&keys)?.map(|vocab| TokenizerSource::Gguf(Arc::new(vocab))))
}

fn vocab(keys: &Keys<'_>) -> Result<Option<BpeVocab>, ModelError> {
    let Some(model) =
        keys.text("tokenizer.ggml.model")?.filter(|model| !matches!(*model, "no_vocab" | "none"))
    else {
        return Ok(None);
    };
    let vocab = BpeVocab {
        model: model.to_owned(),
        pre: keys.text("tokenizer.ggml.pre")?.unwrap_or_default().to_owned(),
        tokens: texts(keys, "tokenizer.ggml.tokens")?,
        merges: texts(keys, "tokenizer.ggml.merges")?,
        token_types: token_types(keys)?,
        scores: scores(keys)?,
    };
    if vocab.tokens.is_empty() {
        return Err(keys.error("tokenizer.ggml.tokens", "is missing or empty"));
    }
    for (key, len) in [("token_type", vocab.token_types.len()), ("scores", vocab.scores.len())] {
        if len != 0 && len != vocab.tokens.len() {
            let problem = format!("has {len} entries, but there are {} tokens", vocab.tokens.len());
            return Err(keys.error(&format!("tokenizer.ggml.{key}"), problem));
        }
    }
    Ok(Some(vocab))
}

fn texts(keys: &Keys<'_>, key: &str) -> Result<Vec<String>, ModelError> {
    let text = |value| match value {
        Value::Text(text) => Ok(text),
        _ => Err(keys.error(key, "must be a list of texts")),
    };
    keys.list(key)?.into_iter().map(text).collect()
}

fn token_types(keys: &Keys<'_>) -> Result<Vec<u32>, ModelError> {
    let key = "tokenizer.ggml.token_type";
    let kind = |value| match value {
        Value::Integer(number) => u32::try_from(number).ok(),
        _ => None,
    };
    let kinds: Option<Vec<u32>> = keys.list(key)?.into_iter().map(kind).collect();
    kinds.ok_or_else(|| keys.error(key, "must be a list of whole numbers"))
}

fn scores(keys: &Keys<'_>) -> Result<Vec<f32>, ModelError> {
    let key = "tokenizer.ggml.scores";
    let score = |value| match value {
        #[allow(clippy::cast_possible_truncation, reason = "scores are float32 in the file")]
        Value::Float(number) => Ok(number as f32),
        _ => Err(keys.error(key, "must be a list of floating-point numbers")),
    };
    keys.list(key)?.into_iter().map(score).collect()
}

/// The special tokens and the chat template of `file`, whose model has `vocab_size` tokens.
///
/// # Errors
/// [`ModelError::Config`] if a token id is not one of the model's.
pub fn special_tokens(file: &GgufFile, vocab_size: usize) -> Result<SpecialTokens, ModelError> {
    let keys = Keys { file, architecture: "" };
    let token = |name: &str| -> Result<Option<TokenId>, ModelError> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match keys.integer(&key)? {
            Some(id) if id >= vocab_size => {
                Err(keys.error(&key, format!("is {id}, but the model has {vocab_size} tokens")))
            }
            id => Ok(id.and_then(|id| u32::try_from(id).ok()).map(TokenId)),
        }
    };
    let mut end = Vec::new();
    for name in ["eos", "eot", "eom"] {
        end.extend(token(name)?);
    }
    let vocab = vocab(&keys)?.unwrap_or_default();
    end.extend(end_of_turn(&vocab).filter(|id| (id.0 as usize) < vocab_size));
    Ok(SpecialTokens {
        bos: token("bos")?,
        end: crate::model::distinct(end),
        add_bos: keys.flag("tokenizer.ggml.add_bos_token")?.unwrap_or_else(|| adds_bos(&vocab)),
        chat_template: keys.text("tokenizer.chat_template")?.map(str::to_owned),
    })
}

fn end_of_turn(vocab: &BpeVocab) -> impl Iterator<Item = TokenId> {
    let tokens = vocab.tokens.iter().zip(&vocab.token_types).zip(0u32..);
    tokens
        .filter(|((text, kind), _)| **kind == CONTROL && END_OF_TURN.contains(&text.as_str()))
        .map(|(_, id)| TokenId(id))
}

/// What llama.cpp does for files that do not say: SentencePiece models and Llama 3 begin with `bos`.
fn adds_bos(vocab: &BpeVocab) -> bool {
    vocab.model == "llama" || vocab.pre == "llama-bpe"
}
