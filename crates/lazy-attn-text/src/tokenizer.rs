//! Text to tokens, and the bytes of each token.

use std::sync::Arc;

use lazy_attn_types::{Fingerprint, SpecialTokens, TokenId, TokenizerSource};

use crate::build;
use crate::detokenizer::{DetokenizeOptions, Detokenizer};
use crate::error::{TextError, check_size};
use crate::table::TokenTable;

/// A tokenizer: immutable, shared by reference between threads.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    table: Arc<TokenTable>,
    fingerprint: Fingerprint,
    bos_at_start: Option<TokenId>,
}

impl Tokenizer {
    /// Largest text one call encodes.
    pub const MAX_TEXT_BYTES: usize = 64 << 20;

    /// Builds the tokenizer a model file describes.
    ///
    /// `special.bos` and `special.end` count as special tokens even where the vocabulary does not mark them.
    ///
    /// # Errors
    /// [`TextError::Unsupported`] for a model, pre-tokeniser or option this crate does not do,
    /// [`TextError::InvalidJson`], [`TextError::InvalidVocab`] and [`TextError::InvalidMerge`] for broken files,
    /// [`TextError::TooLarge`] past a bound, [`TextError::SpecialTokenOutOfRange`] if `special` does not fit.
    pub fn from_source(source: &TokenizerSource, special: &SpecialTokens) -> Result<Tokenizer, TextError> {
        let (built, fingerprint) = match source {
            TokenizerSource::Json(bytes) => {
                (build::json::build(bytes)?, Fingerprint::of(&[("tokenizer.json", bytes)]))
            }
            TokenizerSource::Gguf(vocab) => (build::gguf::build(vocab)?, build::gguf::fingerprint(vocab)),
        };
        let build::Built { inner, mut table } = built;
        for (role, token) in
            special.bos.iter().map(|bos| ("bos", bos)).chain(special.end.iter().map(|end| ("end", end)))
        {
            if token.0 >= table.len() {
                return Err(TextError::SpecialTokenOutOfRange { role, id: token.0, vocab_size: table.len() });
            }
            table.mark_special(*token);
        }
        let bos_at_start = special.bos.filter(|_| special.add_bos);
        Ok(Tokenizer { inner, table: Arc::new(table), fingerprint, bos_at_start })
    }

    /// Tokens of one part, encoded alone: special tokens are parsed, no BOS is added.
    ///
    /// # Errors
    /// [`TextError::TooLarge`] past [`Tokenizer::MAX_TEXT_BYTES`], [`TextError::Encode`] if the model cannot
    /// express the text.
    pub fn encode(&self, text: &str) -> Result<Vec<TokenId>, TextError> {
        check_size("the length of a text in bytes", text.len(), Self::MAX_TEXT_BYTES)?;
        let encoding =
            self.inner.encode_fast(text, false).map_err(|error| TextError::Encode(error.to_string()))?;
        Ok(encoding.get_ids().iter().copied().map(TokenId).collect())
    }

    /// The part at position 0: puts BOS in front if the model asks for it and the text did not already write it.
    #[must_use]
    pub fn with_bos(&self, tokens: Vec<TokenId>) -> Vec<TokenId> {
        match self.bos_at_start {
            Some(bos) if tokens.first() != Some(&bos) => std::iter::once(bos).chain(tokens).collect(),
            _ => tokens,
        }
    }

    /// The token put at position 0, if the model asks for one.
    #[must_use]
    pub fn bos_at_start(&self) -> Option<TokenId> {
        self.bos_at_start
    }

    /// Text of `tokens` at once; bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`TextError::UnknownToken`] for an id outside the vocabulary.
    pub fn decode(&self, tokens: &[TokenId], options: DetokenizeOptions) -> Result<String, TextError> {
        let mut bytes = Vec::new();
        for &token in tokens {
            let piece = self.token_bytes(token)?;
            if options.shows(&self.table, token) {
                bytes.extend_from_slice(piece);
            }
        }
        let strips = options.strips_first_space(&self.table) && bytes.first() == Some(&b' ');
        Ok(String::from_utf8_lossy(&bytes[usize::from(strips)..]).into_owned())
    }

