//! Tokenizers from the vocabulary inside a GGUF file.

use lazy_attn_types::{BpeVocab, Fingerprint};
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Prepend, Replace, Sequence};
use tokenizers::{AddedToken, NormalizerWrapper, Tokenizer};

use super::{Built, MAX_MERGES, MAX_TOKEN_BYTES, MAX_VOCAB_TOKENS, Merges, Vocab};
use super::{build_bpe, check_merge, parse_merge, pre, sentence_piece};
use crate::error::{TextError, check_size};
use crate::table::{PieceCoding, TokenKind, TokenTable};

/// `tokenizer.ggml.token_type` values.
mod token_type {
    pub(super) const NORMAL: u32 = 1;
    pub(super) const UNKNOWN: u32 = 2;
    pub(super) const CONTROL: u32 = 3;
    pub(super) const USER_DEFINED: u32 = 4;
    pub(super) const UNUSED: u32 = 5;
    pub(super) const BYTE: u32 = 6;
}

/// Builds the tokenizer of `vocab`.
pub(crate) fn build(vocab: &BpeVocab) -> Result<Built, TextError> {
    let ids = check_vocab(vocab)?;
    match vocab.model.as_str() {
        "gpt2" => build_byte_level(vocab, ids),
        "llama" => build_sentence_piece(vocab, ids),
        other => Err(TextError::Unsupported {
            key: "tokenizer.ggml.model".into(),
            value: other.into(),
            supported: "gpt2 (byte-level BPE), llama (SentencePiece)",
        }),
    }
}

