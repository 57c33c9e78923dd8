//! Answers that a request gives: scored over the service.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Options, answer, document, expected, request, start};
use lazy_attn_proto::v1::{self, FinishReason};
use lazy_attn_server::convert::Collector;
use tonic::Code;
use tonic_types::StatusExt;

fn forcing(tokens: &[u32], max_tokens: u32) -> v1::GenerateRequest {
    v1::GenerateRequest { forced_output: tokens.to_vec(), ..request(&[document(0)], &[5], max_tokens) }
}

#[tokio::test(flavor = "multi_thread")]
async fn forced_tokens_have_the_log_probabilities_that_the_model_gives_them() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let response = v1::ResponseOptions { top_logprobs: Some(40), token_ids: Some(true) };
    let asked = v1::GenerateRequest { response: Some(response), ..request(&[document(0)], &[5], 4) };
    let free = answer(&mut client, asked).await.unwrap();
    assert!(free.forced_logprobs.is_empty(), "nothing was forced");
    // What the model says anyway, and what it finds less likely.
    let chosen: Vec<f32> = free.top_logprobs.iter().map(|token| token.logprob).collect();
    let again = answer(&mut client, forcing(&free.token_ids, 4)).await.unwrap();
    assert_eq!((again.forced_logprobs, again.token_ids), (chosen, free.token_ids));
    assert!(again.top_logprobs.is_empty(), "none was asked for");
    let unlikely = free.top_logprobs[0].top[39];
    let scored = answer(&mut client, forcing(&[unlikely.id], 1)).await.unwrap();
    assert_eq!(scored.forced_logprobs, [unlikely.logprob]);
    assert_eq!((scored.token_ids, scored.finish_reason), (vec![unlikely.id], FinishReason::Length.into()));
    assert_eq!(scored.usage.unwrap().completion_tokens, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn generation_goes_on_behind_them_in_every_sequence() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let mut forced = forcing(&[8, 9], 5);
    forced.sampling = Some(v1::SamplingOptions { n: Some(2), ..v1::SamplingOptions::default() });
    let (mut stream, mut collector) = (client.generate(forced, None).await.unwrap(), Collector::new(2));
    while let Some(message) = stream.message().await.unwrap() {
        collector.push(message).unwrap();
    }
    let response = collector.finish().unwrap();
    assert_eq!(response.choices.len(), 2);
    for choice in &response.choices {
        assert_eq!((&choice.token_ids[..2], choice.forced_logprobs.len()), (&[8, 9][..], 2));
        assert_eq!(choice.token_ids[2..], expected(&[document(0)], &[5, 8, 9], 3));
    }
    assert_eq!(response.forced_logprobs, response.choices[0].forced_logprobs);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_forced_tokens_than_may_be_generated_are_refused() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    for tokens in [vec![1, 2, 3], vec![u32::MAX]] {
        let status = answer(&mut client, forcing(&tokens, 2)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "forced_output");
    }
}