    /// An incremental decoder over this vocabulary; it shares the table and outlives the tokenizer.
    #[must_use]
    pub fn detokenizer(&self, options: DetokenizeOptions) -> Detokenizer {
        Detokenizer::new(Arc::clone(&self.table), options)
    }

    /// The bytes `token` stands for; possibly part of a character.
    ///
    /// # Errors
    /// [`TextError::UnknownToken`] for an id outside the vocabulary.
    pub fn token_bytes(&self, token: TokenId) -> Result<&[u8], TextError> {
        self.table.get(token).ok_or(TextError::UnknownToken { id: token.0, vocab_size: self.table.len() })
    }

    /// Whether `token` is special: not part of the text it stands in.
    #[must_use]
    pub fn is_special(&self, token: TokenId) -> bool {
        self.table.is_special(token)
    }

    /// The id of a special or ordinary token by its text in the vocabulary.
    #[must_use]
    pub fn token_id(&self, text: &str) -> Option<TokenId> {
        self.inner.token_to_id(text).map(TokenId)
    }

    /// Tokens of the vocabulary; a model may have more logits than this (padding rows).
    #[must_use]
    pub fn vocab_size(&self) -> u32 {
        self.table.len()
    }

    /// Identity of the text-to-tokens map.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_vocab::{byte_level, json_source, sentence_piece, special};

    fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        tokenizer.encode(text).unwrap().iter().map(|token| token.0).collect()
    }

    fn texts(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
        let tokens = tokenizer.encode(text).unwrap();
        tokens.iter().map(|&t| String::from_utf8_lossy(tokenizer.token_bytes(t).unwrap()).into()).collect()
    }

    fn gguf(vocab: lazy_attn_types::BpeVocab) -> Tokenizer {
        Tokenizer::from_source(&TokenizerSource::Gguf(Arc::new(vocab)), &special()).unwrap()
    }

    #[test]
    fn merges_apply_in_rank_order_and_never_across_a_digit() {
        let tokenizer = gguf(byte_level("smollm"));
        assert_eq!(texts(&tokenizer, "hello hello"), ["hello", " hello"]);
        assert_eq!(texts(&tokenizer, "12"), ["1", "2"]);
    }

    #[test]
    fn pre_tokenisers_differ_where_their_models_differ() {
        // The vocabulary merges "1" "2" "3", so only the split decides whether digits stay apart.
        for (pre, expected) in [
            ("smollm", vec!["1", "2", "3", "1"]),
            ("qwen2", vec!["1", "2", "3", "1"]),
            ("llama-bpe", vec!["123", "1"]),
            ("gpt-2", vec!["123", "1"]),
        ] {
            assert_eq!(texts(&gguf(byte_level(pre)), "1231"), expected, "{pre}");
        }
        // Only GPT-2's splitter keeps a dot and a letter apart; the later ones let one sign lead a word.
        assert_eq!(texts(&gguf(byte_level("gpt-2")), ".he"), [".", "he"]);
        assert_eq!(texts(&gguf(byte_level("llama-bpe")), ".he"), [".he"]);
    }

    #[test]
    fn special_tokens_are_parsed_inside_text_and_skipped_when_decoding() {
        let tokenizer = gguf(byte_level("smollm"));
        let tokens = tokenizer.encode("<|im_start|>hello<|im_end|>").unwrap();
        assert_eq!(tokens.first().copied(), tokenizer.token_id("<|im_start|>"));
        assert_eq!(tokens.len(), 3);
        assert_eq!(tokenizer.decode(&tokens, DetokenizeOptions::default()).unwrap(), "hello");
        let shown = DetokenizeOptions { special: crate::SpecialTokenText::Show, ..Default::default() };
        assert_eq!(tokenizer.decode(&tokens, shown).unwrap(), "<|im_start|>hello<|im_end|>");
    }

    #[test]
    fn json_and_gguf_forms_of_one_vocabulary_agree() {
        let from_gguf = gguf(byte_level("smollm"));
        let from_json = Tokenizer::from_source(&json_source(), &special()).unwrap();
        for text in ["hello hello", " a\n\nb 42", "naïve 🦀<|im_end|>x", ""] {
            assert_eq!(ids(&from_gguf, text), ids(&from_json, text), "{text:?}");
        }
        assert_eq!(from_gguf.vocab_size(), from_json.vocab_size());
        assert_ne!(from_gguf.fingerprint(), from_json.fingerprint());
    }

    #[test]
    fn sentence_piece_prefixes_a_space_and_falls_back_to_bytes() {
        let tokenizer = gguf(sentence_piece());
        assert_eq!(texts(&tokenizer, "hello he"), [" hello", " he"]);
        let crab = tokenizer.encode("🦀").unwrap();
        assert_eq!(crab.len(), 5, "the space, then four byte tokens");
        let all = tokenizer.encode("hello 🦀 he").unwrap();
        assert_eq!(tokenizer.decode(&all, DetokenizeOptions::default()).unwrap(), "hello 🦀 he");
    }

    #[test]
    fn bos_is_put_in_front_once_and_only_if_asked_for() {
        let source = TokenizerSource::Gguf(Arc::new(sentence_piece()));
        let asks = SpecialTokens { bos: Some(TokenId(1)), add_bos: true, ..SpecialTokens::default() };
        let tokenizer = Tokenizer::from_source(&source, &asks).unwrap();
        let once = tokenizer.with_bos(vec![TokenId(9)]);
        assert_eq!(once, [TokenId(1), TokenId(9)]);
        assert_eq!(tokenizer.with_bos(once.clone()), once);
        let asks_not = SpecialTokens { add_bos: false, ..asks };
        let tokenizer = Tokenizer::from_source(&source, &asks_not).unwrap();
        assert_eq!(tokenizer.with_bos(vec![TokenId(9)]), [TokenId(9)]);
    }

    #[test]
    fn ids_outside_the_vocabulary_are_refused_by_number() {
        let tokenizer = gguf(byte_level("smollm"));
        let past = TokenId(tokenizer.vocab_size());
        let error = TextError::UnknownToken { id: past.0, vocab_size: past.0 };
        assert_eq!(tokenizer.token_bytes(past), Err(error.clone()));
        assert_eq!(tokenizer.decode(&[past], DetokenizeOptions::default()), Err(error));
        let source = TokenizerSource::Gguf(Arc::new(byte_level("smollm")));
        let wrong = SpecialTokens { end: vec![past], ..SpecialTokens::default() };
        assert!(matches!(
            Tokenizer::from_source(&source, &wrong),
            Err(TextError::SpecialTokenOutOfRange { role: "end", .. })
        ));
    }

    #[test]
    fn the_fingerprint_changes_with_every_field_that_changes_tokens() {
        let base = gguf(byte_level("smollm")).fingerprint();
        let mut fewer_merges = byte_level("smollm");
        fewer_merges.merges.pop();
        assert_eq!(base, gguf(byte_level("smollm")).fingerprint());
        assert_ne!(base, gguf(byte_level("qwen2")).fingerprint());
        assert_ne!(base, gguf(fewer_merges).fingerprint());
    }

    proptest::proptest! {
        #[test]
        fn decoding_what_was_encoded_gives_the_text_back(text in ".{0,80}") {
            // SentencePiece writes a space as this mark, so the mark itself comes back as a space.
            proptest::prop_assume!(!text.contains('▁'));
            for vocab in [byte_level("smollm"), byte_level("llama-bpe"), byte_level("gpt-2"), sentence_piece()] {
                let tokenizer = gguf(vocab);
                let tokens = tokenizer.encode(&text).unwrap();
                let shown = DetokenizeOptions { special: crate::SpecialTokenText::Show, ..Default::default() };
                proptest::prop_assert_eq!(tokenizer.decode(&tokens, shown).unwrap(), &text[..]);
            }
        }
    }
}
