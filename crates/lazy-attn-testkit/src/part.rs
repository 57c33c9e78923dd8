//! A logical context: parts in order, placed at logical positions, and who sees whom.

use lazy_attn_types::{AttentionMode, SegmentKind, TokenId, TokenRange};

/// What a client sends: a document or text, tokenised alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Part {
    /// Document or text.
    pub kind: SegmentKind,
    /// Its tokens, at least one.
    pub tokens: Vec<TokenId>,
}

impl Part {
    /// A document of `ids`.
    #[must_use]
    pub fn document(ids: impl IntoIterator<Item = u32>) -> Part {
        Part { kind: SegmentKind::Document, tokens: ids.into_iter().map(TokenId).collect() }
    }

    /// Text of `ids`.
    #[must_use]
    pub fn text(ids: impl IntoIterator<Item = u32>) -> Part {
        Part { kind: SegmentKind::Text, tokens: ids.into_iter().map(TokenId).collect() }
    }
}

/// A part with the logical position of its first token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Document (sees itself) or text (sees everything before it).
    pub kind: SegmentKind,
    /// Its tokens.
    pub tokens: Vec<TokenId>,
    /// Logical position of token 0.
    pub start: u32,
    /// Which of its tokens later segments see; all if absent.
    pub seen: Option<TokenRange>,
    /// How many of the first segments a document sees, right behind which it is encoded.
    pub num_preamble: usize,
}

impl Placed {
    /// A segment that is seen whole, and encoded alone if it is a document.
    #[must_use]
    pub fn new(kind: SegmentKind, tokens: Vec<TokenId>, start: u32) -> Placed {
        Placed { kind, tokens, start, seen: None, num_preamble: 0 }
    }
}

/// Places `parts` back to back from position 0; in [`AttentionMode::Full`] documents become text.
#[must_use]
pub fn place(parts: &[Part], mode: AttentionMode) -> Vec<Placed> {
    let mut start = 0;
    let mut placed = Vec::with_capacity(parts.len());
    for part in parts {
        let kind = if mode == AttentionMode::Full { SegmentKind::Text } else { part.kind };
        placed.push(Placed::new(kind, part.tokens.clone(), start));
        start += part.tokens.len() as u32;
    }
    placed
}

/// One token of a placed context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// The token.
    pub token: TokenId,
    /// Index of its segment.
    pub segment_index: usize,
    /// Whether its segment is a document.
    pub kind: SegmentKind,
    /// Index inside its segment.
    pub local: u32,
    /// Logical position.
    pub position: u32,
    /// The position at which it was run; another one for a document behind a preamble.
    pub run_position: u32,
    /// Whether later segments see it.
    pub is_shown: bool,
    /// How many of the first segments it sees, as part of a document.
    pub num_preamble: usize,
}

/// All tokens of `context`, in order.
#[must_use]
pub fn spots(context: &[Placed]) -> Vec<Spot> {
    let segments = context.iter().enumerate();
    segments
        .flat_map(|(segment_index, placed)| {
            let preamble = context[..placed.num_preamble].last();
            let run_start = preamble.map_or(placed.start, |last| last.start + last.tokens.len() as u32);
            placed.tokens.iter().zip(0u32..).map(move |(&token, local)| Spot {
                token,
                segment_index,
                kind: placed.kind,
                local,
                position: placed.start + local,
                run_position: run_start + local,
                is_shown: placed.seen.is_none_or(|seen| (seen.first..seen.end).contains(&local)),
                num_preamble: placed.num_preamble,
            })
        })
        .collect()
}

/// Whether the token at `reader` sees the key of the token at `key`.
///
/// Own segment causally, what earlier segments show unless the reader is a document, which sees its preamble; with a sliding
/// window of `w` only keys at less than `w` positions behind the reader.
#[must_use]
pub fn sees(reader: &Spot, key: &Spot, sliding_window: Option<u32>) -> bool {
    let in_order = if reader.segment_index == key.segment_index {
        key.local <= reader.local
    } else {
        let end = if reader.kind == SegmentKind::Text { reader.segment_index } else { reader.num_preamble };
        key.is_shown && key.segment_index < end
    };
    in_order && sliding_window.is_none_or(|window| distance(reader, key) < i64::from(window))
}

/// Positions from `key` to `reader` when `reader` was run.
#[must_use]
pub fn distance(reader: &Spot, key: &Spot) -> i64 {
    let is_own = reader.segment_index == key.segment_index;
    i64::from(reader.run_position) - i64::from(if is_own { key.run_position } else { key.position })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visible(parts: &[Part], mode: AttentionMode, window: Option<u32>) -> Vec<Vec<u8>> {
        let all = spots(&place(parts, mode));
        all.iter().map(|q| all.iter().map(|k| u8::from(sees(q, k, window))).collect()).collect()
    }

    #[test]
    fn documents_see_themselves_and_text_sees_everything_before_it() {
        let parts = [Part::text([1]), Part::document([2, 3]), Part::text([4])];
        let mask = visible(&parts, AttentionMode::Block, None);
        assert_eq!(mask, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]]);
    }

    #[test]
    fn full_mode_is_one_causal_context() {
        let parts = [Part::document([2, 3]), Part::text([4])];
        let mask = visible(&parts, AttentionMode::Full, None);
        assert_eq!(mask, [[1, 0, 0], [1, 1, 0], [1, 1, 1]]);
    }

    #[test]
    fn a_window_of_two_shows_the_token_itself_and_one_before_it() {
        let parts = [Part::document([2, 3]), Part::text([4, 5])];
        let mask = visible(&parts, AttentionMode::Block, Some(2));
        assert_eq!(mask, [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]);
    }
}
