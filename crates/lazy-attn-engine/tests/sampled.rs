//! Tokens are the same whether the engine draws them from logits or the executor does.

#![allow(clippy::unwrap_used)] // helpers of tests, not only the tests themselves

mod common;

use common::{Reply, RigOptions, VOCAB_SIZE, doc, free, read, request, text};
use lazy_attn_engine::{EngineConfig, EngineError, GenerateRequest, Part};
use lazy_attn_types::{Capability, OutputKind, OutputParams, SamplingParams, TokenId};

fn prompt(ending: &str) -> Vec<Part> {
    vec![doc("A document that all of them read."), text(ending)]
}

/// Sampling of every kind, and whether an executor can draw its tokens.
fn kinds() -> Vec<(SamplingParams, OutputParams, bool)> {
    let greedy = SamplingParams { seed: Some(5), ..SamplingParams::default() };
    let warm = SamplingParams { temperature: 1.5, ..greedy.clone() };
    let plain = [
        greedy.clone(),
        warm.clone(),
        SamplingParams { top_k: 3, ..warm.clone() },
        SamplingParams { top_p: 0.5, n: 3, ..warm.clone() },
        SamplingParams { top_k: 40, top_p: 0.9, min_p: 0.05, ..warm.clone() },
        SamplingParams { min_p: 0.2, ..warm.clone() },
    ];
    let changed = [
        SamplingParams { repetition_penalty: 1.5, ..greedy.clone() },
        SamplingParams { presence_penalty: 3.0, n: 2, ..warm.clone() },
        SamplingParams { frequency_penalty: 3.0, ..warm.clone() },
        SamplingParams { logit_bias: vec![(TokenId(65), 7.0)], ..warm.clone() },
    ];
    let all = plain.into_iter().map(|params| (params, OutputParams::default(), true));
    let all = all.chain(changed.into_iter().map(|params| (params, OutputParams::default(), false)));
    all.chain([(warm, OutputParams { top_logprobs: 2 }, false)]).collect()
}

fn options(capability: Capability) -> RigOptions {
    let engine = EngineConfig { max_step_tokens: 40, max_running: 20, ..EngineConfig::default() };
    RigOptions { engine, capability, ..RigOptions::default() }
}

/// All kinds at once.
fn replies(capability: Capability) -> Vec<Reply> {
    let rig = free(options(capability));
    let submit = |(index, (sampling, output, _)): (usize, (SamplingParams, OutputParams, bool))| {
        let base = request(prompt(&format!("Question {index}?")), 12);
        rig.handle.submit(GenerateRequest { sampling, output, ..base }).unwrap()
    };
    let streams: Vec<_> = kinds().into_iter().enumerate().map(submit).collect();
    let replies = streams.into_iter().map(read).collect();
    assert_eq!(rig.handle.settled_stats().unwrap().steps_failed, 0);
    replies
}

#[test]
fn whoever_draws_them_the_tokens_are_the_same() {
    let engine = replies(Capability::Logits);
    for capability in [Capability::Samples, Capability::Overlaps] {
        for ((engine, executor), (sampling, ..)) in engine.iter().zip(replies(capability)).zip(kinds()) {
            assert_eq!(engine.failed, None);
            assert_eq!(engine.samples, executor.samples, "{capability:?} {sampling:?}");
            assert_eq!(engine.samples.len(), sampling.n as usize);
        }
    }
    let distinct: std::collections::HashSet<_> = engine.iter().map(|reply| reply.ids()).collect();
    assert!(distinct.len() > 8, "the prompts differ, and so do most answers");
}

#[test]
fn only_what_needs_no_logits_is_drawn_by_the_executor() {
    for (index, (sampling, output, is_drawn)) in kinds().into_iter().enumerate() {
        let rig = free(options(Capability::Samples));
        let reply =
            read(rig.handle.submit(GenerateRequest { sampling, output, ..request(prompt("?"), 3) }).unwrap());
        assert_eq!(reply.failed, None);
        for input in rig.probe.inputs() {
            let expected = if is_drawn { input.output_tokens.len() } else { 0 };
            assert_eq!(input.num_token_rows(), expected, "kind {index}");
        }
    }
    let rig = free(options(Capability::Logits));
    read(rig.handle.submit(request(prompt("?"), 3)).unwrap());
    assert!(rig.probe.inputs().iter().all(|input| input.outputs.is_empty()));
}

#[test]
fn a_row_carries_the_sequence_s_seed_and_the_number_of_its_draw() {
    let rig = free(options(Capability::Samples));
    let sampling = SamplingParams { seed: Some(40), n: 2, temperature: 0.7, ..SamplingParams::default() };
    read(rig.handle.submit(GenerateRequest { sampling, ..request(prompt("?"), 3) }).unwrap());
    let mut draws: Vec<(u64, u64)> = Vec::new();
    for kind in rig.probe.inputs().iter().flat_map(|input| &input.outputs) {
        let OutputKind::Token(row) = kind else { panic!("{kind:?}") };
        assert_eq!(row.temperature, 0.7);
        draws.push((row.seed, row.draw));
    }
    draws.sort_unstable();
    assert_eq!(draws, [(40, 0), (40, 1), (40, 2), (41, 0), (41, 1), (41, 2)]);
}

#[test]
fn a_row_that_is_not_finite_fails_its_request_alone() {
    let rig = free(options(Capability::Samples));
    rig.probe.spoil(TokenId(u32::from(b'#')));
    let spoilt = rig.handle.submit(request(prompt("bad #"), 5)).unwrap();
    let sound = rig.handle.submit(request(prompt("good"), 5)).unwrap();
    let failed = read(spoilt).failed;
    assert!(
        matches!(&failed, Some(EngineError::Executor(problem)) if problem.contains("overflowed")),
        "{failed:?}"
    );
    let sound = read(sound).ids();
    assert_eq!(sound, common::expected(&prompt("good"), Default::default(), 5));
    assert!(sound.iter().all(|token| token.0 < VOCAB_SIZE));
}
