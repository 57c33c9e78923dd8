//! `lazyattn serve` at its end: killed under load and started again, and told to drain.

use std::time::Instant;

use lazy_attn_proto::v1::{CacheOutcome, generate_response::Event};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{PATIENCE, answer, request, serve, serve_on};

/// Streams that run when the server is killed; each would go on for long.
const NUM_STREAMS: usize = 8;
const MAX_TOKENS: u32 = 600;

#[tokio::test(flavor = "multi_thread")]
async fn killed_under_load_it_starts_again_on_its_port_with_nothing_left_over_and_answers_right() {
    let mut served = serve(&[]);
    let client = served.client(None).await;
    let question = || request(&[1, 2], "When does the boat of berth 2 leave?", 12);
    let before = answer(client.clone(), question()).await;
    let mut streams = Vec::new();
    for index in 0..NUM_STREAMS {
        let request = request(&[index, index + 1], "When?", MAX_TOKENS);
        streams.push(client.clone().generate(request, None).await.unwrap());
    }
    for stream in &mut streams {
        let first = timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
        assert!(matches!(first.event, Some(Event::Started(_))), "{first:?}");
    }
    // SIGKILL: the process gets no chance to tidy up.
    served.child.kill().unwrap();
    served.child.wait().unwrap();
    for mut stream in streams {
        let end = async {
            loop {
                match stream.message().await {
                    Ok(message) => {
                        assert!(message.is_some(), "a stream of a dead server ended as if it were whole")
                    }
                    Err(status) => return status,
                }
            }
        };
        timeout(PATIENCE, end).await.unwrap();
    }
    let begin = Instant::now();
    let port = served.url.rsplit(':').next().unwrap();
    let again = serve_on(port, &[]);
    println!("killed with {NUM_STREAMS} streams, ready again after {:.2?}", begin.elapsed());
    assert_eq!(again.url, served.url);
    let mut client = again.client(None).await;
    let load = client.load().await.unwrap();
    assert_eq!((load.kv_blocks_leased, load.sequences_running, load.requests_waiting), (0, 0, 0));
    for expected in [CacheOutcome::Miss, CacheOutcome::Hit] {
        let after = timeout(PATIENCE, answer(client.clone(), question())).await.unwrap();
        assert_eq!((&after.text, &after.token_ids), (&before.text, &before.token_ids));
        let documents = after.parts.iter().filter(|part| !part.document_key.is_empty());
        assert!(documents.clone().count() == 2 && documents.clone().all(|part| part.outcome() == expected));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_drains_its_health_is_not_serving_and_what_is_in_flight_finishes() {
    let mut served = serve(&[]);
    let mut client = served.client(None).await;
    let channel = Channel::from_shared(served.url.clone()).unwrap().connect().await.unwrap();
    let health = HealthClient::new(channel);
    let status = || {
        let mut health = health.clone();
        let service = "lazyattn.v1.GenerationService".to_owned();
        async move { health.check(HealthCheckRequest { service }).await.unwrap().into_inner().status() }
    };
    assert_eq!(status().await, ServingStatus::Serving);
    let mut stream = client.generate(request(&[1], "When?", MAX_TOKENS), None).await.unwrap();
    stream.message().await.unwrap().unwrap();
    served.terminate();
    let draining = async {
        while status().await == ServingStatus::Serving {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, draining).await.unwrap();
    assert_eq!(status().await, ServingStatus::NotServing);
    let (mut num_tokens, mut has_done) = (0, false);
    while let Some(message) = timeout(PATIENCE, stream.message()).await.unwrap().unwrap() {
        match message.event {
            Some(Event::Delta(delta)) => num_tokens += delta.token_ids.len(),
            Some(Event::Done(_)) => has_done = true,
            _ => {}
        }
    }
    assert_eq!((num_tokens, has_done), (MAX_TOKENS as usize, true));
    assert_eq!(served.end().await.code(), Some(0));
}
