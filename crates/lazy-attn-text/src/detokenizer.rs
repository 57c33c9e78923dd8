//! Tokens to text, one token at a time, never splitting a character.

use std::sync::Arc;

use lazy_attn_types::TokenId;

use crate::table::TokenTable;

/// Whether special tokens appear in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SpecialTokenText {
    /// They are left out.
    #[default]
    Skip,
    /// They are written as they stand in the vocabulary.
    Show,
}

/// What happens to the space that SentencePiece models put before the first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LeadingSpace {
    /// It is taken away: the text stands alone.
    #[default]
    Strip,
    /// It stays: the text continues another one.
    Keep,
}

/// How tokens become text. The default is an answer that stands alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DetokenizeOptions {
    /// Special tokens in the text.
    pub special: SpecialTokenText,
    /// The first space; byte-level vocabularies have none to strip, so this changes nothing for them.
    pub leading_space: LeadingSpace,
}

impl DetokenizeOptions {
    pub(crate) fn shows(self, table: &TokenTable, token: TokenId) -> bool {
        self.special == SpecialTokenText::Show || !table.is_special(token)
    }

    pub(crate) fn strips_first_space(self, table: &TokenTable) -> bool {
        self.leading_space == LeadingSpace::Strip && table.strips_first_space()
    }
}

/// An incremental decoder: whatever the split into tokens, the pushes and [`Detokenizer::finish`] together give the
/// same text as decoding everything at once.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    table: Arc<TokenTable>,
    options: DetokenizeOptions,
    /// Start of a character whose other bytes have not come yet: at most 3 bytes between pushes.
    held: Vec<u8>,
    strip_pending: bool,
}

impl Detokenizer {
    /// Most bytes held back between two pushes: a character has at most 4.
    pub const MAX_HELD_BYTES: usize = 3;

    pub(crate) fn new(table: Arc<TokenTable>, options: DetokenizeOptions) -> Detokenizer {
        let strip_pending = options.strips_first_space(&table);
        Detokenizer { table, options, held: Vec::new(), strip_pending }
    }

    /// The text that `token` completes; empty while a character is incomplete.
    ///
    /// A token outside the vocabulary (a padding row of the model) has no bytes and completes nothing.
    pub fn push(&mut self, token: TokenId) -> String {
        if !self.options.shows(&self.table, token) {
            return String::new();
        }
        let mut bytes = self.table.get(token).unwrap_or_default();
        if self.strip_pending && !bytes.is_empty() {
            self.strip_pending = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.held.extend_from_slice(bytes);
        let mut text = String::new();
        let num_taken = take_complete(&self.held, &mut text);
        self.held.drain(..num_taken);
        text
    }

    /// Closes the text: an incomplete character becomes U+FFFD.
    #[must_use]
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }

    /// Bytes held back now.
    #[must_use]
    pub fn num_held_bytes(&self) -> usize {
        self.held.len()
    }
}

/// Appends to `text` what later bytes cannot change, and returns how many bytes that was.
///
/// Invalid bytes become U+FFFD by the rule of `String::from_utf8_lossy` (one per maximal prefix of a character).
fn take_complete(bytes: &[u8], text: &mut String) -> usize {
    let mut num_taken = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        num_taken += chunk.valid().len();
        let invalid = chunk.invalid();
        let is_last = num_taken + invalid.len() == bytes.len();
        if is_last && may_be_completed(invalid) {
            break;
        }
        if !invalid.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            num_taken += invalid.len();
        }
    }
    num_taken
}

