//! A sequence's tokens do not depend on what else runs, on the cache, or on how its prompt is cut into steps.

mod common;

use common::{RigOptions, VOCAB_SIZE, answer, doc, expected, free, read, request, text};
use lazy_attn_engine::{CacheUse, EngineConfig, GenerateRequest, Part, PartContent};
use lazy_attn_testkit::FakeConfig;
use lazy_attn_types::{AttentionMode, BlockSize, SamplingParams};
use proptest::prelude::*;

const LONG: &str =
    "A document that is longer than one block and longer than one step of the smallest budget. ";

fn options(max_step_tokens: u32, num_blocks: u32) -> RigOptions {
    RigOptions {
        engine: EngineConfig { max_step_tokens, max_running: 6, ..EngineConfig::default() },
        executor: FakeConfig { vocab_size: VOCAB_SIZE, num_blocks, ..FakeConfig::default() },
        ..RigOptions::default()
    }
}

fn prompt() -> Vec<Part> {
    vec![text("Read: "), doc(LONG), doc("short"), text("and then "), doc(LONG), text("What is it?")]
}

#[test]
fn a_prompt_in_chunks_gives_the_tokens_of_a_whole_one() {
    for mode in [AttentionMode::Block, AttentionMode::Full] {
        let whole = expected(&prompt(), mode, 12);
        for max_step_tokens in [7, 16, 64, 512] {
            let rig = free(options(max_step_tokens, 256));
            let reply =
                answer(&rig.handle, GenerateRequest { exactness: mode.into(), ..request(prompt(), 12) });
            assert_eq!(reply.ids(), whole, "{mode:?} in steps of {max_step_tokens}");
        }
    }
}

#[test]
fn cached_joined_and_bypassed_answers_equal_a_fresh_one() {
    let rig = free(options(64, 256));
    let fresh = answer(&rig.handle, request(prompt(), 9));
    let cached = answer(&rig.handle, request(prompt(), 9));
    let bypassed = answer(&rig.handle, GenerateRequest { cache: CacheUse::Bypass, ..request(prompt(), 9) });
    assert_eq!(fresh.ids(), expected(&prompt(), AttentionMode::Block, 9));
    assert_eq!((cached.ids(), bypassed.ids()), (fresh.ids(), fresh.ids()));
    assert_eq!(cached.usage().computed_prompt_tokens, 1);
    assert_eq!(bypassed.usage().cached_prompt_tokens, fresh.usage().cached_prompt_tokens);
    let streams: Vec<_> = (0..5).map(|_| rig.handle.submit(request(prompt(), 9)).unwrap()).collect();
    for stream in streams {
        assert_eq!(read(stream).ids(), fresh.ids());
    }
}

#[test]
fn evicted_documents_are_encoded_again_with_the_same_answers() {
    // Room for one such request at a time, next to little else.
    let rig = free(options(64, 12));
    let parts = |letter: &str| vec![doc(&letter.repeat(100)), text("What is it?")];
    for _ in 0..2 {
        for letter in ["a", "b", "c"] {
            let reply = answer(&rig.handle, request(parts(letter), 6));
            assert_eq!(reply.ids(), expected(&parts(letter), AttentionMode::Block, 6));
        }
    }
    let kv = rig.handle.settled_stats().unwrap().sched.kv;
    assert!(kv.evictions >= 5, "{kv:?}");
}

#[test]
fn text_is_the_text_of_the_tokens() {
    let rig = free(options(64, 256));
    let reply = answer(&rig.handle, request(prompt(), 40));
    let whole = rig.handle.tokenizer().decode(&reply.ids(), Default::default()).unwrap();
    assert_eq!(reply.samples[0].text, whole);
}

#[derive(Debug, Clone)]
struct Wanted {
    parts: Vec<Part>,
    mode: AttentionMode,
    cache: CacheUse,
    max_tokens: u32,
    n: u32,
}

fn wanted() -> impl Strategy<Value = Wanted> {
    // Few names, so that requests share documents; lengths around the block size.
    let name = (0u8..6).prop_map(|name| {
        let num_tokens = [1, 3, 4, 5, 9, 17][name as usize];
        PartContent::Tokens(
            (0..num_tokens).map(|at| lazy_attn_types::TokenId(u32::from(name) * 20 + at)).collect(),
        )
    });
    let part = (name.clone(), prop::bool::weighted(0.7)).prop_map(|(content, is_document)| {
        if is_document { Part::Document(content) } else { Part::Text(content) }
    });
    let parts = (prop::collection::vec(part, 0..5), name.prop_map(Part::Text));
    let mode = prop_oneof![3 => Just(AttentionMode::Block), 1 => Just(AttentionMode::Full)];
    let cache = prop_oneof![4 => Just(CacheUse::ReadWrite), 1 => Just(CacheUse::Bypass)];
    (parts, mode, cache, 1u32..8, 1u32..4).prop_map(|((mut parts, last), mode, cache, max_tokens, n)| {
        parts.push(last);
        Wanted { parts, mode, cache, max_tokens, n }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn batched_equals_alone_over_a_pool_that_must_evict(
        all in prop::collection::vec(wanted(), 1..12),
        max_step_tokens in 7u32..40,
        num_blocks in 26u32..40,
    ) {
        // The largest request needs 4 x 5 + 5 blocks of documents and text, and 2 of tail at 4 tokens a block; two of
        // them do not fit at once, so requests wait for each other and evict each other's documents.
        let mut options = options(max_step_tokens, num_blocks + 1);
        options.executor.block_size = BlockSize::new(4).unwrap();
        let rig = free(options);
        let submit = |wanted: &Wanted| {
            let base = request(wanted.parts.clone(), wanted.max_tokens);
            let sampling = SamplingParams { n: wanted.n, ..base.sampling.clone() };
            let request = GenerateRequest { exactness: wanted.mode.into(), cache: wanted.cache, sampling, ..base };
            rig.handle.submit(request).unwrap()
        };
        let streams: Vec<_> = all.iter().map(submit).collect();
        for (wanted, stream) in all.iter().zip(streams) {
            let reply = read(stream);
            let alone = expected(&wanted.parts, wanted.mode, wanted.max_tokens);
            prop_assert_eq!(reply.ids(), alone.clone());
            prop_assert_eq!(reply.samples.len(), wanted.n as usize);
            for sample in &reply.samples {
                prop_assert_eq!(sample.ids(), alone.clone());
            }
        }
        let stats = rig.handle.settled_stats().unwrap();
        prop_assert_eq!(stats.steps_failed, 0);
        prop_assert_eq!(stats.sched.kv.blocks_leased, 0);
        prop_assert_eq!(stats.requests_done, all.len() as u64);
    }
}
