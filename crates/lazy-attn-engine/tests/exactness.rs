//! Rungs and placements: what is seen where, what is computed, and what stays shared.

mod common;

use std::collections::HashSet;

use common::{Bos, Rig, RigOptions, VOCAB_SIZE, answer, doc, expected, free, logical, read, request, text};
use lazy_attn_engine::PartOutcome::{Hit, Miss};
use lazy_attn_engine::{EngineConfig, EngineError, GenerateRequest, Part, PartContent};
use lazy_attn_testkit::FakeConfig;
use lazy_attn_testkit::fake::expected_placed;
use lazy_attn_testkit::part::Placed;
use lazy_attn_testkit::place;
use lazy_attn_types::{
    AttentionMode, BlockId, BlockSize, Capability, Exactness, Placement, SegmentKind, SegmentView, TokenId,
    TokenRange,
};
use proptest::prelude::*;

const HEAD: Exactness = Exactness::Head { num_tokens: 16 };

/// Text, a document of 40 tokens, one of 5, and a question; blocks have 16 tokens.
fn prompt() -> Vec<Part> {
    vec![text("Read: "), doc(&"The pilot boat leaves at 6. ".repeat(2)[..40]), doc("short"), text("When?")]
}

fn asked(exactness: Exactness, parts: Vec<Part>) -> GenerateRequest {
    GenerateRequest { exactness, ..request(parts, 6) }
}

/// What the fake executor says to `context`.
fn says(context: Vec<Placed>) -> Vec<TokenId> {
    expected_placed(context, None, VOCAB_SIZE, 6)
}

/// The prompt with its documents where `starts` says, texts as they are in one context but the last at `last`.
fn at(starts: [u32; 2], last: u32) -> Vec<Placed> {
    let mut context = place(&logical(&prompt()), AttentionMode::Block);
    (context[1].start, context[2].start, context[3].start) = (starts[0], starts[1], last);
    context
}

/// Views of documents that the steps of `rig` read: storage, blocks and range.
fn document_reads(rig: &Rig) -> HashSet<(u64, Vec<BlockId>, u32, u32)> {
    let inputs = rig.probe.inputs();
    let views = inputs.iter().flat_map(|input| {
        let entry = |view: &SegmentView| {
            (view.handle.0, input.blocks_of(view).to_vec(), view.first_seen, view.num_tokens)
        };
        input.segments.iter().map(entry).collect::<Vec<_>>()
    });
    views.collect()
}

#[test]
fn a_head_is_computed_in_the_requests_context_and_the_rest_is_read_where_it_lies() {
    let rig = free(RigOptions::default());
    let block = answer(&rig.handle, asked(Exactness::Block, prompt()));
    let copies: Vec<Vec<BlockId>> = {
        let reads = document_reads(&rig);
        reads.into_iter().filter(|read| read.3 == 40).map(|read| read.1).collect()
    };
    let reply = answer(&rig.handle, asked(HEAD, prompt()));
    let [read, long, short, question] = &place(&logical(&prompt()), AttentionMode::Block)[..] else {
        panic!("four parts");
    };
    let head = Placed::new(SegmentKind::Text, long.tokens[..16].to_vec(), long.start);
    let rest = Placed { seen: Some(TokenRange { first: 16, end: 40 }), ..long.clone() };
    // The second document is shorter than a head.
    let whole = Placed { kind: SegmentKind::Text, ..short.clone() };
    assert_eq!(reply.ids(), says(vec![read.clone(), head, rest, whole, question.clone()]));
    assert_ne!(reply.ids(), block.ids());

    // One copy: the view reads the blocks that the document was encoded to.
    assert!(document_reads(&rig).iter().any(|read| read.2 == 16 && read.3 == 40 && copies.contains(&read.1)));
    let usage = reply.usage();
    assert_eq!((usage.prompt_tokens, usage.recomputed_tokens), (6 + 40 + 5 + 5, 16 + 5));
    // The head, the short document and the question; the text in front and 24 tokens of the copy were there.
    assert_eq!((usage.computed_prompt_tokens, usage.cached_prompt_tokens), (16 + 5 + 5, 6 + 24));
    let outcomes: Vec<_> = reply.parts.iter().map(|part| part.outcome).collect();
    assert_eq!(outcomes, [Hit, Hit, Miss, Miss], "a document is what its copy is");
    assert_eq!(reply.parts[1].document_key, block.parts[1].document_key);

    let again = answer(&rig.handle, asked(HEAD, prompt()));
    assert_eq!((again.ids(), again.usage().computed_prompt_tokens), (reply.ids(), 1), "overlays are cached");
    assert_eq!(again.usage().recomputed_tokens, usage.recomputed_tokens);
}

