//! The bytes each token stands for, and which tokens are special.

use std::collections::HashMap;

use lazy_attn_types::TokenId;

/// How the text of a vocabulary entry maps to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PieceCoding {
    /// Each character stands for one byte (GPT-2's alphabet).
    ByteLevel,
    /// `▁` is a space, and `<0x0A>` is the byte 0x0A where `byte_fallback` says so.
    SentencePiece { byte_fallback: bool },
}

/// What a token is, besides its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// A piece of the model's vocabulary, written in its coding.
    Piece,
    /// Added verbatim.
    Added,
    /// Added verbatim and not part of the text: skipped when detokenising unless asked for.
    Special,
}

/// Bytes of every token, flat: token `id` is `bytes[ends[id - 1]..ends[id]]`.
#[derive(Debug)]
pub(crate) struct TokenTable {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    special: Vec<bool>,
    strips_first_space: bool,
}

impl TokenTable {
    /// The table of `entries`, in order of their ids.
    pub(crate) fn new<'a>(
        coding: PieceCoding,
        strips_first_space: bool,
        entries: impl Iterator<Item = (&'a str, TokenKind)>,
    ) -> TokenTable {
        let byte_of_char = byte_level_alphabet();
        let mut table =
            TokenTable { bytes: Vec::new(), ends: Vec::new(), special: Vec::new(), strips_first_space };
        for (text, kind) in entries {
            match (coding, kind) {
                (PieceCoding::ByteLevel, TokenKind::Piece) => {
                    push_byte_level(&mut table.bytes, &byte_of_char, text);
                }
                (PieceCoding::ByteLevel, _) => table.bytes.extend_from_slice(text.as_bytes()),
                (PieceCoding::SentencePiece { byte_fallback }, _) => {
                    push_sentence_piece(&mut table.bytes, byte_fallback, text);
                }
            }
            table.ends.push(table.bytes.len());
            table.special.push(kind == TokenKind::Special);
        }
        table
    }

    pub(crate) fn len(&self) -> u32 {
        // The builders bound the vocabulary by `MAX_VOCAB_TOKENS`.
        self.ends.len() as u32
    }

    /// Bytes of `token`; none outside the vocabulary.
    pub(crate) fn get(&self, token: TokenId) -> Option<&[u8]> {
        let id = token.0 as usize;
        let end = *self.ends.get(id)?;
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..end])
    }

    pub(crate) fn is_special(&self, token: TokenId) -> bool {
        self.special.get(token.0 as usize).copied().unwrap_or(false)
    }

    pub(crate) fn mark_special(&mut self, token: TokenId) {
        if let Some(special) = self.special.get_mut(token.0 as usize) {
            *special = true;
        }
    }

    /// Whether encoding put a space before the text, so that decoding takes one away.
    pub(crate) fn strips_first_space(&self) -> bool {
        self.strips_first_space
    }
}

fn push_byte_level(out: &mut Vec<u8>, byte_of_char: &HashMap<char, u8>, text: &str) {
    let start = out.len();
    for c in text.chars() {
        let Some(&byte) = byte_of_char.get(&c) else {
            // Not written in the alphabet: the whole token is taken verbatim, as the reference decoder does.
            out.truncate(start);
            out.extend_from_slice(text.as_bytes());
            return;
        };
        out.push(byte);
    }
}

fn push_sentence_piece(out: &mut Vec<u8>, byte_fallback: bool, text: &str) {
    match parse_byte_token(text).filter(|_| byte_fallback) {
        Some(byte) => out.push(byte),
        None => out.extend_from_slice(text.replace('▁', " ").as_bytes()),
    }
}

/// The byte of a token written `<0x0A>`.
fn parse_byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_hex { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the others follow from U+0100 on.
pub(crate) fn byte_level_alphabet() -> HashMap<char, u8> {
    let mut next_other = 0x100u32;
    let mut char_of = |byte: u8| {
        let is_printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        if is_printable {
            return char::from(byte);
        }
        let other = char::from_u32(next_other).unwrap_or(char::REPLACEMENT_CHARACTER);
        next_other += 1;
        other
    };
    (0..=u8::MAX).map(|byte| (char_of(byte), byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(coding: PieceCoding, text: &str, kind: TokenKind) -> Vec<u8> {
        let table = TokenTable::new(coding, false, [("x", TokenKind::Piece), (text, kind)].into_iter());
        table.get(TokenId(1)).unwrap().to_vec()
    }

    #[test]
    fn the_alphabet_has_one_character_per_byte() {
        let alphabet = byte_level_alphabet();
        assert_eq!(alphabet.len(), 256);
        assert_eq!((alphabet[&'Ġ'], alphabet[&'Ċ'], alphabet[&'a']), (b' ', b'\n', b'a'));
    }

    #[test]
    fn byte_level_pieces_become_bytes_and_added_tokens_stay_verbatim() {
        assert_eq!(bytes_of(PieceCoding::ByteLevel, "Ġé", TokenKind::Piece), [b' ', 0xE9]);
        assert_eq!(bytes_of(PieceCoding::ByteLevel, "é", TokenKind::Added), "é".as_bytes());
        assert_eq!(bytes_of(PieceCoding::ByteLevel, "a b", TokenKind::Piece), b"a b");
    }

    #[test]
    fn sentence_pieces_turn_their_mark_into_a_space_and_byte_tokens_into_bytes() {
        let with = PieceCoding::SentencePiece { byte_fallback: true };
        let without = PieceCoding::SentencePiece { byte_fallback: false };
        assert_eq!(bytes_of(with, "▁a▁", TokenKind::Piece), b" a ");
        assert_eq!(bytes_of(with, "<0xE2>", TokenKind::Piece), [0xE2]);
        assert_eq!(bytes_of(without, "<0xE2>", TokenKind::Piece), b"<0xE2>");
        assert_eq!(bytes_of(with, "<0x+1>", TokenKind::Piece), b"<0x+1>");
    }

    #[test]
    fn ids_outside_the_vocabulary_have_no_bytes() {
        let table = TokenTable::new(PieceCoding::ByteLevel, false, std::iter::empty());
        assert_eq!((table.get(TokenId(0)), table.get(TokenId(u32::MAX))), (None, None));
    }
}
