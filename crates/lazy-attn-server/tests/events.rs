//! Engine events to messages, and a stream to one response.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use lazy_attn_engine::{
    EngineError, Event, FinishReason, GeneratedToken, PartOutcome, ResolvedPart, Timing, TokenLogprob,
    TokenOrigin, Usage,
};
use lazy_attn_proto::v1;
use lazy_attn_server::convert::{CollectError, Collector, Reply, TokenIdsInReply};
use lazy_attn_types::{Exactness, RequestId, TokenId};

fn reply(n: u32) -> Reply {
    Reply {
        request_id: String::new(),
        model: "tiny".to_owned(),
        token_ids: TokenIdsInReply::Report,
        top_logprobs: 1,
        n,
    }
}

fn token(id: u32) -> GeneratedToken {
    let chosen = TokenLogprob { token: TokenId(id), logprob: -0.5 };
    let top = vec![TokenLogprob { token: TokenId(id + 1), logprob: -0.25 }];
    GeneratedToken { chosen, top, origin: TokenOrigin::Sampled }
}

fn delta(index: u32, text: &str, ids: &[u32]) -> Event {
    Event::Delta { index, text: text.to_owned(), tokens: ids.iter().copied().map(token).collect() }
}

fn started() -> Event {
    let part =
        |num_tokens, key: &str, outcome| ResolvedPart { num_tokens, document_key: key.to_owned(), outcome };
    let parts = vec![part(3, "ab", PartOutcome::Hit), part(2, "", PartOutcome::Miss)];
    Event::Started { request: RequestId(7), parts, seed: 5, exactness: Exactness::Head { num_tokens: 16 } }
}

fn done() -> Event {
    let usage = Usage {
        prompt_tokens: 5,
        cached_prompt_tokens: 3,
        computed_prompt_tokens: 2,
        recomputed_tokens: 1,
        cache_creation_tokens: 2,
        completion_tokens: 3,
        documents_total: 1,
        documents_reused: 1,
        documents_reencoded: 0,
        preemptions: 0,
    };
    let timing = Timing { time_to_first_token: Duration::from_millis(1500), ..Timing::default() };
    Event::Done { usage, timing }
}

fn collect(reply: &Reply, events: Vec<Event>) -> Result<v1::CollectedResponse, CollectError> {
    let mut collector = Collector::new(reply.n);
    for event in events {
        collector.push(reply.message(event).unwrap())?;
    }
    collector.finish()
}

#[test]
fn a_stream_adds_up_to_one_response() {
    let events = vec![
        started(),
        delta(0, "si", &[4]),
        delta(0, "x", &[9, 0]),
        Event::Finished { index: 0, reason: FinishReason::StopToken(TokenId(0)) },
        done(),
    ];
    let response = collect(&reply(1), events).unwrap();
    assert_eq!((response.text.as_str(), &response.token_ids[..]), ("six", &[4, 9, 0][..]));
    assert_eq!(response.finish_reason(), v1::FinishReason::Stop);
    assert_eq!(response.attention(), v1::DocumentAttention::Block);
    let rung =
        v1::Exactness { rung: v1::ExactnessRung::Head.into(), head_tokens: 16, ..v1::Exactness::default() };
    assert_eq!((response.exactness, response.usage.unwrap().recomputed_tokens), (Some(rung), 1));
    assert_eq!((response.request_id.as_str(), response.seed), ("request-7", 5));
    let first = &response.top_logprobs[0];
    assert_eq!((first.id, first.logprob, first.top[0].id, first.top[0].logprob), (4, -0.5, 5, -0.25));
    assert_eq!(response.top_logprobs.len(), 3);
    assert_eq!(response.parts[0].outcome(), v1::CacheOutcome::Hit);
    assert_eq!((response.parts[1].index, response.parts[1].token_count), (1, 2));
    let usage = response.usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.cached_prompt_tokens, usage.documents_reused), (5, 3, 1));
    let first_token = response.timing.unwrap().time_to_first_token.unwrap();
    assert_eq!((first_token.seconds, first_token.nanos), (1, 500_000_000));
    assert!(response.choices.is_empty());
}

#[test]
fn several_sequences_are_kept_apart() {
    let events = vec![
        started(),
        delta(1, "b", &[2]),
        delta(0, "a", &[1]),
        Event::Finished { index: 1, reason: FinishReason::Length },
        Event::Finished { index: 0, reason: FinishReason::StopText("\n".to_owned()) },
        done(),
    ];
    let response = collect(&reply(2), events).unwrap();
    let seen: Vec<_> =
        response.choices.iter().map(|c| (c.index, c.text.as_str(), c.finish_reason())).collect();
    assert_eq!(seen, [(0, "a", v1::FinishReason::StopText), (1, "b", v1::FinishReason::Length)]);
    assert_eq!((response.text.as_str(), response.finish_reason()), ("a", v1::FinishReason::StopText));
}

#[test]
fn ids_and_log_probabilities_are_sent_only_when_asked_for() {
    let quiet = Reply { token_ids: TokenIdsInReply::Omit, top_logprobs: 0, ..reply(1) };
    let message = quiet.message(delta(0, "x", &[1])).unwrap();
    let Some(v1::generate_response::Event::Delta(delta)) = message.event else { panic!("not a delta") };
    assert_eq!((delta.text.as_str(), delta.token_ids.len(), delta.top_logprobs.len()), ("x", 0, 0));
}

#[test]
fn log_probabilities_of_forced_tokens_are_always_sent() {
    let quiet = Reply { token_ids: TokenIdsInReply::Omit, top_logprobs: 0, ..reply(1) };
    let tokens = vec![GeneratedToken { origin: TokenOrigin::Forced, ..token(1) }, token(2)];
    let events = vec![
        started(),
        Event::Delta { index: 0, text: "ab".to_owned(), tokens },
        delta(0, "c", &[3]),
        Event::Finished { index: 0, reason: FinishReason::Length },
        done(),
    ];
    let response = collect(&quiet, events).unwrap();
    assert_eq!((&response.forced_logprobs[..], response.top_logprobs.len()), (&[-0.5][..], 0));
}

#[test]
fn a_failed_request_is_an_error_and_not_a_message() {
    assert_eq!(reply(1).message(Event::Failed(EngineError::ShutDown)), Err(EngineError::ShutDown));
}

#[test]
fn a_stream_that_breaks_off_or_names_a_foreign_sequence_is_refused() {
    assert_eq!(collect(&reply(1), vec![started(), delta(0, "x", &[1])]), Err(CollectError::Incomplete));
    let foreign = collect(&reply(1), vec![delta(1, "x", &[1])]);
    assert_eq!(foreign, Err(CollectError::UnknownSequence { index: 1, n: 1 }));
}
