//! Segments, contexts and content keys.
//!
//! A context is an ordered list of segments. Each segment's keys are stored once, rotated at segment-local positions
//! `0..len`; attention rotates the query by `position - segment.start`. Because `R(a)^T R(b) = R(b - a)`, the score is
//! that of ordinary RoPE at global positions, whatever the segment's place.

use std::sync::Arc;

pub use crate::context::ContextError;
use crate::{DocumentFocus, Position, TokenId};

/// How the documents of a request are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AttentionMode {
    /// Each document is encoded alone and reused at any place; full quality needs a block-tuned model.
    #[default]
    Block,
    /// Documents are ordinary text of one causal context: exact, reuse ends at the first difference.
    Full,
}

/// What a segment sees while it is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SegmentKind {
    /// Only itself, from position 0.
    Document,
    /// Every earlier segment of its context, and itself causally.
    Text,
}

/// Content key of a segment: equal keys mean equal KV, bit for bit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentKey([u8; 32]);

impl SegmentKey {
    /// Wraps raw bytes, for tests and for keys read back from storage.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> SegmentKey {
        SegmentKey(bytes)
    }

    /// The raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Lower-case hexadecimal, 64 characters.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl std::fmt::Debug for SegmentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SegmentKey({}..)", &self.to_hex()[..12])
    }
}

/// Secret of a tenant, mixed into every key so that tenants never share or observe each other's documents.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TenantSalt(pub [u8; 32]);

impl TenantSalt {
    /// The salt of a process that serves one user.
    pub const SINGLE_USER: TenantSalt = TenantSalt([0; 32]);
}

impl std::fmt::Debug for TenantSalt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TenantSalt(..)")
    }
}

/// Hash of everything besides tokens that decides a segment's KV: weights, config, tokenizer, KV dtype, adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Hashes labelled parts; each part is length-prefixed, so parts never run into each other.
    #[must_use]
    pub fn of(parts: &[(&str, &[u8])]) -> Fingerprint {
        let mut hasher = blake3::Hasher::new_derive_key("lazy-attention fingerprint v1");
        for (label, bytes) in parts {
            update_framed(&mut hasher, label.as_bytes());
            update_framed(&mut hasher, bytes);
        }
        Fingerprint(*hasher.finalize().as_bytes())
    }
}

/// Derives content keys for one tenant and one model.
#[derive(Debug, Clone, Copy)]
pub struct KeySpace {
    key: [u8; 32],
}

impl KeySpace {
    /// The key space of `salt` and `fingerprint`; different pairs never produce equal segment keys.
    #[must_use]
    pub fn new(salt: TenantSalt, fingerprint: Fingerprint) -> KeySpace {
        KeySpace { key: *blake3::keyed_hash(&salt.0, &fingerprint.0).as_bytes() }
    }

    /// Key of a document: depends on its tokens and nothing around it, which is what makes it reusable.
    #[must_use]
    pub fn document(&self, tokens: &[TokenId]) -> SegmentKey {
        let mut hasher = self.hasher(b"document");
        update_tokens(&mut hasher, tokens);
        SegmentKey(*hasher.finalize().as_bytes())
    }

    /// Key of a document that is encoded right behind `preamble`, of which it sees everything: the same wherever the
    /// document stands, another one behind another preamble. Without a preamble that of [`KeySpace::document`].
    #[must_use]
    pub fn document_behind(&self, preamble: &[Segment], tokens: &[TokenId]) -> SegmentKey {
        let Some(end) = preamble.last().map(|last| last.start.advance(last.num_tokens())) else {
            return self.document(tokens);
        };
        let mut hasher = self.hasher(b"document behind a preamble");
        update_earlier(&mut hasher, preamble, end);
        update_tokens(&mut hasher, tokens);
        SegmentKey(*hasher.finalize().as_bytes())
    }