#[test]
fn edges_are_computed_in_the_requests_context_on_both_sides_of_what_is_read() {
    let rig = free(RigOptions::default());
    let asked_for = asked(Exactness::Edges { num_tokens: 6 }, prompt());
    let reply = answer(&rig.handle, asked_for.clone());
    let [read, long, short, question] = &place(&logical(&prompt()), AttentionMode::Block)[..] else {
        panic!("four parts");
    };
    let edge = |range: std::ops::Range<usize>| {
        let start = long.start + range.start as u32;
        Placed::new(SegmentKind::Text, long.tokens[range].to_vec(), start)
    };
    let middle = Placed { seen: Some(TokenRange { first: 6, end: 34 }), ..long.clone() };
    // The second document is shorter than both its edges.
    let whole = Placed { kind: SegmentKind::Text, ..short.clone() };
    let seen = vec![read.clone(), edge(0..6), middle, edge(34..40), whole, question.clone()];
    assert_eq!(reply.ids(), says(seen));
    let usage = reply.usage();
    assert_eq!((usage.recomputed_tokens, usage.computed_prompt_tokens), (6 + 6 + 5, 56 + 6 + 6));
    let again = answer(&rig.handle, asked_for);
    assert_eq!((again.ids(), again.usage().computed_prompt_tokens), (reply.ids(), 1), "overlays are cached");
}

#[test]
fn a_request_that_computes_copy_and_head_counts_both() {
    let rig = free(RigOptions::default());
    let usage = answer(&rig.handle, asked(HEAD, prompt())).usage();
    assert_eq!((usage.prompt_tokens, usage.cached_prompt_tokens), (56, 0));
    assert_eq!(usage.computed_prompt_tokens, 56 + 16);
}

#[test]
fn a_document_that_stands_twice_in_a_prompt_is_found_the_second_time() {
    let rig = free(RigOptions::default());
    let twice = vec![doc("a document"), doc("a document"), text("When?")];
    let usage = answer(&rig.handle, asked(Exactness::Block, twice)).usage();
    assert_eq!((usage.cached_prompt_tokens, usage.computed_prompt_tokens), (10, 10 + 5));
}

#[test]
fn the_ends_of_the_ladder_are_the_two_modes() {
    let rig = free(RigOptions::default());
    let ends = [(0, AttentionMode::Block), (40, AttentionMode::Full), (u32::MAX, AttentionMode::Full)];
    for (num_tokens, mode) in ends {
        let reply = answer(&rig.handle, asked(Exactness::Head { num_tokens }, prompt()));
        assert_eq!(reply.ids(), expected(&prompt(), mode, 6));
    }
    let alone = prompt()[1..].to_vec();
    let reply = answer(&rig.handle, asked(Exactness::Preamble, alone.clone()));
    assert_eq!(reply.ids(), expected(&alone, AttentionMode::Block, 6));
}