/// Identity of `vocab`: every field that decides which tokens a text becomes.
pub(crate) fn fingerprint(vocab: &BpeVocab) -> Fingerprint {
    let mut tokens = Vec::new();
    let mut merges = Vec::new();
    for (out, texts) in [(&mut tokens, &vocab.tokens), (&mut merges, &vocab.merges)] {
        for text in texts {
            out.extend_from_slice(&(text.len() as u64).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
    }
    let types: Vec<u8> = vocab.token_types.iter().flat_map(|kind| kind.to_le_bytes()).collect();
    let scores: Vec<u8> = vocab.scores.iter().flat_map(|score| score.to_le_bytes()).collect();
    Fingerprint::of(&[
        ("tokenizer.ggml.model", vocab.model.as_bytes()),
        ("tokenizer.ggml.pre", vocab.pre.as_bytes()),
        ("tokenizer.ggml.tokens", &tokens),
        ("tokenizer.ggml.merges", &merges),
        ("tokenizer.ggml.token_type", &types),
        ("tokenizer.ggml.scores", &scores),
    ])
}

/// Ids by text, after checking sizes, lengths of the parallel arrays, types and duplicates.
fn check_vocab(vocab: &BpeVocab) -> Result<Vocab, TextError> {
    let num_tokens = vocab.tokens.len();
    check_size("the number of tokens", num_tokens, MAX_VOCAB_TOKENS)?;
    check_size("the number of merges", vocab.merges.len(), MAX_MERGES)?;
    if num_tokens == 0 {
        return Err(TextError::InvalidVocab("it has no tokens (tokenizer.ggml.tokens)".into()));
    }
    let parallel = [("token_type", vocab.token_types.len()), ("scores", vocab.scores.len())];
    if let Some((key, len)) = parallel.into_iter().find(|&(_, len)| len != 0 && len != num_tokens) {
        return Err(TextError::InvalidVocab(format!(
            "tokenizer.ggml.{key} has {len} entries for {num_tokens} tokens"
        )));
    }
    let known = token_type::NORMAL..=token_type::BYTE;
    if let Some(id) = vocab.token_types.iter().position(|kind| !known.contains(kind)) {
        let kind = vocab.token_types[id];
        return Err(TextError::InvalidVocab(format!("token {id} has the unknown type {kind}")));
    }
    let mut ids = Vocab::with_capacity(num_tokens);
    for (id, text) in (0u32..).zip(&vocab.tokens) {
        check_size("the length of a token in bytes", text.len(), MAX_TOKEN_BYTES)?;
        // Some converters leave unused ids without a text; nothing can become such a token.
        if text.is_empty() {
            continue;
        }
        if let Some(first) = ids.insert(text.clone(), id) {
            return Err(TextError::InvalidVocab(format!("tokens {first} and {id} are both {text:?}")));
        }
    }
    Ok(ids)
}

fn kind_of(vocab: &BpeVocab, id: usize) -> u32 {
    vocab.token_types.get(id).copied().unwrap_or(token_type::NORMAL)
}

fn build_byte_level(vocab: &BpeVocab, ids: Vocab) -> Result<Built, TextError> {
    let pre = pre::named(&vocab.pre)?;
    let merges = parse_merges(vocab, &ids)?;
    let model = build_bpe(ids, merges, |builder| builder.ignore_merges(pre.ignore_merges))?;
    let mut inner = with_added_tokens(model, pre.normalizer, vocab)?;
    inner.with_pre_tokenizer(Some(pre.pre_tokenizer));
    Ok(Built { inner, table: table_of(vocab, PieceCoding::ByteLevel) })
}

fn build_sentence_piece(vocab: &BpeVocab, ids: Vocab) -> Result<Built, TextError> {
    let merges = if vocab.merges.is_empty() {
        if vocab.scores.is_empty() {
            return Err(TextError::InvalidVocab(
                "a llama vocabulary needs tokenizer.ggml.scores or tokenizer.ggml.merges".into(),
            ));
        }
        let pieces = vocab.tokens.iter().zip(&vocab.scores).enumerate();
        let normal = pieces.filter(|&(id, _)| kind_of(vocab, id) == token_type::NORMAL);
        sentence_piece::merges_from_scores(normal.map(|(_, (text, &score))| (text.as_str(), score)), &ids)?
    } else {
        parse_merges(vocab, &ids)?
    };
    let unknown = unknown_token(vocab, &ids)?;
    let model =
        build_bpe(ids, merges, |builder| builder.unk_token(unknown).fuse_unk(true).byte_fallback(true))?;
    let replace = Replace::new(" ", "▁").map_err(|error| TextError::InvalidVocab(error.to_string()))?;
    let steps: Vec<NormalizerWrapper> = vec![Prepend::new("▁".into()).into(), replace.into()];
    let inner = with_added_tokens(model, Some(Sequence::new(steps).into()), vocab)?;
    Ok(Built { inner, table: table_of(vocab, PieceCoding::SentencePiece { byte_fallback: true }) })
}

/// The token for what neither pieces nor bytes express.
fn unknown_token(vocab: &BpeVocab, ids: &Vocab) -> Result<String, TextError> {
    let typed = vocab.token_types.iter().position(|&kind| kind == token_type::UNKNOWN);
    let text = typed.map_or("<unk>", |id| vocab.tokens[id].as_str());
    if ids.contains_key(text) {
        return Ok(text.to_owned());
    }
    Err(TextError::InvalidVocab("it has no unknown token (type 2, or the text <unk>)".into()))
}

fn parse_merges(vocab: &BpeVocab, ids: &Vocab) -> Result<Merges, TextError> {
    let parse = |(index, merge): (usize, &String)| {
        let (left, right) = parse_merge(index + 1, merge)?;
        check_merge(index + 1, left, right, ids)?;
        Ok((left.to_owned(), right.to_owned()))
    };
    vocab.merges.iter().enumerate().map(parse).collect()
}

/// Control and unknown tokens are special; user-defined ones are plain text that is never cut.
fn with_added_tokens(
    model: BPE,
    normalizer: Option<NormalizerWrapper>,
    vocab: &BpeVocab,
) -> Result<Tokenizer, TextError> {
    let refused = |error: tokenizers::Error| TextError::InvalidVocab(error.to_string());
    let mut inner = Tokenizer::new(model);
    inner.with_normalizer(normalizer).map_err(refused)?;
    let added =
        vocab.tokens.iter().enumerate().filter_map(|(id, text)| match table_kind(kind_of(vocab, id)) {
            TokenKind::Piece => None,
            kind => Some(AddedToken::from(text.as_str(), kind == TokenKind::Special).normalized(false)),
        });
    inner.add_tokens(added).map_err(refused)?;
    Ok(inner)
}

fn table_kind(token_type: u32) -> TokenKind {
    match token_type {
        token_type::CONTROL | token_type::UNKNOWN => TokenKind::Special,
        token_type::USER_DEFINED => TokenKind::Added,
        token_type::NORMAL | token_type::UNUSED | token_type::BYTE => TokenKind::Piece,
        _ => TokenKind::Piece,
    }
}

fn table_of(vocab: &BpeVocab, coding: PieceCoding) -> TokenTable {
    let entries = vocab.tokens.iter().enumerate();
    let strips_first_space = matches!(coding, PieceCoding::SentencePiece { .. });
    TokenTable::new(
        coding,
        strips_first_space,
        entries.map(|(id, text)| (text.as_str(), table_kind(kind_of(vocab, id)))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_vocab::{byte_level, sentence_piece};

    fn refused(base: BpeVocab, change: impl FnOnce(&mut BpeVocab)) -> String {
        let mut vocab = base;
        change(&mut vocab);
        build(&vocab).err().expect("the vocabulary was accepted").to_string()
    }

    #[test]
    fn unknown_names_are_refused_with_what_would_work() {
        let pre = refused(byte_level("smollm"), |vocab| vocab.pre = "kimi-k2".into());
        assert!(pre.contains("tokenizer.ggml.pre") && pre.contains("kimi-k2") && pre.contains("smollm"));
        let model = refused(byte_level("smollm"), |vocab| vocab.model = "t5".into());
        assert!(model.contains("tokenizer.ggml.model") && model.contains("t5"));
    }

    #[test]
    fn broken_merges_are_refused_with_their_line() {
        for (merge, problem) in [
            ("he", "not two texts"),
            ("h e l", "not two texts"),
            (" e", "one side is empty"),
            ("zz e", "left side"),
            ("h zz", "right side"),
            ("z z", "joined"),
        ] {
            let message = refused(byte_level("smollm"), |vocab| vocab.merges[1] = merge.into());
            assert!(message.contains("merge 2") && message.contains(problem), "{merge}: {message}");
        }
    }

    #[test]
    fn arrays_of_other_lengths_and_duplicates_are_refused() {
        let types = refused(byte_level("smollm"), |vocab| vocab.token_types.truncate(9));
        assert!(types.contains("token_type"), "{types}");
        let scores = refused(sentence_piece(), |vocab| vocab.scores.truncate(9));
        assert!(scores.contains("scores"), "{scores}");
        let twice = refused(byte_level("smollm"), |vocab| vocab.tokens[5] = vocab.tokens[4].clone());
        assert!(twice.contains("tokens 4 and 5"), "{twice}");
        let kind = refused(byte_level("smollm"), |vocab| vocab.token_types[3] = 7);
        assert!(kind.contains("token 3") && kind.contains("type 7"), "{kind}");
        let none = refused(byte_level("smollm"), |vocab| {
            *vocab = BpeVocab { tokens: vec![], token_types: vec![], ..vocab.clone() }
        });
        assert!(none.contains("no tokens"), "{none}");
    }

    #[test]
    fn a_sentence_piece_vocabulary_needs_an_order_and_an_unknown_token() {
        let no_order = refused(sentence_piece(), |vocab| vocab.scores.clear());
        assert!(no_order.contains("scores"), "{no_order}");
        let no_unknown = refused(sentence_piece(), |vocab| {
            vocab.tokens[0] = "<other>".into();
            vocab.token_types[0] = token_type::NORMAL;
        });
        assert!(no_unknown.contains("unknown"), "{no_unknown}");
    }

    #[test]
    fn a_vocabulary_of_the_largest_size_passes_the_check_and_one_more_does_not() {
        let vocab =
            |num_tokens: usize| BpeVocab { tokens: vec![String::new(); num_tokens], ..BpeVocab::default() };
        assert!(check_vocab(&vocab(MAX_VOCAB_TOKENS)).is_ok());
        assert!(matches!(check_vocab(&vocab(MAX_VOCAB_TOKENS + 1)), Err(TextError::TooLarge { .. })));
    }
}