    /// Key of a text segment at `start` behind `earlier`: chains over every earlier segment, in order, with its
    /// boundary, its start and what of it is seen; and in which way, if documents are looked at in another than the usual one.
    #[must_use]
    pub fn text(
        &self,
        earlier: &[Segment],
        focus: DocumentFocus,
        start: Position,
        tokens: &[TokenId],
    ) -> SegmentKey {
        let sees_documents = earlier.iter().any(|segment| segment.kind == SegmentKind::Document);
        let mut hasher = if focus.is_on() && sees_documents {
            let mut hasher = self.hasher(b"text that focuses documents");
            hasher.update(&focus.temperature().to_le_bytes());
            hasher.update(&focus.scale().to_le_bytes());
            hasher
        } else {
            self.hasher(b"text")
        };
        update_earlier(&mut hasher, earlier, start);
        update_tokens(&mut hasher, tokens);
        SegmentKey(*hasher.finalize().as_bytes())
    }

    fn hasher(&self, kind: &[u8]) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        update_framed(&mut hasher, kind);
        hasher
    }
}

fn update_framed(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

/// What of `earlier` a segment at `start` sees.
fn update_earlier(hasher: &mut blake3::Hasher, earlier: &[Segment], start: Position) {
    hasher.update(&(earlier.len() as u64).to_le_bytes());
    for segment in earlier {
        hasher.update(segment.key.as_bytes());
        // Only distances matter: the key survives a shift of the whole context.
        hasher.update(&(i64::from(start.0) - i64::from(segment.start.0)).to_le_bytes());
        hasher.update(&segment.seen.first.to_le_bytes());
        hasher.update(&segment.seen.end.to_le_bytes());
    }
}

fn update_tokens(hasher: &mut blake3::Hasher, tokens: &[TokenId]) {
    hasher.update(&(tokens.len() as u64).to_le_bytes());
    for token in tokens {
        hasher.update(&token.0.to_le_bytes());
    }
}

/// Tokens `first..end` of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenRange {
    /// The first token.
    pub first: u32,
    /// One past the last token.
    pub end: u32,
}

impl TokenRange {
    /// All of `num_tokens` tokens.
    #[must_use]
    pub fn whole(num_tokens: u32) -> TokenRange {
        TokenRange { first: 0, end: num_tokens }
    }

    /// How many tokens.
    #[must_use]
    pub fn num_tokens(self) -> u32 {
        self.end - self.first
    }
}

/// An immutable piece of a context: text, or a view of a document.
///
/// A document that is seen in several pieces, with recomputed text between them, stands in a context as several views with
/// one key and one start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub(crate) kind: SegmentKind,
    pub(crate) tokens: Arc<[TokenId]>,
    pub(crate) key: SegmentKey,
    pub(crate) start: Position,
    pub(crate) seen: TokenRange,
    pub(crate) num_preamble: usize,
}

impl Segment {
    /// What the segment sees while it is encoded.
    #[must_use]
    pub fn kind(&self) -> SegmentKind {
        self.kind
    }

    /// Its tokens, at least one: all that are stored, seen or not.
    #[must_use]
    pub fn tokens(&self) -> &Arc<[TokenId]> {
        &self.tokens
    }

    /// Its stored length in tokens.
    #[must_use]
    pub fn num_tokens(&self) -> u32 {
        // The builder bounds the sum of all lengths by `Position::MAX`.
        self.tokens.len() as u32
    }

    /// Its content key.
    #[must_use]
    pub fn key(&self) -> SegmentKey {
        self.key
    }

    /// Logical position of its token 0, seen or not.
    #[must_use]
    pub fn start(&self) -> Position {
        self.start
    }

    /// Which of its tokens later segments see; all of them but for some views of documents.
    #[must_use]
    pub fn seen(&self) -> TokenRange {
        self.seen
    }

    /// How many of the context's first segments a document sees while it is encoded, right behind them: its preamble.
    /// Text sees everything before it.
    #[must_use]
    pub fn num_preamble(&self) -> usize {
        self.num_preamble
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(salt: u8) -> KeySpace {
        KeySpace::new(TenantSalt([salt; 32]), Fingerprint::of(&[("model", b"tiny")]))
    }

    #[test]
    fn tenants_never_share_a_key() {
        assert_ne!(keys(1).document(&[TokenId(1)]), keys(2).document(&[TokenId(1)]));
    }

    #[test]
    fn a_document_behind_nothing_is_a_document_encoded_alone() {
        assert_eq!(keys(1).document_behind(&[], &[TokenId(1)]), keys(1).document(&[TokenId(1)]));
    }
}