#[test]
fn a_preamble_is_seen_by_documents_that_are_cached_behind_it_at_any_place() {
    let rig = free(RigOptions::default());
    let context = |mut context: Vec<Placed>| {
        for document in context.iter_mut().filter(|placed| placed.kind == SegmentKind::Document) {
            document.num_preamble = 1;
        }
        says(context)
    };
    let [read, long, short, question] = &prompt()[..] else { panic!("four parts") };
    let turned = vec![read.clone(), short.clone(), long.clone(), question.clone()];
    for (parts, num_computed) in [(prompt(), 56), (turned, 5)] {
        let reply = answer(&rig.handle, asked(Exactness::Preamble, parts.clone()));
        assert_eq!(reply.ids(), context(place(&logical(&parts), AttentionMode::Block)));
        assert_ne!(reply.ids(), expected(&parts, AttentionMode::Block, 6));
        assert_eq!(reply.usage().computed_prompt_tokens, num_computed);
        assert_eq!(reply.usage().recomputed_tokens, 0);
    }
    // Behind another text it is another copy.
    let mut other = prompt();
    other[0] = text("Recite");
    let usage = answer(&rig.handle, asked(Exactness::Preamble, other)).usage();
    assert_eq!((usage.documents_reused, usage.cached_prompt_tokens), (0, 0));
}

#[test]
fn a_begin_token_in_front_of_documents_is_a_preamble() {
    let rig = free(RigOptions { bos: Bos::Add, ..RigOptions::default() });
    let parts = prompt()[1..].to_vec();
    let first = answer(&rig.handle, asked(Exactness::Preamble, parts.clone()));
    let block = answer(&rig.handle, asked(Exactness::Block, parts));
    assert_ne!(first.ids(), block.ids());
    assert_eq!(block.usage().documents_reused, 0, "a copy that saw the token is another copy");
}

#[test]
fn a_selective_request_measures_what_it_meets_first_and_chooses_from_then_on() {
    let rig = free(RigOptions::default());
    let selective = |percent| asked(Exactness::Selective { percent }, prompt());
    let first = answer(&rig.handle, selective(33));
    assert_eq!(first.ids(), expected(&prompt(), AttentionMode::Full, 6), "it is exact");
    assert_eq!(first.usage().recomputed_tokens, 40 + 5);
    // Everything in the fake executor's documents saw something else, so that blocks come in their order: a third of three
    // blocks is the first, and the only block of the other document.
    let second = answer(&rig.handle, selective(33));
    let head = answer(&rig.handle, asked(HEAD, prompt()));
    assert_eq!((second.ids(), second.usage().recomputed_tokens), (head.ids(), 16 + 5));
    assert_eq!(second.usage().documents_reused, 1, "the copy was made beside the measurement");
    assert_eq!(answer(&rig.handle, selective(34)).usage().recomputed_tokens, 32 + 5);
    assert_eq!(answer(&rig.handle, selective(100)).ids(), first.ids());
    assert_eq!(answer(&rig.handle, selective(0)).ids(), expected(&prompt(), AttentionMode::Block, 6));

    // A document it has not met yet is measured beside those it has.
    let mut other = prompt();
    other.insert(2, doc("another document, of more than a block"));
    let mixed = answer(&rig.handle, asked(Exactness::Selective { percent: 33 }, other)).usage();
    assert_eq!(mixed.recomputed_tokens, 16 + 38 + 5);
}

#[test]
fn samples_and_streams_of_a_measured_prompt_give_its_tokens() {
    for capability in [Capability::Logits, Capability::Samples, Capability::Overlaps] {
        let rig = free(RigOptions { capability, ..RigOptions::default() });
        let selective = || asked(Exactness::Selective { percent: 33 }, prompt());
        let streams: Vec<_> = (0..3).map(|_| rig.handle.submit(selective()).unwrap()).collect();
        let full = expected(&prompt(), AttentionMode::Full, 6);
        let head = answer(&rig.handle, asked(HEAD, prompt())).ids();
        for stream in streams {
            let reply = read(stream);
            let is_measuring = reply.usage().recomputed_tokens == 45;
            assert_eq!(&reply.ids(), if is_measuring { &full } else { &head });
        }
        let chosen = answer(&rig.handle, selective());
        assert_eq!((chosen.ids(), chosen.usage().recomputed_tokens), (head, 16 + 5));
        let stats = rig.handle.settled_stats().unwrap();
        assert_eq!((stats.steps_failed, stats.sched.kv.blocks_leased), (0, 0));
    }
}

