//! Tokenizers from files: everything is checked before the tokenizer library sees it, because that library panics on
//! merges that do not fit their vocabulary and silently renumbers added tokens.

pub(crate) mod gguf;
pub(crate) mod json;
mod pre;
mod sentence_piece;

use ahash::AHashMap;
use tokenizers::models::bpe::{BPE, BpeBuilder};

use crate::error::{TextError, check_size};
use crate::table::TokenTable;

/// Most tokens of a vocabulary; the largest published ones have about 260 thousand.
pub(crate) const MAX_VOCAB_TOKENS: usize = 1 << 20;
/// Most merge rules.
pub(crate) const MAX_MERGES: usize = 1 << 21;
/// Longest text of one token.
pub(crate) const MAX_TOKEN_BYTES: usize = 4096;

/// A tokenizer and the bytes of its tokens.
pub(crate) struct Built {
    pub(crate) inner: tokenizers::Tokenizer,
    pub(crate) table: TokenTable,
}

/// Token texts to ids.
pub(crate) type Vocab = AHashMap<String, u32>;
/// Merge rules in rank order.
pub(crate) type Merges = Vec<(String, String)>;

/// Checks one merge rule: both sides and their concatenation must be tokens.
pub(crate) fn check_merge(line: usize, left: &str, right: &str, vocab: &Vocab) -> Result<(), TextError> {
    let invalid = |problem| Err(TextError::InvalidMerge { line, merge: format!("{left} {right}"), problem });
    if left.is_empty() || right.is_empty() {
        return invalid("one side is empty");
    }
    if !vocab.contains_key(left) {
        return invalid("its left side is not a token");
    }
    if !vocab.contains_key(right) {
        return invalid("its right side is not a token");
    }
    if !vocab.contains_key(&format!("{left}{right}")) {
        return invalid("the joined sides are not a token");
    }
    Ok(())
}

/// Splits a merge rule written as `left right`.
pub(crate) fn parse_merge(line: usize, merge: &str) -> Result<(&str, &str), TextError> {
    match merge.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left, right)),
        _ => Err(TextError::InvalidMerge {
            line,
            merge: merge.to_owned(),
            problem: "it is not two texts with one space between",
        }),
    }
}

/// Builds the model; `merges` have been checked against `vocab`.
fn build_bpe(
    vocab: Vocab,
    merges: Merges,
    options: impl FnOnce(BpeBuilder) -> BpeBuilder,
) -> Result<BPE, TextError> {
    check_size("the number of merges", merges.len(), MAX_MERGES)?;
    options(BPE::builder().vocab_and_merges(vocab, merges))
        .build()
        .map_err(|error| TextError::InvalidVocab(error.to_string()))
}
