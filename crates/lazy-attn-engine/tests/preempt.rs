//! A sequence that gives its blocks away and is computed again answers as if nothing had happened.

#![allow(clippy::unwrap_used)] // helpers of tests, not only the tests themselves

mod common;

use common::{
    Reply, Rig, RigOptions, VOCAB_SIZE, answer, doc, expected, gated, logical, read, request, text,
};
use lazy_attn_engine::{EngineConfig, GenerateRequest, Part};
use lazy_attn_testkit::FakeConfig;
use lazy_attn_types::{AttentionMode, BlockSize, SamplingParams};

const MAX_TOKENS: u32 = 60;
const DOCUMENT: &str = "The pilot boat leaves the harbour at six, and at eight when the fog is thick. ";

fn options(num_blocks: u32, max_step_tokens: u32) -> RigOptions {
    let executor = FakeConfig { vocab_size: VOCAB_SIZE, num_blocks, ..FakeConfig::default() };
    RigOptions {
        engine: EngineConfig { max_step_tokens, max_running: 8, ..EngineConfig::default() },
        executor: FakeConfig { block_size: BlockSize::new(4).unwrap(), ..executor },
        ..RigOptions::default()
    }
}

/// 20 blocks of a document that all share, 3 or 4 of a text of its own, up to 15 of tail.
fn asks(index: u32) -> Vec<Part> {
    vec![doc(DOCUMENT), text(&format!("Question number {index}?"))]
}

/// Answers to requests that all stand in the queue before the second step, and how often they gave way.
fn answers(rig: &mut Rig, requests: &[GenerateRequest]) -> (Vec<Reply>, u32) {
    let streams: Vec<_> =
        requests.iter().map(|request| rig.handle.submit(request.clone()).unwrap()).collect();
    rig.gate.open();
    let replies: Vec<Reply> = streams.into_iter().map(read).collect();
    let preemptions = replies.iter().map(|reply| reply.usage().preemptions).sum();
    let stats = rig.handle.settled_stats().unwrap();
    assert_eq!(stats.sched.preemptions, u64::from(preemptions));
    assert_eq!((stats.sched.kv.blocks_leased, stats.sched.preempted, stats.steps_failed), (0, 0, 0));
    (replies, preemptions)
}

#[test]
fn greedy_answers_of_a_pool_that_is_far_too_small_are_those_of_the_reference() {
    for (mode, max_step_tokens) in
        [(AttentionMode::Block, 9), (AttentionMode::Block, 64), (AttentionMode::Full, 16)]
    {
        let requests: Vec<GenerateRequest> = (0..6)
            .map(|index| GenerateRequest { exactness: mode.into(), ..request(asks(index), MAX_TOKENS) })
            .collect();
        let mut rig = gated(options(56, max_step_tokens));
        let (replies, preemptions) = answers(&mut rig, &requests);
        assert!(preemptions > 3, "six tails of 15 blocks do not fit beside each other: {preemptions}");
        for (index, reply) in (0..).zip(&replies) {
            assert_eq!(reply.ids(), expected(&asks(index), mode, MAX_TOKENS), "{mode:?}, request {index}");
            let prompt: usize = logical(&asks(index)).iter().map(|part| part.tokens.len()).sum();
            let usage = reply.usage();
            assert_eq!(usage.cached_prompt_tokens + usage.computed_prompt_tokens, prompt as u32);
        }
        if mode == AttentionMode::Block {
            let encoded = rig.handle.settled_stats().unwrap().tokens_encoded;
            assert_eq!(encoded, DOCUMENT.len() as u64, "a document that somebody reads is never given away");
        }
    }
}

#[test]
fn sampled_answers_with_penalties_and_samples_are_those_of_a_roomy_pool() {
    let sampled = |index: u32| GenerateRequest {
        sampling: SamplingParams {
            temperature: 1.0,
            top_p: 0.9,
            repetition_penalty: 1.1,
            frequency_penalty: 0.2,
            seed: Some(u64::from(index)),
            n: 2,
            ..SamplingParams::default()
        },
        ..request(asks(index), MAX_TOKENS)
    };
    let requests: Vec<GenerateRequest> = (0..3).map(sampled).collect();
    let (roomy, none) = answers(&mut gated(options(1000, 64)), &requests);
    let (tight, preemptions) = answers(&mut gated(options(56, 64)), &requests);
    assert!(none == 0 && preemptions > 3, "{none}, {preemptions}");
    for (roomy, tight) in roomy.iter().zip(&tight) {
        assert_eq!(roomy.samples, tight.samples);
        assert_ne!(roomy.samples[0].tokens, roomy.samples[1].tokens);
    }
}

#[test]
fn one_that_gave_way_is_cancelled_by_dropping_its_stream() {
    let mut rig = gated(options(40, 64));
    let first = rig.handle.submit(request(asks(1), MAX_TOKENS)).unwrap();
    let second = rig.handle.submit(request(asks(2), MAX_TOKENS)).unwrap();
    let preempted = |rig: &Rig| rig.handle.stats().sched.preempted;
    for _ in 0..MAX_TOKENS {
        rig.gate.step();
        if preempted(&rig) > 0 {
            break;
        }
    }
    assert_eq!(preempted(&rig), 1, "two tails of 15 blocks do not fit beside each other");
    drop(second);
    rig.gate.open();
    assert_eq!(read(first).ids(), expected(&asks(1), AttentionMode::Block, MAX_TOKENS));
    let stats = rig.handle.settled_stats().unwrap();
    assert_eq!((stats.sched.preempted, stats.requests_cancelled, stats.sched.kv.blocks_leased), (0, 1, 0));
    let again = answer(&rig.handle, request(asks(2), MAX_TOKENS));
    assert_eq!(again.ids(), expected(&asks(2), AttentionMode::Block, MAX_TOKENS));
}
