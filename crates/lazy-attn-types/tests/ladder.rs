//! What each rung of the ladder and each placement makes of the parts of a prompt.

// Helpers outside test functions may unwrap too.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use lazy_attn_types::SegmentKind::{self, Document, Text};
use lazy_attn_types::context::ContextError;
use lazy_attn_types::{
    Context, ContextBuilder, ContextRules, Exactness, Fingerprint, KeySpace, Placement, TenantSalt, TokenId,
    TokenRange,
};

fn keys(salt: u8) -> KeySpace {
    KeySpace::new(TenantSalt([salt; 32]), Fingerprint::of(&[("model", b"tiny")]))
}

fn tokens(ids: &[u32]) -> Arc<[TokenId]> {
    ids.iter().copied().map(TokenId).collect()
}

fn context(rules: ContextRules, parts: &[(SegmentKind, &[u32])]) -> Context {
    let mut builder = ContextBuilder::new(keys(1), rules);
    for (kind, ids) in parts {
        builder.push(*kind, tokens(ids)).unwrap();
    }
    builder.finish().unwrap()
}

fn rung(exactness: Exactness) -> ContextRules {
    ContextRules::from(exactness)
}

/// Kind, start, first and last token seen of each segment.
fn layout(context: &Context) -> Vec<(SegmentKind, u32, u32, u32)> {
    let segments = context.segments().iter();
    segments.map(|s| (s.kind(), s.start().0, s.seen().first, s.seen().end)).collect()
}

const PROMPT: [(SegmentKind, &[u32]); 4] =
    [(Text, &[1, 2]), (Document, &[10, 11, 12, 13, 14, 15]), (Document, &[20, 21, 22]), (Text, &[9, 8, 7])];

#[test]
fn a_head_is_text_in_front_of_a_view_of_the_same_document() {
    let block = context(rung(Exactness::Block), &PROMPT);
    let head = context(rung(Exactness::Head { num_tokens: 3 }), &PROMPT);
    // The second document is no longer than its head.
    let want = [(Text, 0, 0, 2), (Text, 2, 0, 3), (Document, 2, 3, 6), (Text, 8, 0, 3), (Text, 11, 0, 2)];
    assert_eq!(layout(&head), want);
    assert_eq!(head.segments()[2].key(), block.segments()[1].key(), "the copy is shared");
    assert_eq!(head.segments()[2].num_tokens(), 6, "it is stored whole");
    assert_eq!(
        (head.num_prompt_tokens(), head.tail_start()),
        (block.num_prompt_tokens(), block.tail_start())
    );
    assert_eq!((head.num_recomputed_tokens(), block.num_recomputed_tokens()), (6, 0));
}

#[test]
fn edges_are_text_on_both_sides_of_a_view() {
    let edges = context(rung(Exactness::Edges { num_tokens: 2 }), &PROMPT);
    let want = [
        (Text, 0, 0, 2),
        (Text, 2, 0, 2),
        (Document, 2, 2, 4),
        (Text, 6, 0, 2),
        (Text, 8, 0, 3), // the second document is shorter than both its edges
        (Text, 11, 0, 2),
    ];
    assert_eq!(layout(&edges), want);
    assert_eq!(edges.num_recomputed_tokens(), 7);
    assert_eq!(edges.segments()[2].key(), context(rung(Exactness::Block), &PROMPT).segments()[1].key());
}

#[test]
fn views_begin_where_the_executor_lets_them() {
    let at = |exactness| context(ContextRules { view_grain: 4, ..rung(exactness) }, &PROMPT);
    let head = [(Text, 0, 0, 2), (Text, 2, 0, 4), (Document, 2, 4, 6), (Text, 8, 0, 3), (Text, 11, 0, 2)];
    assert_eq!(layout(&at(Exactness::Head { num_tokens: 3 })), head);
    let edges = at(Exactness::Edges { num_tokens: 1 });
    let want = [(Text, 0, 0, 2), (Text, 2, 0, 4), (Document, 2, 4, 5), (Text, 7, 0, 1)];
    assert_eq!(layout(&edges)[..4], want);
    // Head and tail meet.
    assert_eq!(layout(&at(Exactness::Edges { num_tokens: 3 }))[1], (Text, 2, 0, 6));
}

