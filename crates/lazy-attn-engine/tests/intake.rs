//! What is refused, and in which words.

#![allow(clippy::unwrap_used)] // helpers of tests, not only the tests themselves

mod common;

use std::sync::Arc;

use common::{BOS, Bos, Rig, RigOptions, VOCAB_SIZE, answer, doc, free, gated, request, text};
use lazy_attn_engine::{EngineConfig, EngineError, GenerateRequest, Part, PartContent};
use lazy_attn_testkit::FakeConfig;
use lazy_attn_types::{SamplingParams, StopParams, TokenId};

fn refused(rig: &Rig, request: GenerateRequest) -> EngineError {
    rig.handle.submit(request).map(|stream| stream.request()).unwrap_err()
}

fn tokens(ids: &[u32]) -> PartContent {
    PartContent::Tokens(ids.iter().copied().map(TokenId).collect())
}

#[test]
fn a_broken_prompt_is_refused_by_the_name_of_its_part() {
    let rig = free(RigOptions::default());
    let cases: [(Vec<Part>, &str, &str); 6] = [
        (vec![], "parts", "none"),
        (vec![doc("a"), text("")], "parts[1]", "the text is empty"),
        (vec![doc("a"), doc(""), text("b")], "parts[1]", "the document is empty"),
        (vec![text("a"), doc("b")], "parts[1]", "must be text (the question)"),
        (vec![Part::Text(tokens(&[1, 999]))], "parts[0]", "token 999 is outside the vocabulary of 258"),
        (vec![text("a"); 257], "parts", "257 parts were given, at most 256"),
    ];
    for (parts, expected_field, words) in cases {
        match refused(&rig, request(parts, 1)) {
            EngineError::Invalid { field, problem } => {
                assert_eq!(field, expected_field);
                assert!(problem.contains(words), "{problem}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(rig.handle.submit(request(vec![text("a"); 256], 1)).is_ok());
}

#[test]
fn parameters_outside_their_range_are_refused_by_name() {
    let rig = free(RigOptions::default());
    let base = request(vec![text("a")], 1);
    let field = |request| match refused(&rig, request) {
        EngineError::Param(error) => error.field,
        other => panic!("{other:?}"),
    };
    let sampling = SamplingParams { top_p: 0.0, ..SamplingParams::default() };
    assert_eq!(field(GenerateRequest { sampling, ..base.clone() }), "sampling.top_p");
    let outside = TokenId(VOCAB_SIZE);
    let sampling = SamplingParams { logit_bias: vec![(outside, 1.0)], ..SamplingParams::default() };
    assert_eq!(field(GenerateRequest { sampling, ..base.clone() }), "sampling.logit_bias");
    let stopping = StopParams { stop_tokens: vec![outside], ..StopParams::default() };
    assert_eq!(field(GenerateRequest { stopping, ..base.clone() }), "stopping.stop_tokens");
    let stopping = StopParams { max_tokens: 0, ..StopParams::default() };
    assert_eq!(field(GenerateRequest { stopping, ..base }), "stopping.max_tokens");
}

#[test]
fn a_context_longer_than_the_model_is_refused_one_token_past_it() {
    let executor = FakeConfig { vocab_size: VOCAB_SIZE, max_context_tokens: 20, ..FakeConfig::default() };
    let rig = free(RigOptions { executor, ..RigOptions::default() });
    let at = vec![doc("0123456789"), text("01234")];
    assert_eq!(answer(&rig.handle, request(at.clone(), 5)).ids().len(), 5);
    let too_long = EngineError::ContextTooLong { prompt_tokens: 15, max_tokens: 6, max_context_tokens: 20 };
    assert_eq!(refused(&rig, request(at.clone(), 6)), too_long);
    let huge =
        EngineError::ContextTooLong { prompt_tokens: 15, max_tokens: u32::MAX, max_context_tokens: 20 };
    assert_eq!(refused(&rig, request(at, u32::MAX)), huge);
}

#[test]
fn a_request_larger_than_the_cache_says_how_many_blocks_are_missing() {
    let executor = FakeConfig { vocab_size: VOCAB_SIZE, num_blocks: 4, ..FakeConfig::default() };
    let rig = free(RigOptions { executor, ..RigOptions::default() });
    // 2 blocks of document, 1 of text, 1 of tail; with one more token the tail takes 2.
    let parts = vec![doc("a document of 17."), text("question")];
    assert_eq!(answer(&rig.handle, request(parts.clone(), 16)).ids().len(), 16);
    let error = refused(&rig, request(parts, 17));
    assert_eq!(error, EngineError::NeverFits { needed_blocks: 5, total_blocks: 4 });
    assert!(error.to_string().contains("needs 5 KV blocks but the pool has 4 (1 missing)"), "{error}");
}

#[test]
fn the_queue_is_bounded_and_frees_its_places() {
    let engine = EngineConfig { max_running: 1, max_waiting: 2, ..EngineConfig::default() };
    let mut rig = gated(RigOptions { engine, ..RigOptions::default() });
    let running = rig.handle.submit(request(vec![text("abc")], 3)).unwrap();
    rig.gate.wait();
    let waiting: Vec<_> = (0..2).map(|_| rig.handle.submit(request(vec![text("abc")], 3)).unwrap()).collect();
    assert_eq!(refused(&rig, request(vec![text("abc")], 3)), EngineError::QueueFull { waiting: 2 });
    rig.gate.open();
    for stream in waiting.into_iter().chain([running]) {
        common::read(stream).ids();
    }
    assert!(rig.handle.submit(request(vec![text("abc")], 3)).is_ok());
}

#[test]
fn the_beginning_of_text_is_put_at_position_0_only_and_never_into_a_document() {
    let rig = free(RigOptions { bos: Bos::Add, ..RigOptions::default() });
    let num_prompt_tokens = |parts: Vec<Part>| answer(&rig.handle, request(parts, 1)).usage().prompt_tokens;
    assert_eq!(num_prompt_tokens(vec![text("ab"), text("cd")]), 5);
    assert_eq!(num_prompt_tokens(vec![text("<|start|>ab")]), 3, "it is there already");
    let keys = |parts: Vec<Part>| {
        let reply = answer(&rig.handle, request(parts, 1));
        reply.parts.into_iter().map(|part| (part.num_tokens, part.document_key)).collect::<Vec<_>>()
    };
    let first = keys(vec![doc("ab"), text("cd")]);
    let later = keys(vec![text("x"), doc("ab"), text("cd")]);
    assert_eq!(first[0], later[1], "a document is the same at position 0 and behind text");
    let behind_bos = rig.probe.inputs();
    assert!(behind_bos.iter().any(|input| input.tokens.contains(&BOS)));
}

#[test]
fn tokens_made_elsewhere_are_used_as_they_are() {
    let rig = free(RigOptions::default());
    let as_text = answer(&rig.handle, request(vec![doc("abc"), text("de")], 4));
    let as_tokens = vec![Part::Document(tokens(&[97, 98, 99])), Part::Text(tokens(&[100, 101]))];
    let as_tokens = answer(&rig.handle, request(as_tokens, 4));
    assert_eq!(as_text.ids(), as_tokens.ids());
    assert_eq!(as_tokens.usage().documents_reused, 1);
}

#[test]
fn a_step_too_small_for_its_sequences_is_refused_at_the_start() {
    let executor = FakeConfig { max_step_tokens: 64, ..FakeConfig::default() };
    let executor = lazy_attn_testkit::FakeExecutor::new(executor);
    let tokenizer = common::byte_tokenizer(Bos::Omit).unwrap();
    let parts = lazy_attn_engine::EngineParts::new(Box::new(executor), Arc::clone(&tokenizer), Vec::new());
    match lazy_attn_engine::Engine::start(parts, EngineConfig::default()) {
        Err(EngineError::Param(error)) => assert_eq!(error.field, "engine.max_step_tokens"),
        other => panic!("{other:?}"),
    }
}
