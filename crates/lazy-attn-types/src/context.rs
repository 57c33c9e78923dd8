//! The prompt of a sequence as an ordered list of segments, and how it is built.

use std::sync::Arc;

use crate::segment::TokenRange;
use crate::{
    ContextRules, DocumentFocus, Exactness, KeySpace, Placement, Position, Segment, SegmentKind, TokenId,
};

/// The prompt of a sequence: complete segments, then the token that opens the private tail.
///
/// The last prompt token is kept out of the segments: it is the one whose logits choose the first new token, so it is
/// always run. Everything before it may be resident already, and `n` samples of one request share all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    segments: Vec<Segment>,
    last_prompt_token: TokenId,
    tail_start: Position,
    num_recomputed: u32,
    focus: DocumentFocus,
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
        self.segments.iter().map(|segment| segment.seen().num_tokens()).sum::<u32>() + 1
    }

    /// Documents that are text of this context beside a copy of which nothing is seen: where the text and the copy stand among
    /// the segments.
    pub fn measured(&self) -> impl Iterator<Item = (usize, usize)> {
        let hidden = |(_, segment): &(usize, &Segment)| segment.seen.num_tokens() == 0;
        self.segments.iter().enumerate().filter(hidden).map(|(copy, _)| (copy - 1, copy))
    }

    /// How its texts, and the tail, look at its documents.
    #[must_use]
    pub fn focus(&self) -> DocumentFocus {
        self.focus
    }

    /// Document tokens that are text of this context instead of a shared copy.
    #[must_use]
    pub fn num_recomputed_tokens(&self) -> u32 {
        self.num_recomputed
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

/// Documents that stand at one position.
#[derive(Debug, Clone, Copy)]
struct ParallelGroup {
    start: Position,
    /// Behind the longest so far.
    end: Position,
}

/// Builds a [`Context`] part by part, placing each segment right behind the last one unless its rules say otherwise.
#[derive(Debug)]
pub struct ContextBuilder {
    keys: KeySpace,
    rules: ContextRules,
    segments: Vec<Segment>,
    next_start: Position,
    group: Option<ParallelGroup>,
    num_parts: usize,
    num_recomputed: u32,
    /// What the last part is, as far as its tokens are concerned.
    last_kind: Option<SegmentKind>,
}

impl ContextBuilder {
    /// An empty context with documents as `rules` say, usually an [`AttentionMode`](crate::AttentionMode) or an [`Exactness`].
    #[must_use]
    pub fn new(keys: KeySpace, rules: impl Into<ContextRules>) -> ContextBuilder {
        ContextBuilder {
            keys,
            rules: rules.into(),
            segments: Vec::new(),
            next_start: Position(0),
            group: None,
            num_parts: 0,
            num_recomputed: 0,
            last_kind: None,
        }
    }

    /// Appends a part and tells which segment stands for it: of a document its shared copy, where there is one. Under
    /// [`Exactness::Full`] a document part is text; under [`Exactness::Head`] its first tokens are, under [`Exactness::Edges`] its
    /// last ones too. Under [`Exactness::Selective`] it is text too, beside a copy of which nothing is seen, so that the keys of both can be compared;
    /// once they have been, [`ContextBuilder::push_document`] takes what is to be computed again.
    ///
    /// # Errors
    /// [`ContextError::EmptyPart`] if `tokens` is empty, [`ContextError::TooLong`] past [`Position::MAX`].
    pub fn push(&mut self, kind: SegmentKind, tokens: Arc<[TokenId]>) -> Result<usize, ContextError> {
        match (kind, self.rules.exactness) {
            (SegmentKind::Document, Exactness::Full) => {
                self.num_recomputed += tokens.len() as u32; // bounded by the check of the position
                self.push_text(tokens)
            }
            (SegmentKind::Document, Exactness::Head { num_tokens }) => {
                let head = self.head(tokens.len() as u32, num_tokens);
                self.push_document(tokens, &[head])
            }
            (SegmentKind::Document, Exactness::Edges { num_tokens }) => {
                let length = tokens.len() as u32;
                let head = self.head(length, num_tokens);
                let first = length.saturating_sub(num_tokens);
                if first <= head.end {
                    return self.push_document(tokens, &[TokenRange::whole(length)]);
                }
                self.push_document(tokens, &[head, TokenRange { first, end: length }])
            }
            (SegmentKind::Document, Exactness::Selective { percent: 1.. }) => self.push_measured(tokens),
            (SegmentKind::Document, _) => self.push_document(tokens, &[]),
            (SegmentKind::Text, _) => self.push_text(tokens),
        }
    }

    /// Appends a document of which the tokens `recomputed` are text of this context: ascending and disjoint ranges
    /// that end where views may begin or at the document's end.
    ///
    /// # Errors
    /// As for [`ContextBuilder::push`].
    ///
    /// # Panics
    /// If the ranges are not as they must be: a bug of the caller.
    pub fn push_document(
        &mut self,
        tokens: Arc<[TokenId]>,
        recomputed: &[TokenRange],
    ) -> Result<usize, ContextError> {
        let start = self.document_start();
        let end = self.check_part(&tokens, start)?;
        let num_tokens = tokens.len() as u32;
        let grain = self.rules.view_grain;
        let is_border = |at: u32| at == num_tokens || (at < num_tokens && at.is_multiple_of(grain));
        let (mut seen_to, mut representative) = (0, None);
        let first_index = self.segments.len();
        for range in recomputed.iter().filter(|range| range.first < range.end) {
            assert!(range.first >= seen_to && is_border(range.end), "ranges in order");
            if let Some(view) =
                self.push_view(&tokens, start, TokenRange { first: seen_to, end: range.first })
            {
                representative.get_or_insert(view);
            }
            let text: Arc<[TokenId]> = tokens[range.first as usize..range.end as usize].into();
            self.num_recomputed += range.num_tokens();
            let segment = self.text(text, start.advance(range.first));
            self.segments.push(segment);
            seen_to = range.end;
        }
        if let Some(view) = self.push_view(&tokens, start, TokenRange { first: seen_to, end: num_tokens }) {
            representative.get_or_insert(view);
        }
        self.end_document(end, num_tokens);
        Ok(representative.unwrap_or(first_index))
    }

    /// Appends a document as text of this context, and its copy behind it, of which nothing is seen.
    fn push_measured(&mut self, tokens: Arc<[TokenId]>) -> Result<usize, ContextError> {
        let num_tokens = tokens.len() as u32;
        self.push_document(Arc::clone(&tokens), &[TokenRange::whole(num_tokens)])?;
        let start = self.segments.last().map_or(Position(0), |text| text.start);
        let view = self.view(tokens, start, TokenRange::whole(0));
        self.segments.push(view);
        Ok(self.segments.len() - 1)
    }

    /// The first `num_tokens` of a document of `length`, and those up to where a view may begin.
    fn head(&self, length: u32, num_tokens: u32) -> TokenRange {
        let end = num_tokens.checked_next_multiple_of(self.rules.view_grain).unwrap_or(u32::MAX);
        TokenRange::whole(end.min(length))
    }

    fn push_text(&mut self, tokens: Arc<[TokenId]>) -> Result<usize, ContextError> {
        if let Some(group) = self.group.take() {
            self.next_start = group.end;
        }
        let start = self.next_start;
        let end = self.check_part(&tokens, start)?;
        let segment = self.text(tokens, start);
        self.segments.push(segment);
        self.next_start = end;
        self.num_parts += 1;
        self.last_kind = Some(SegmentKind::Text);
        Ok(self.segments.len() - 1)
    }

    /// The view of the document `tokens` at `start` that shows `seen`, if that is anything; tells its index.
    fn push_view(&mut self, tokens: &Arc<[TokenId]>, start: Position, seen: TokenRange) -> Option<usize> {
        if seen.first == seen.end {
            return None;
        }
        let view = self.view(Arc::clone(tokens), start, seen);
        self.segments.push(view);
        Some(self.segments.len() - 1)
    }

    fn view(&self, tokens: Arc<[TokenId]>, start: Position, seen: TokenRange) -> Segment {
        let num_preamble = match self.rules.exactness {
            Exactness::Preamble => {
                self.segments.iter().take_while(|segment| segment.kind == SegmentKind::Text).count()
            }
            _ => 0,
        };
        let key = self.keys.document_behind(&self.segments[..num_preamble], &tokens);
        Segment { kind: SegmentKind::Document, tokens, key, start, seen, num_preamble }
    }

    fn text(&self, tokens: Arc<[TokenId]>, start: Position) -> Segment {
        let key = self.keys.text(&self.segments, self.rules.focus, start, &tokens);
        let seen = TokenRange::whole(tokens.len() as u32);
        Segment { kind: SegmentKind::Text, tokens, key, start, seen, num_preamble: 0 }
    }

    /// Where the next document stands.
    fn document_start(&self) -> Position {
        match self.rules.placement {
            Placement::Consecutive => self.next_start,
            Placement::Local => Position(0),
            Placement::Parallel => self.group.map_or(self.next_start, |group| group.start),
        }
    }

    /// A document of `num_tokens` tokens that ends at `end` was pushed.
    fn end_document(&mut self, end: Position, num_tokens: u32) {
        match self.rules.placement {
            Placement::Consecutive => self.next_start = end,
            Placement::Local => self.next_start = self.next_start.advance(num_tokens),
            Placement::Parallel => {
                let group = self.group.unwrap_or(ParallelGroup { start: self.next_start, end });
                self.group = Some(ParallelGroup { end: group.end.max(end), ..group });
            }
        }
        self.num_parts += 1;
        self.last_kind = Some(SegmentKind::Document);
    }

    /// Where a part of `tokens` at `start` ends.
    fn check_part(&self, tokens: &[TokenId], start: Position) -> Result<Position, ContextError> {
        if tokens.is_empty() {
            return Err(ContextError::EmptyPart { part_index: self.num_parts });
        }
        // Of documents at local positions the sum counts.
        let end = u64::from(start.max(self.next_start).0) + tokens.len() as u64;
        if end >= u64::from(Position::MAX.0) {
            return Err(ContextError::TooLong { max_tokens: Position::MAX.0 });
        }
        Ok(start.advance(tokens.len() as u32))
    }

    /// Splits the last token off into the tail and closes the context.
    ///
    /// # Errors
    /// [`ContextError::NoParts`] without parts, [`ContextError::EndsWithDocument`] if the last part is a document.
    pub fn finish(mut self) -> Result<Context, ContextError> {
        if self.last_kind == Some(SegmentKind::Document) {
            return Err(ContextError::EndsWithDocument);
        }
        let last = self.segments.pop().ok_or(ContextError::NoParts)?;
        let (&last_prompt_token, rest) = last.tokens.split_last().ok_or(ContextError::NoParts)?;
        let tail_start = Position(self.next_start.0 - 1);
        if !rest.is_empty() {
            let segment = self.text(rest.into(), last.start);
            self.segments.push(segment);
        }
        let ContextBuilder { segments, num_recomputed, rules, .. } = self;
        Ok(Context { segments, last_prompt_token, tail_start, num_recomputed, focus: rules.focus })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AttentionMode, Fingerprint, TenantSalt};

    fn keys(salt: u8) -> KeySpace {
        KeySpace::new(TenantSalt([salt; 32]), Fingerprint::of(&[("model", b"tiny")]))
    }

    fn tokens(ids: &[u32]) -> Arc<[TokenId]> {
        ids.iter().copied().map(TokenId).collect()
    }

    fn context(rules: impl Into<ContextRules>, parts: &[(SegmentKind, &[u32])]) -> Context {
        let mut builder = ContextBuilder::new(keys(1), rules);
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
