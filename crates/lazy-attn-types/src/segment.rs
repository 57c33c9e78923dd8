//! Segments, contexts and content keys.
//!
//! A context is an ordered list of segments. Each segment's keys are stored once, rotated at segment-local positions
//! `0..len`; attention rotates the query by `position - segment.start`. Because `R(a)^T R(b) = R(b - a)`, the score is
//! that of ordinary RoPE at global positions, whatever the segment's place.

use std::sync::Arc;

use crate::{Position, TokenId};

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

    /// Key of a text segment at `start` behind `earlier`: chains over every earlier segment, in order, with its
    /// boundary and start.
    #[must_use]
    pub fn text(&self, earlier: &[Segment], start: Position, tokens: &[TokenId]) -> SegmentKey {
        let mut hasher = self.hasher(b"text");
        hasher.update(&(earlier.len() as u64).to_le_bytes());
        for segment in earlier {
            hasher.update(segment.key.as_bytes());
            // Only distances matter: the key survives a shift of the whole context.
            hasher.update(&(i64::from(start.0) - i64::from(segment.start.0)).to_le_bytes());
        }
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

fn update_tokens(hasher: &mut blake3::Hasher, tokens: &[TokenId]) {
    hasher.update(&(tokens.len() as u64).to_le_bytes());
    for token in tokens {
        hasher.update(&token.0.to_le_bytes());
    }
}

/// An immutable piece of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    kind: SegmentKind,
    tokens: Arc<[TokenId]>,
    key: SegmentKey,
    start: Position,
}

impl Segment {
    /// What the segment sees while it is encoded.
    #[must_use]
    pub fn kind(&self) -> SegmentKind {
        self.kind
    }

    /// Its tokens, at least one.
    #[must_use]
    pub fn tokens(&self) -> &Arc<[TokenId]> {
        &self.tokens
    }

    /// Its length in tokens.
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

    /// Logical position of its first token.
    #[must_use]
    pub fn start(&self) -> Position {
        self.start
    }
}

/// The prompt of a sequence: complete segments, then the token that opens the private tail.
///
/// The last prompt token is kept out of the segments: it is the one whose logits choose the first new token, so it is
/// always run. Everything before it may be resident already, and `n` samples of one request share all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    segments: Vec<Segment>,
    last_prompt_token: TokenId,
    tail_start: Position,
}

impl Context {
    /// The complete segments, in order.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// First token of the tail: the last token of the prompt.
    #[must_use]
    pub fn last_prompt_token(&self) -> TokenId {
        self.last_prompt_token
    }

    /// Logical position of the tail's first token.
    #[must_use]
    pub fn tail_start(&self) -> Position {
        self.tail_start
    }

    /// Tokens of the whole prompt, the tail's first token included.
    #[must_use]
    pub fn num_prompt_tokens(&self) -> u32 {
        self.segments.iter().map(Segment::num_tokens).sum::<u32>() + 1
    }
}

/// Why a context could not be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// A part holds no token.
    #[error("part {part_index} has no tokens; remove it or give it text")]
    EmptyPart {
        /// 0-based index of the part in the request.
        part_index: usize,
    },
    /// The last part is a document, so there is nothing to answer.
    #[error("the last part must be text (the question), not a document; add a text part after the documents")]
    EndsWithDocument,
    /// There is no part at all.
    #[error("the request has no parts; give at least one text part")]
    NoParts,
    /// The prompt is longer than positions go.
    #[error("the prompt has more than {max_tokens} tokens; shorten it")]
    TooLong {
        /// Most tokens a prompt may have.
        max_tokens: u32,
    },
}

/// Builds a [`Context`] part by part, placing each segment right behind the last one.
#[derive(Debug)]
pub struct ContextBuilder {
    keys: KeySpace,
    mode: AttentionMode,
    segments: Vec<Segment>,
    next_start: Position,
}

impl ContextBuilder {
    /// An empty context whose documents will be encoded in `mode`.
    #[must_use]
    pub fn new(keys: KeySpace, mode: AttentionMode) -> ContextBuilder {
        ContextBuilder { keys, mode, segments: Vec::new(), next_start: Position(0) }
    }

    /// Appends a part. In [`AttentionMode::Full`] a document part becomes text.
    ///
    /// # Errors
    /// [`ContextError::EmptyPart`] if `tokens` is empty, [`ContextError::TooLong`] past [`Position::MAX`].
    pub fn push(&mut self, kind: SegmentKind, tokens: Arc<[TokenId]>) -> Result<(), ContextError> {
        if tokens.is_empty() {
            return Err(ContextError::EmptyPart { part_index: self.segments.len() });
        }
        let end = u64::from(self.next_start.0) + tokens.len() as u64;
        if end >= u64::from(Position::MAX.0) {
            return Err(ContextError::TooLong { max_tokens: Position::MAX.0 });
        }
        let kind = if self.mode == AttentionMode::Full { SegmentKind::Text } else { kind };
        let segment = self.segment(kind, tokens);
        self.next_start = self.next_start.advance(segment.num_tokens());
        self.segments.push(segment);
        Ok(())
    }