/// Whether `bytes` is a proper prefix of a character.
fn may_be_completed(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::table::{PieceCoding, TokenKind};

    /// A SentencePiece vocabulary of all bytes (ids 0..256), then some pieces.
    const PIECES: [(&str, TokenKind); 6] = [
        ("▁hello", TokenKind::Piece),
        ("▁", TokenKind::Piece),
        ("", TokenKind::Piece),
        ("é", TokenKind::Piece),
        ("</s>", TokenKind::Special),
        ("[tool]", TokenKind::Added),
    ];
    const NUM_TOKENS: u32 = 256 + PIECES.len() as u32;

    fn table() -> Arc<TokenTable> {
        let bytes: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
        let entries = bytes.iter().map(|text| (text.as_str(), TokenKind::Piece)).chain(PIECES);
        Arc::new(TokenTable::new(PieceCoding::SentencePiece { byte_fallback: true }, true, entries))
    }

    fn pushes(options: DetokenizeOptions, tokens: &[u32]) -> Vec<String> {
        let mut detokenizer = Detokenizer::new(table(), options);
        let mut texts: Vec<String> = tokens.iter().map(|&id| detokenizer.push(TokenId(id))).collect();
        texts.push(detokenizer.finish());
        texts
    }

    #[test]
    fn a_character_comes_with_its_last_byte() {
        let crab: Vec<u32> = "🦀".bytes().map(u32::from).collect();
        assert_eq!(pushes(DetokenizeOptions::default(), &crab), ["", "", "", "🦀", ""]);
    }

    #[test]
    fn a_broken_character_becomes_one_replacement_when_it_is_known_to_be_broken() {
        let start = "🦀".bytes().next().map(u32::from).unwrap();
        let options = DetokenizeOptions::default();
        assert_eq!(pushes(options, &[start, u32::from(b'a')]), ["", "\u{FFFD}a", ""]);
        assert_eq!(pushes(options, &[start]), ["", "\u{FFFD}"]);
        assert_eq!(pushes(options, &[0xFF]), ["\u{FFFD}", ""]);
    }

    #[test]
    fn only_the_first_space_is_stripped_and_only_when_asked() {
        let keep = DetokenizeOptions { leading_space: LeadingSpace::Keep, ..Default::default() };
        assert_eq!(pushes(DetokenizeOptions::default(), &[260, 256, 256]).concat(), "hello hello");
        assert_eq!(pushes(keep, &[256, 256]).concat(), " hello hello");
        assert_eq!(pushes(DetokenizeOptions::default(), &[257, 257]).concat(), " ");
    }

    #[test]
    fn special_tokens_show_only_when_asked_and_added_ones_always() {
        let show = DetokenizeOptions { special: SpecialTokenText::Show, ..Default::default() };
        assert_eq!(pushes(DetokenizeOptions::default(), &[260, 261]).concat(), "[tool]");
        assert_eq!(pushes(show, &[260, 261]).concat(), "</s>[tool]");
    }

    proptest! {
        #[test]
        fn pushes_and_finish_equal_a_lossy_decode_of_everything(
            tokens in prop::collection::vec(prop_oneof![0u32..NUM_TOKENS + 2, 0x80u32..0x100], 0..40),
            show in any::<bool>(),
            keep in any::<bool>(),
        ) {
            let options = DetokenizeOptions {
                special: if show { SpecialTokenText::Show } else { SpecialTokenText::Skip },
                leading_space: if keep { LeadingSpace::Keep } else { LeadingSpace::Strip },
            };
            let table = table();
            let mut all: Vec<u8> = Vec::new();
            let mut detokenizer = Detokenizer::new(Arc::clone(&table), options);
            let mut text = String::new();
            for &id in &tokens {
                if show || id != 260 {
                    all.extend_from_slice(table.get(TokenId(id)).unwrap_or_default());
                }
                text.push_str(&detokenizer.push(TokenId(id)));
                prop_assert!(detokenizer.num_held_bytes() <= Detokenizer::MAX_HELD_BYTES);
            }
            text.push_str(&detokenizer.finish());
            let stripped = if keep { &all[..] } else { all.strip_prefix(b" ").unwrap_or(&all) };
            prop_assert_eq!(text, String::from_utf8_lossy(stripped));
        }
    }
}
