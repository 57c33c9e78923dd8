//! Two thousand requests that end early at random points, by three means.
//!
//! Steps run only when the test lets them, so that they can be counted: once the engine has been told that a reader is
//! gone, two of them are let through, and everything the request held must be free.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::tunnel::Tunnel;
use common::{Options, PATIENCE, Rig, document, request, start, wait_until};
use lazy_attn_engine::ManualClock;
use lazy_attn_proto::v1::{GenerateRequest, GenerateResponse};
use lazy_attn_proto::{Client, ClientOptions};
use lazy_attn_testkit::{FakeConfig, SplitMix64};
use tokio::task::{JoinSet, spawn_blocking};
use tonic::{Code, Status, Streaming};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Most steps between the news that a reader is gone and the free blocks.
const MAX_STEPS: u64 = 2;
/// Far more than any of them gets to generate.
const MAX_TOKENS: u32 = 400;
const NUM_DROPPED: u64 = 667;
const NUM_RESET: u64 = 667;
/// Requests that share a deadline; more than run at once, so that some end while they wait.
const NUM_EXPIRING: u64 = 74;
const NUM_EXPIRING_ROUNDS: u64 = 9;
/// Long enough for the headers of all of them.
const TIMEOUT: Duration = Duration::from_millis(700);

/// Requests that the engine was told are given up.
static NUM_GIVEN_UP: AtomicU64 = AtomicU64::new(0);

/// Counts what streams say when they are dropped before their end.
struct GivenUp;

impl Subscriber for GivenUp {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "lazy_attn_engine::stream"
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {
        NUM_GIVEN_UP.fetch_add(1, Ordering::SeqCst);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Trial {
    rig: Rig,
    rng: SplitMix64,
    num_cancelled: u64,
    num_steps_max: u64,
}

impl Trial {
    fn request(&mut self) -> GenerateRequest {
        let documents: Vec<_> = (0..self.rng.below(4)).map(|_| document(self.rng.below(16) as u32)).collect();
        request(&documents, &[self.rng.below(97) as u32, 11], MAX_TOKENS)
    }

    /// Brings the requests that are in to a random point: so many steps later, with the next one begun.
    async fn advance(&mut self) {
        self.rig.latch.allow(self.rng.below(12));
        self.rig.latch.held().await;
    }

    /// Reads some of what there is to read.
    async fn read(&mut self, stream: &mut Streaming<GenerateResponse>) {
        for _ in 0..self.rng.below(2) {
            stream.message().await.unwrap().unwrap();
        }
    }

    /// All requests are given up by now or soon: everything must be free [`MAX_STEPS`] steps after the engine knows.
    async fn settle(&mut self, num_given_up: u64) {
        self.num_cancelled += num_given_up;
        let num_cancelled = self.num_cancelled;
        wait_until(|| NUM_GIVEN_UP.load(Ordering::SeqCst) >= num_cancelled).await;
        let latch = &self.rig.latch;
        let before = latch.num_run();
        latch.allow(MAX_STEPS);
        let handle = self.rig.handle.clone();
        let stats = spawn_blocking(move || handle.settled_stats().unwrap());
        // An engine that goes on with a request nobody reads stands before the latch again and does not answer.
        let stats = tokio::time::timeout(PATIENCE, stats).await.unwrap().unwrap();
        let held = (stats.sched.running, stats.sched.waiting, stats.sched.kv.blocks_leased);
        assert_eq!(held, (0, 0, 0), "after {num_cancelled} requests");
        assert_eq!(stats.requests_cancelled, num_cancelled);
        self.num_steps_max = self.num_steps_max.max(latch.num_run() - before);
        latch.shut();
    }

    async fn dropped_by_the_client(&mut self) {
        let mut client = self.rig.client().await;
        for _ in 0..NUM_DROPPED {
            let mut stream = client.generate(self.request(), None).await.unwrap();
            self.advance().await;
            self.read(&mut stream).await;
            drop(stream);
            self.settle(1).await;
        }
    }

    async fn cut_by_a_reset(&mut self) {
        let tunnel = Tunnel::to(&self.rig.url).await;
        for _ in 0..NUM_RESET {
            let options = ClientOptions { url: tunnel.url.clone(), ..ClientOptions::default() };
            let mut client = Client::connect(options).await.unwrap();
            let mut stream = client.generate(self.request(), None).await.unwrap();
            self.advance().await;
            self.read(&mut stream).await;
            tunnel.reset();
            self.settle(1).await;
        }
    }

    async fn ended_by_their_deadline(&mut self) {
        let client = self.rig.client().await;
        for _ in 0..NUM_EXPIRING_ROUNDS {
            let mut calls = JoinSet::new();
            for _ in 0..NUM_EXPIRING {
                let (mut client, request) = (client.clone(), self.request());
                calls.spawn(async move { client.generate(request, Some(TIMEOUT)).await });
            }
            let streams = calls.join_all().await;
            self.advance().await;
            for stream in streams {
                assert_eq!(end_of(stream.unwrap()).await.code(), Code::DeadlineExceeded);
            }
            self.settle(NUM_EXPIRING).await;
        }
    }
}

async fn end_of(mut stream: Streaming<GenerateResponse>) -> Status {
    loop {
        match stream.message().await {
            Ok(message) => assert!(message.is_some(), "the stream ended without a status"),
            Err(status) => return status,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_end_early_by_any_means_free_all_they_held_within_two_steps() {
    tracing::subscriber::set_global_default(GivenUp).unwrap();
    let executor = FakeConfig { num_blocks: 4096, ..FakeConfig::default() };
    // Time stands still for the engine, so that it is the server's clock that ends requests.
    let clock = Some(Arc::new(ManualClock::default()) as Arc<_>);
    let rig = start(Options { executor, clock, ..Options::default() }).await;
    rig.latch.shut();
    let mut trial = Trial { rig, rng: SplitMix64::new(17), num_cancelled: 0, num_steps_max: 0 };
    trial.dropped_by_the_client().await;
    trial.cut_by_a_reset().await;
    trial.ended_by_their_deadline().await;
    assert_eq!(trial.num_cancelled, 2000);
    let kv = trial.rig.handle.stats().sched.kv;
    assert_eq!(kv.blocks_free + kv.blocks_cached, kv.blocks_total);
    println!(
        "{NUM_DROPPED} requests dropped, {NUM_RESET} reset, {} expired: all free after at most {} steps",
        NUM_EXPIRING * NUM_EXPIRING_ROUNDS,
        trial.num_steps_max
    );
}
