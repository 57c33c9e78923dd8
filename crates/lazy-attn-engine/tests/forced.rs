//! Tokens that a request forces: scored as if they had been generated, and gone on from.

#![allow(clippy::unwrap_used)] // helpers of tests, not only the tests themselves

mod common;

use std::sync::Arc;

use common::{END, Reply, RigOptions, SampleReply, VOCAB_SIZE, answer, doc, expected, free, request, text};
use lazy_attn_engine::{EngineError, FinishReason, GenerateRequest, Part};
use lazy_attn_types::sampling::EndTokens;
use lazy_attn_types::{Capability, OutputParams, SamplingParams, StopParams, TokenId};

fn prompt() -> Vec<Part> {
    vec![doc("A document that all of them read."), text("?")]
}

fn forcing(tokens: &[TokenId], max_tokens: u32) -> GenerateRequest {
    GenerateRequest { forced_output: Arc::from(tokens), ..request(prompt(), max_tokens) }
}

fn sample(capability: Capability, request: GenerateRequest) -> SampleReply {
    let Reply { samples, failed, .. } =
        answer(&free(RigOptions { capability, ..RigOptions::default() }).handle, request);
    assert_eq!(failed, None);
    samples.into_iter().next().unwrap()
}

fn bytes(text: &str) -> Vec<TokenId> {
    text.bytes().map(|byte| TokenId(u32::from(byte))).collect()
}

#[test]
fn a_forced_token_has_the_log_probability_that_the_model_gives_it() {
    // All that may be asked for: the hundred most likely of 258.
    let output = OutputParams { top_logprobs: 100 };
    for capability in [Capability::Logits, Capability::Samples, Capability::Overlaps] {
        let free_run = sample(capability, GenerateRequest { output, ..request(prompt(), 6) });
        for rank in [0, 1, 40] {
            let likely = free_run.tokens[0].top[rank];
            let forced = sample(capability, forcing(&[likely.token], 1));
            assert_eq!(forced.tokens[0].chosen, likely, "{capability:?}, rank {rank}");
            assert_eq!((forced.tokens.len(), forced.finish), (1, Some(FinishReason::Length)));
        }
        let again = sample(capability, forcing(&free_run.ids(), 6));
        let scored: Vec<_> = again.tokens.iter().map(|token| token.chosen).collect();
        let chosen: Vec<_> = free_run.tokens.iter().map(|token| token.chosen).collect();
        assert_eq!(scored, chosen, "forcing what the model says anyway changes nothing");
        assert!(again.tokens.iter().all(|token| token.top.is_empty()), "none was asked for");
    }
}

#[test]
fn generation_goes_on_behind_the_forced_tokens_as_behind_a_prompt_that_ends_with_them() {
    let forced = bytes("forced");
    let mut longer = prompt();
    longer[1] = text("?forced");
    for capability in [Capability::Logits, Capability::Samples, Capability::Overlaps] {
        let ids = sample(capability, forcing(&forced, 11)).ids();
        assert_eq!(ids[..6], forced);
        assert_eq!(ids[6..], expected(&longer, Default::default(), 5), "{capability:?}");
    }
}

#[test]
fn every_sequence_of_a_request_begins_with_them() {
    let sampling = SamplingParams { n: 3, seed: Some(2), temperature: 2.0, ..SamplingParams::default() };
    let forced = bytes("xy");
    let reply =
        answer(&free(RigOptions::default()).handle, GenerateRequest { sampling, ..forcing(&forced, 8) });
    let all: Vec<_> = reply.samples.iter().map(SampleReply::ids).collect();
    assert!(all.len() == 3 && all.iter().all(|ids| ids[..2] == forced));
    assert!(all[0] != all[1] && all[1] != all[2], "behind them they go their own ways: {all:?}");
}

#[test]
fn a_forced_end_token_ends_the_sequence() {
    let tokens = [bytes("ab"), vec![END], bytes("never")].concat();
    let stopping = StopParams { max_tokens: 9, end_tokens: EndTokens::Stop, ..StopParams::default() };
    let ended = sample(Capability::Samples, GenerateRequest { stopping, ..forcing(&tokens, 9) });
    assert_eq!((ended.ids(), ended.finish), (tokens[..3].to_vec(), Some(FinishReason::StopToken(END))));
    assert_eq!(ended.text, "ab");
}

#[test]
fn forced_tokens_are_refused_one_past_their_bounds() {
    let rig = free(RigOptions::default());
    let refusal = |tokens: &[TokenId], max_tokens| rig.handle.submit(forcing(tokens, max_tokens)).map(drop);
    assert_eq!(refusal(&bytes("abc"), 3), Ok(()));
    let field = |result: Result<(), EngineError>| match result {
        Err(EngineError::Param(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        field(refusal(&bytes("abcd"), 3)),
        "forced_output is 4 tokens, but must be at most stopping.max_tokens tokens"
    );
    assert!(field(refusal(&[TokenId(VOCAB_SIZE)], 3)).starts_with("forced_output is 258"));
}