    fn segment(&self, kind: SegmentKind, tokens: Arc<[TokenId]>) -> Segment {
        let start = self.next_start;
        let key = match kind {
            SegmentKind::Document => self.keys.document(&tokens),
            SegmentKind::Text => self.keys.text(&self.segments, start, &tokens),
        };
        Segment { kind, tokens, key, start }
    }

    /// Splits the last token off into the tail and closes the context.
    ///
    /// # Errors
    /// [`ContextError::NoParts`] without parts, [`ContextError::EndsWithDocument`] if the last part is a document.
    pub fn finish(mut self) -> Result<Context, ContextError> {
        let last = self.segments.pop().ok_or(ContextError::NoParts)?;
        if last.kind == SegmentKind::Document {
            return Err(ContextError::EndsWithDocument);
        }
        let (&last_prompt_token, rest) = last.tokens.split_last().ok_or(ContextError::NoParts)?;
        let tail_start = Position(self.next_start.0 - 1);
        if !rest.is_empty() {
            self.next_start = last.start;
            let segment = self.segment(SegmentKind::Text, rest.into());
            self.segments.push(segment);
        }
        Ok(Context { segments: self.segments, last_prompt_token, tail_start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(salt: u8) -> KeySpace {
        KeySpace::new(TenantSalt([salt; 32]), Fingerprint::of(&[("model", b"tiny")]))
    }

    fn tokens(ids: &[u32]) -> Arc<[TokenId]> {
        ids.iter().copied().map(TokenId).collect()
    }

    fn context(mode: AttentionMode, parts: &[(SegmentKind, &[u32])]) -> Context {
        let mut builder = ContextBuilder::new(keys(1), mode);
        for (kind, ids) in parts {
            builder.push(*kind, tokens(ids)).unwrap();
        }
        builder.finish().unwrap()
    }

    use SegmentKind::{Document, Text};

    #[test]
    fn a_document_keeps_its_key_at_any_place_and_changes_only_its_start() {
        let a = context(AttentionMode::Block, &[(Document, &[1, 2]), (Document, &[3]), (Text, &[9, 8])]);
        let b = context(AttentionMode::Block, &[(Document, &[3]), (Document, &[1, 2]), (Text, &[9, 8])]);
        assert_eq!(a.segments()[0].key(), b.segments()[1].key());
        assert_eq!((a.segments()[0].start(), b.segments()[1].start()), (Position(0), Position(1)));
    }

    #[test]
    fn text_behind_reordered_documents_has_another_key() {
        let a = context(AttentionMode::Block, &[(Document, &[1, 2]), (Document, &[3]), (Text, &[9, 8])]);
        let b = context(AttentionMode::Block, &[(Document, &[3]), (Document, &[1, 2]), (Text, &[9, 8])]);
        assert_ne!(a.segments()[2].key(), b.segments()[2].key());
    }

    #[test]
    fn moving_a_boundary_changes_the_key() {
        let a = context(AttentionMode::Full, &[(Text, &[1, 2]), (Text, &[3, 4])]);
        let b = context(AttentionMode::Full, &[(Text, &[1]), (Text, &[2, 3, 4])]);
        assert_ne!(a.segments()[1].key(), b.segments()[1].key());
    }

    #[test]
    fn tenants_never_share_a_key() {
        assert_ne!(keys(1).document(&tokens(&[1])), keys(2).document(&tokens(&[1])));
    }

    #[test]
    fn the_last_prompt_token_opens_the_tail() {
        let c = context(AttentionMode::Block, &[(Document, &[1, 2]), (Text, &[9])]);
        assert_eq!(c.segments().len(), 1);
        assert_eq!((c.last_prompt_token(), c.tail_start()), (TokenId(9), Position(2)));
        assert_eq!(c.num_prompt_tokens(), 3);
    }

    #[test]
    fn full_mode_turns_documents_into_text() {
        let c = context(AttentionMode::Full, &[(Document, &[1, 2]), (Text, &[9, 1])]);
        assert!(c.segments().iter().all(|s| s.kind() == Text));
    }

    #[test]
    fn empty_parts_and_missing_questions_are_refused() {
        let mut builder = ContextBuilder::new(keys(1), AttentionMode::Block);
        assert_eq!(builder.push(Text, tokens(&[])), Err(ContextError::EmptyPart { part_index: 0 }));
        builder.push(Document, tokens(&[1])).unwrap();
        assert_eq!(builder.finish(), Err(ContextError::EndsWithDocument));
        assert_eq!(ContextBuilder::new(keys(1), AttentionMode::Block).finish(), Err(ContextError::NoParts));
    }
}
