//! Many streams at once, and streams that end early.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Options, admitted, answer, document, expected, request, start};
use lazy_attn_engine::EngineConfig;
use lazy_attn_proto::v1::CacheOutcome;
use lazy_attn_testkit::{FakeConfig, SplitMix64};
use tonic::Code;

const NUM_STREAMS: u32 = 64;
const NUM_DOCUMENTS: u32 = 16;
const MAX_TOKENS: u32 = 12;

/// Four of the shared documents in an order of its own, and a question of its own.
fn prompt(stream: u32) -> (Vec<Vec<u32>>, Vec<u32>) {
    let documents = (0..4).map(|i| document((stream * 5 + i * 3) % NUM_DOCUMENTS)).collect();
    (documents, vec![stream % 97, 11, 13])
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_streams_answer_as_if_alone_and_encode_each_document_once() {
    let rig = start(Options::default()).await;
    let client = rig.client().await;
    let tasks: Vec<_> = (0..NUM_STREAMS)
        .map(|stream| {
            let mut client = client.clone();
            let (documents, question) = prompt(stream);
            tokio::spawn(async move { answer(&mut client, request(&documents, &question, MAX_TOKENS)).await })
        })
        .collect();
    let mut misses: BTreeMap<String, u32> = BTreeMap::new();
    for (stream, task) in (0..NUM_STREAMS).zip(tasks) {
        let response = task.await.unwrap().unwrap();
        let (documents, question) = prompt(stream);
        assert_eq!(response.token_ids, expected(&documents, &question, MAX_TOKENS as usize), "{stream}");
        for part in response.parts.iter().filter(|part| !part.document_key.is_empty()) {
            let is_miss = part.outcome() == CacheOutcome::Miss;
            *misses.entry(part.document_key.clone()).or_default() += u32::from(is_miss);
        }
    }
    assert_eq!(misses.len() as u32, NUM_DOCUMENTS);
    assert!(misses.values().all(|&num_misses| num_misses == 1), "{misses:?}");
    let num_encoded: usize = (0..NUM_DOCUMENTS).map(|index| document(index).len()).sum();
    assert_eq!(rig.handle.settled_stats().unwrap().tokens_encoded, num_encoded as u64);
    rig.baseline().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_streams_at_random_points_frees_their_blocks() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let mut rng = SplitMix64::new(17);
    for round in 0..200 {
        let (documents, question) = prompt(round);
        let mut stream = client.generate(request(&documents, &question, 4000), None).await.unwrap();
        for _ in 0..rng.below(6) {
            stream.message().await.unwrap().unwrap();
        }
        drop(stream);
        rig.baseline().await;
    }
    // A request lasts 4000 steps: had one run on, it would have ended as done.
    let stats = rig.handle.settled_stats().unwrap();
    assert_eq!((stats.requests_done, stats.requests_cancelled), (0, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_stream_after_its_headers_and_frees_its_blocks() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    rig.latch.shut();
    // Long enough for the headers on a busy machine: the test is about what comes after them.
    let timeout = Some(Duration::from_secs(2));
    let mut stream = client.generate(request(&[document(0)], &[5], 4000), timeout).await.unwrap();
    let status = loop {
        match stream.message().await {
            Ok(message) => assert!(message.is_some(), "the stream ended without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    rig.latch.open();
    rig.baseline().await;
    assert_eq!(rig.handle.settled_stats().unwrap().requests_cancelled, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_the_next_request_and_says_when_to_come_back() {
    use tonic_types::StatusExt;
    let engine = EngineConfig { max_waiting: 1, max_running: 1, ..EngineConfig::default() };
    let rig = start(Options { engine, ..Options::default() }).await;
    let mut client = rig.client().await;
    rig.latch.shut();
    let mut running = client.generate(request(&[], &[5], 4000), None).await.unwrap();
    admitted(&mut running).await;
    let waiting = client.generate(request(&[], &[6], 4), None).await.unwrap();
    let status = client.generate(request(&[], &[7], 4), None).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "QUEUE_FULL");
    assert!(details.retry_info().unwrap().retry_delay.is_some());
    drop(running);
    rig.latch.open();
    assert_eq!(common::collect(waiting).await.unwrap().token_ids, expected(&[], &[6], 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_cannot_fit_fails_alone() {
    use tonic_types::StatusExt;
    let executor = FakeConfig { num_blocks: 8, ..FakeConfig::default() };
    let rig = start(Options { executor, ..Options::default() }).await;
    let mut client = rig.client().await;
    rig.latch.shut();
    let running = client.generate(request(&[], &[5], 40), None).await.unwrap();
    let status = client.generate(request(&[], &[7], 2000), None).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "KV_NEVER_FITS");
    assert_eq!(details.error_info().unwrap().metadata["total_blocks"], "8");
    rig.latch.open();
    assert_eq!(common::collect(running).await.unwrap().token_ids, expected(&[], &[5], 40));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheduler_knows_the_deadline_and_refuses_what_is_late_while_it_waits() {
    let engine = EngineConfig { max_running: 1, ..EngineConfig::default() };
    let rig = start(Options { engine, ..Options::default() }).await;
    let mut client = rig.client().await;
    rig.latch.shut();
    let mut running = client.generate(request(&[], &[5], 40), None).await.unwrap();
    admitted(&mut running).await;
    let timeout = Some(Duration::from_secs(2));
    let mut late = client.generate(request(&[], &[6], 4), timeout).await.unwrap();
    let status = late.message().await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    rig.latch.open();
    assert_eq!(common::collect(running).await.unwrap().token_ids, expected(&[], &[5], 40));
    rig.baseline().await;
}