#[test]
fn the_ends_of_the_ladder_are_the_two_modes() {
    let of = |exactness| context(rung(exactness), &PROMPT);
    assert_eq!(of(Exactness::Head { num_tokens: 0 }), of(Exactness::Block));
    assert_eq!(of(Exactness::Edges { num_tokens: 0 }), of(Exactness::Block));
    assert_eq!(of(Exactness::Edges { num_tokens: u32::MAX }), of(Exactness::Full));
    let (whole, full) = (of(Exactness::Head { num_tokens: u32::MAX }), of(Exactness::Full));
    assert_eq!(whole, full);
    assert_eq!(full.num_recomputed_tokens(), 9);
    // Without text in front there is nothing to see.
    let alone = |exactness| context(rung(exactness), &PROMPT[1..]);
    assert_eq!(alone(Exactness::Preamble), alone(Exactness::Block));
}

#[test]
fn text_behind_a_view_has_another_key_than_behind_the_whole_document() {
    let mut builders = [(); 2].map(|()| ContextBuilder::new(keys(1), rung(Exactness::Block)));
    let [whole, middle] = &mut builders;
    whole.push(Document, tokens(&[1; 12])).unwrap();
    let seen = middle.push_document(tokens(&[1; 12]), &[TokenRange { first: 5, end: 8 }]).unwrap();
    assert_eq!(seen, 0, "the first view stands for the document");
    for builder in &mut builders {
        builder.push(Text, tokens(&[5, 6])).unwrap();
    }
    let [whole, middle] = builders.map(|builder| builder.finish().unwrap());
    let want = [(Document, 0, 0, 5), (Text, 5, 0, 3), (Document, 0, 8, 12), (Text, 12, 0, 1)];
    assert_eq!(layout(&middle), want);
    assert_ne!(whole.segments()[1].key(), middle.segments()[3].key());
}

#[test]
fn a_document_that_is_to_be_measured_is_text_beside_a_hidden_copy() {
    let measured = context(rung(Exactness::Selective { percent: 10 }), &PROMPT);
    let (block, full) = (context(rung(Exactness::Block), &PROMPT), context(rung(Exactness::Full), &PROMPT));
    assert_eq!(measured.measured().collect::<Vec<_>>(), [(1, 2), (3, 4)]);
    assert_eq!(measured.segments()[2].key(), block.segments()[1].key());
    assert_eq!(measured.segments()[1].key(), full.segments()[1].key());
    assert_eq!(measured.num_prompt_tokens(), full.num_prompt_tokens());
    assert_eq!(measured.num_recomputed_tokens(), full.num_recomputed_tokens());
    assert_eq!(measured.tail_start(), full.tail_start());
    assert_eq!(context(rung(Exactness::Selective { percent: 0 }), &PROMPT), block);
    assert_eq!(full.measured().count() + block.measured().count(), 0);
}

#[test]
fn a_preamble_is_part_of_the_key_and_the_place_is_not() {
    let of = |parts: &[(SegmentKind, &[u32])]| context(rung(Exactness::Preamble), parts);
    let [_, a, b, question] = PROMPT;
    let (first, second) = (of(&PROMPT), of(&[PROMPT[0], b, a, question]));
    assert_eq!(first.segments()[1].key(), second.segments()[2].key());
    assert_eq!(first.segments()[2].num_preamble(), 1);
    let other = of(&[(Text, &[1, 3]), a, b, question]);
    assert_ne!(first.segments()[1].key(), other.segments()[1].key());
    assert_ne!(first.segments()[1].key(), context(rung(Exactness::Block), &PROMPT).segments()[1].key());
}

#[test]
fn placements_move_starts_and_nothing_else() {
    let of = |placement| {
        let rules = ContextRules { placement, ..rung(Exactness::Block) };
        context(rules, &PROMPT)
    };
    let starts = |placement| {
        let context = of(placement);
        let starts: Vec<u32> = context.segments().iter().map(|s| s.start().0).collect();
        (starts, context.tail_start().0)
    };
    assert_eq!(starts(Placement::Consecutive), (vec![0, 2, 8, 11], 13));
    assert_eq!(starts(Placement::Local), (vec![0, 0, 0, 11], 13));
    assert_eq!(starts(Placement::Parallel), (vec![0, 2, 2, 8], 10));
    let key = |placement| of(placement).segments()[2].key();
    assert_eq!(key(Placement::Local), key(Placement::Consecutive));
    assert_eq!(key(Placement::Parallel), key(Placement::Consecutive));
}

#[test]
fn a_document_is_no_question_whatever_is_computed_again() {
    for num_tokens in [0, 4, 100] {
        let mut builder = ContextBuilder::new(keys(1), rung(Exactness::Head { num_tokens }));
        builder.push(Document, tokens(&[1; 9])).unwrap();
        assert_eq!(builder.finish(), Err(ContextError::EndsWithDocument));
    }
}
