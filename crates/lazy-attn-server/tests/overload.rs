//! Ten times more requests than a server can carry.
//!
//! Those it takes wait no longer than its queue allows, the others are told at once to come back later, and memory stays
//! as it is. `LAZYATTN_TEST_OVERLOAD_SECONDS` makes it last longer.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use common::measure::{percentile, resident_bytes};
use common::{Options, PATIENCE, Paced, request, start_over};
use lazy_attn_engine::EngineConfig;
use lazy_attn_proto::Client;
use lazy_attn_proto::v1::generate_response::Event;
use lazy_attn_testkit::FakeConfig;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

const STEP: Duration = Duration::from_millis(20);
const MAX_RUNNING: u32 = 8;
const MAX_WAITING: u32 = 16;
/// One step for the prompt and the first token, one for each further token.
const MAX_TOKENS: u32 = 9;
/// Requests a second that an otherwise idle machine can carry: 8 every 9 steps.
const CAPACITY: f64 = MAX_RUNNING as f64 / (MAX_TOKENS as f64 * STEP.as_millis() as f64 / 1e3);
const OVERLOAD: f64 = 10.0;
const REFUSAL_MAX: Duration = Duration::from_millis(20);
const GROWTH_BYTES_MAX: u64 = 16 << 20;

/// What became of a request.
enum Fate {
    Done { first_token: Duration },
    Refused { after: Duration },
}

async fn fate(mut client: Client, index: u32) -> Fate {
    let begin = Instant::now();
    let refused = |status: Status| {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(status.get_error_details().retry_info().unwrap().retry_delay.is_some());
        Fate::Refused { after: begin.elapsed() }
    };
    let request = request(&[], &[index % 97, index / 97 % 97, 5], MAX_TOKENS);
    let mut stream = match client.generate(request, None).await {
        Ok(stream) => stream,
        Err(status) => return refused(status),
    };
    let mut first_token = None;
    let mut num_tokens = 0;
    loop {
        match stream.message().await {
            Ok(Some(message)) => {
                if let Some(Event::Delta(delta)) = message.event {
                    num_tokens += delta.token_ids.len() as u32;
                    first_token.get_or_insert_with(|| begin.elapsed());
                }
            }
            Ok(None) => break,
            Err(status) => return refused(status),
        }
    }
    assert_eq!(num_tokens, MAX_TOKENS, "an answer is whole");
    Fate::Done { first_token: first_token.unwrap() }
}

/// How long a call takes that asks for nothing, on a connection of its own: what the machine adds to every latency.
async fn idle_call(mut health: HealthClient<Channel>) -> Duration {
    let begin = Instant::now();
    health.check(HealthCheckRequest::default()).await.unwrap();
    begin.elapsed()
}

#[derive(Default)]
struct Measured {
    first_tokens: Vec<Duration>,
    refusals: Vec<Duration>,
    idle_calls: Vec<Duration>,
    warm_bytes: u64,
}

/// Requests come at their times, whatever became of those before.
async fn overload(clients: &[Client], health: &HealthClient<Channel>, lasting: Duration) -> Measured {
    let mut measured = Measured::default();
    let (mut calls, mut idle) = (JoinSet::new(), JoinSet::new());
    let num_requests = (CAPACITY * OVERLOAD * lasting.as_secs_f64()) as u32;
    let begin = Instant::now();
    for index in 0..num_requests {
        sleep_until(begin + lasting.mul_f64(f64::from(index) / f64::from(num_requests))).await;
        calls.spawn(fate(clients[index as usize % clients.len()].clone(), index));
        if index % 8 == 0 {
            idle.spawn(idle_call(health.clone()));
        }
        if index == num_requests / 3 {
            measured.warm_bytes = resident_bytes();
        }
    }
    while let Some(fate) = tokio::time::timeout(PATIENCE, calls.join_next()).await.unwrap() {
        match fate.unwrap() {
            Fate::Done { first_token } => measured.first_tokens.push(first_token),
            Fate::Refused { after } => measured.refusals.push(after),
        }
    }
    measured.idle_calls = idle.join_all().await;
    measured
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_the_load_is_refused_at_once_and_does_not_slow_those_who_are_in() {
    let lasting = std::env::var("LAZYATTN_TEST_OVERLOAD_SECONDS").map_or(6.0, |text| text.parse().unwrap());
    let lasting = Duration::from_secs_f64(lasting);
    let engine = EngineConfig {
        max_running: MAX_RUNNING,
        max_waiting: MAX_WAITING as usize,
        ..EngineConfig::default()
    };
    let executor = Paced::new(FakeConfig::default(), STEP, Duration::ZERO);
    let rig = start_over(Box::new(executor), Options { engine, ..Options::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(rig.client().await);
    }
    let channel = Channel::from_shared(rig.url.clone()).unwrap().connect().await.unwrap();
    let begin = Instant::now();
    let mut measured = overload(&clients, &HealthClient::new(channel), lasting).await;
    let took = begin.elapsed();
    let (num_done, num_refused) = (measured.first_tokens.len(), measured.refusals.len());
    let per_second = num_done as f64 / took.as_secs_f64();
    // Everybody in front of a request that got the last place, at the pace that was measured; the other half is slack.
    let first_token_max = Duration::from_secs_f64(2.0 * f64::from(MAX_WAITING + MAX_RUNNING) / per_second);
    let first_token = percentile(&mut measured.first_tokens, 99);
    let refusal = percentile(&mut measured.refusals, 99);
    let idle_call = percentile(&mut measured.idle_calls, 99);
    let growth = resident_bytes().saturating_sub(measured.warm_bytes);
    println!(
        "{:.1} s, {:.0} requests/s offered, {per_second:.1}/s done; {num_done} done, {num_refused} refused; p99: first \
         token {first_token:.0?} (bound {first_token_max:.0?}), refusal {refusal:.1?}, idle call {idle_call:.1?}; \
         resident memory grew by {} KiB after warm-up",
        took.as_secs_f64(),
        CAPACITY * OVERLOAD,
        growth >> 10
    );
    let offered = (num_done + num_refused) as f64 / lasting.as_secs_f64();
    assert!(offered > 0.9 * OVERLOAD * per_second, "{offered:.0} requests/s are not ten times the load");
    assert!(first_token <= first_token_max, "{first_token:?} > {first_token_max:?}");
    assert!(refusal <= REFUSAL_MAX + idle_call, "{refusal:?} against {idle_call:?} of an idle call");
    assert!(growth <= GROWTH_BYTES_MAX, "{growth} bytes more than after warm-up");
    rig.baseline().await;
    let stats = rig.handle.settled_stats().unwrap();
    assert_eq!(stats.requests_done, num_done as u64);
}
