//! A client that stops reading.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::measure::resident_bytes;
use common::{Options, PATIENCE, collect, document, expected, request, start, wait_until};
use lazy_attn_proto::v1::generate_response::Event;
use lazy_attn_proto::v1::generation_service_client::GenerationServiceClient;
use tonic::transport::Endpoint;

const SLOW_TOKENS: u32 = 2000;
const OTHER_TOKENS: u32 = 400;
const NUM_OTHERS: u32 = 8;
/// Bytes of a stream that its reader lets come unread.
const WINDOW_BYTES: u32 = 1024;
/// Steps that run prompts.
const NUM_PROMPT_STEPS: u64 = 16;
/// The window, and what the transport holds, at more than ten bytes a message; all the rest comes merged.
const MAX_MESSAGES: usize = 400;
const GROWTH_BYTES_MAX: u64 = 64 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_holds_nobody_up_and_gets_the_rest_merged() {
    let rig = start(Options::default()).await;
    rig.latch.shut();
    let endpoint = Endpoint::from_shared(rig.url.clone()).unwrap();
    let channel = endpoint.initial_stream_window_size(WINDOW_BYTES).connect().await.unwrap();
    let mut slow_client = GenerationServiceClient::new(channel);
    let slow = (vec![document(0)], vec![5]);
    let mut stream = slow_client.generate(request(&slow.0, &slow.1, SLOW_TOKENS)).await.unwrap().into_inner();
    let before = resident_bytes();
    // On its connection and on others, eight more; steps begin when all are in.
    let mut others = Vec::new();
    for index in 0..NUM_OTHERS {
        let (documents, question) = (vec![document(index)], vec![index]);
        let request = request(&documents, &question, OTHER_TOKENS);
        let stream = if index % 2 == 0 {
            rig.client().await.generate(request, None).await.unwrap()
        } else {
            slow_client.generate(request).await.unwrap().into_inner()
        };
        others.push((documents, question, tokio::spawn(collect(stream))));
    }
    rig.latch.open();
    for (documents, question, task) in others {
        let response = tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap().unwrap();
        assert_eq!(response.token_ids, expected(&documents, &question, OTHER_TOKENS as usize));
    }
    // The engine is through with everybody, also with the one that has read nothing.
    wait_until(|| rig.handle.settled_stats().unwrap().requests_done == u64::from(NUM_OTHERS) + 1).await;
    let growth = resident_bytes().saturating_sub(before);
    let num_steps = rig.latch.num_run();
    rig.baseline().await;
    let (mut tokens, mut num_messages, mut has_done) = (Vec::new(), 0, false);
    while let Some(message) = stream.message().await.unwrap() {
        num_messages += 1;
        match message.event.unwrap() {
            Event::Delta(delta) => tokens.extend(delta.token_ids),
            Event::Done(_) => has_done = true,
            _ => {}
        }
    }
    println!(
        "{SLOW_TOKENS} tokens unread, {NUM_OTHERS} others of {OTHER_TOKENS} tokens: {num_steps} steps; the rest came in \
         {num_messages} messages; resident memory grew by {} KiB",
        growth >> 10
    );
    assert!(has_done);
    assert_eq!(tokens, expected(&slow.0, &slow.1, SLOW_TOKENS as usize));
    // One step a token of the longest, and every other stream rides along: nobody ever waited for the reader.
    assert!(num_steps <= u64::from(SLOW_TOKENS) + NUM_PROMPT_STEPS, "{num_steps} steps");
    assert!(num_messages <= MAX_MESSAGES, "{num_messages} messages");
    assert!(growth <= GROWTH_BYTES_MAX, "{growth} bytes");
}