#[test]
fn placements_move_documents_and_share_their_copies() {
    let rig = free(RigOptions::default());
    answer(&rig.handle, asked(Exactness::Block, prompt()));
    let placements = [
        (Placement::Consecutive, at([6, 46], 51)),
        (Placement::Local, at([0, 0], 51)),
        (Placement::Parallel, at([6, 6], 46)),
    ];
    for (placement, context) in placements {
        let asked = GenerateRequest { placement, ..asked(Exactness::Block, prompt()) };
        let reply = answer(&rig.handle, asked);
        assert_eq!(reply.ids(), says(context), "{placement:?}");
        assert_eq!(reply.usage().documents_reused, 2);
    }
}

#[test]
fn what_cannot_go_together_is_refused_by_its_field() {
    let rig = free(RigOptions::default());
    let refused = |exactness, placement| {
        let asked = GenerateRequest { placement, ..asked(exactness, prompt()) };
        match rig.handle.submit(asked) {
            Err(EngineError::Param(error)) => error.field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(Exactness::Full, Placement::Local), "placement");
    assert_eq!(refused(HEAD, Placement::Parallel), "placement");
    assert_eq!(refused(Exactness::Selective { percent: 101 }, Placement::Consecutive), "exactness");
}

/// Documents and texts of few names, so that requests share them; lengths around the size of a block.
fn parts() -> impl Strategy<Value = Vec<Part>> {
    let name = (0u32..6, any::<bool>()).prop_map(|(name, is_document)| {
        let tokens = (0..[1, 3, 4, 5, 9, 17][name as usize]).map(|at| TokenId(name * 20 + at)).collect();
        let content = PartContent::Tokens(tokens);
        if is_document { Part::Document(content) } else { Part::Text(content) }
    });
    prop::collection::vec(name, 0..5).prop_map(|mut parts| {
        parts.push(text("What?"));
        parts
    })
}

fn rung() -> impl Strategy<Value = Exactness> {
    let head = (0u32..20).prop_map(|num_tokens| Exactness::Head { num_tokens });
    let edges = (0u32..12).prop_map(|num_tokens| Exactness::Edges { num_tokens });
    prop_oneof![3 => head, 3 => edges, 2 => Just(Exactness::Preamble), 1 => Just(Exactness::Block), 1 => Just(Exactness::Full)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_rung_gives_the_same_tokens_in_a_crowd_that_evicts_and_preempts_as_alone(
        all in prop::collection::vec((parts(), rung(), 1u32..8), 1..10),
        max_step_tokens in 7u32..40,
        num_blocks in 44u32..60,
    ) {
        // The largest request has five documents of 5 blocks, 4 x 5 of them overlaid, a question of 1 and a tail of 2.
        let options = |max_step_tokens, num_blocks| {
            let engine = EngineConfig { max_step_tokens, max_running: 6, ..EngineConfig::default() };
            let block_size = BlockSize::new(4).unwrap();
            let executor = FakeConfig { vocab_size: VOCAB_SIZE, num_blocks, block_size, ..FakeConfig::default() };
            RigOptions { engine, executor, ..RigOptions::default() }
        };
        let crowded = free(options(max_step_tokens, num_blocks));
        let submit = |(parts, exactness, max_tokens): &(Vec<Part>, Exactness, u32)| {
            let asked = GenerateRequest { exactness: *exactness, ..request(parts.clone(), *max_tokens) };
            (asked.clone(), crowded.handle.submit(asked).unwrap())
        };
        let streams: Vec<_> = all.iter().map(submit).collect();
        for (asked, stream) in streams {
            let alone = free(options(512, 512));
            let reply = read(stream);
            prop_assert_eq!(reply.ids(), answer(&alone.handle, asked).ids());
            let usage = reply.usage();
            prop_assert!(usage.cached_prompt_tokens + usage.computed_prompt_tokens >= usage.prompt_tokens);
        }
        let stats = crowded.handle.settled_stats().unwrap();
        prop_assert_eq!((stats.steps_failed, stats.sched.kv.blocks_leased), (0, 0));
    }
}
