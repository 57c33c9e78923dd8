//! One scripted session, and what the metrics say afterwards.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use common::scrape::Scrape;
use common::{Options, PATIENCE, Rig, admitted, collect, document, request, start};
use expect_test::expect_file;
use lazy_attn_engine::{EncodeRequest, EngineConfig, PartContent, Pin};
use lazy_attn_proto::v1;
use lazy_attn_proto::{Client, ClientOptions};
use lazy_attn_server::{Exposure, bind, serve_metrics};
use lazy_attn_testkit::FakeConfig;
use lazy_attn_types::{ExecError, TenantSalt, TokenId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::{Code, Streaming};

type Stream = Streaming<v1::GenerateResponse>;

/// What the script did, counted by the script.
#[derive(Default)]
struct Tally {
    submitted: u64,
    done: u64,
    put: u64,
    rejected: u64,
    cancelled: u64,
    failed: u64,
    documents: u64,
    document_tokens: u64,
}

struct Session {
    rig: Rig,
    client: Client,
    tally: Tally,
}

impl Session {
    async fn new() -> Session {
        let engine = EngineConfig { max_running: 2, max_waiting: 2, ..EngineConfig::default() };
        // Room for two requests and little more, so that documents are evicted.
        let executor = FakeConfig { num_blocks: 24, ..FakeConfig::default() };
        let rig = start(Options { engine, executor, ..Options::default() }).await;
        let client = rig.client().await;
        Session { rig, client, tally: Tally::default() }
    }

    /// Submits; returns when the engine has the request.
    async fn ask(&mut self, documents: &[u32]) -> Stream {
        self.tally.submitted += 1;
        let documents: Vec<_> = documents.iter().map(|&index| document(index)).collect();
        self.client.generate(request(&documents, &[5, 6, 7], 9), None).await.unwrap()
    }

    /// Counts the documents of a request that was admitted.
    fn admit(&mut self, documents: &[u32]) {
        self.tally.documents += documents.len() as u64;
        self.tally.document_tokens +=
            documents.iter().map(|&index| document(index).len() as u64).sum::<u64>();
    }

    async fn finish(&mut self, stream: Stream, documents: &[u32]) {
        collect(stream).await.unwrap();
        self.admit(documents);
        self.tally.done += 1;
    }

    async fn refuse(&mut self, message: v1::GenerateRequest, code: Code) {
        self.tally.submitted += 1;
        self.tally.rejected += 1;
        let refusal = self.client.generate(message, None).await;
        assert_eq!(refusal.map(|_| ()).map_err(|status| status.code()), Err(code));
    }

    fn scrape(&self) -> Scrape {
        self.rig.handle.settled_stats().unwrap();
        Scrape::parse(&self.rig.metrics.render())
    }

    /// Two requests that share a document while both decode, then a document that is resident, then eviction.
    async fn share(&mut self) {
        self.rig.latch.shut();
        let mut first = self.ask(&[0, 1]).await;
        admitted(&mut first).await;
        let now = Scrape::parse(&self.rig.metrics.render());
        assert_eq!((now.sum("requests_running", &[]), now.sum("kv_blocks_total", &[])), (1, 24));
        let second = self.ask(&[0, 2]).await;
        self.rig.latch.open();
        // The first has lost its first message to `admitted`.
        while first.message().await.unwrap().is_some() {}
        self.admit(&[0, 1]);
        self.tally.done += 1;
        self.finish(second, &[0, 2]).await;
        for documents in [[2, 0], [3, 4], [5, 6], [7, 8], [0, 9]] {
            let stream = self.ask(&documents).await;
            self.finish(stream, &documents).await;
        }
    }

    /// A document that is put ahead of its use and pinned.
    async fn put(&mut self) {
        let content = document(10).into_iter().map(TokenId).collect();
        let (content, tenant) = (PartContent::Tokens(content), TenantSalt::SINGLE_USER);
        let request = EncodeRequest { content, tenant, pin: Pin::Yes, priority: 0, timeout: None };
        let mut stream = self.rig.handle.encode(request).unwrap();
        let end = async { while stream.next().await.is_some() {} };
        timeout(PATIENCE, end).await.unwrap();
        self.tally.submitted += 1;
        self.tally.put += 1;
        self.admit(&[10]);
    }

    /// Two answers that together are longer than the pool: one gives way and is computed again.
    async fn crowd(&mut self) {
        self.rig.latch.shut();
        let ask = |question| request(&[], &[question], 240);
        let mut first = self.client.generate(ask(5), None).await.unwrap();
        admitted(&mut first).await;
        let second = self.client.generate(ask(6), None).await.unwrap();
        self.rig.latch.open();
        while first.message().await.unwrap().is_some() {}
        collect(second).await.unwrap();
        self.tally.submitted += 2;
        self.tally.done += 2;
    }

    /// Requests that end without an answer.
    async fn give_up(&mut self) {
        self.refuse(v1::GenerateRequest::default(), Code::InvalidArgument).await;
        let other = v1::GenerateRequest { model: "other".into(), ..request(&[], &[1], 1) };
        self.refuse(other, Code::NotFound).await;
        self.refuse(request(&[], &[1], 9000), Code::InvalidArgument).await;
        self.refuse(request(&[], &[1; 400], 1), Code::InvalidArgument).await;
        self.rig.latch.shut();
        let mut running = self.ask(&[0]).await;
        admitted(&mut running).await;
        let left = self.ask(&[1]).await;
        self.tally.submitted += 1;
        let late = request(&[document(1)], &[5], 9);
        let late = self.client.generate(late, Some(Duration::from_secs(2))).await.unwrap();
        // Both wait: the third is one too many.
        self.refuse(request(&[], &[1], 1), Code::ResourceExhausted).await;
        drop(left);
        let late = collect(late).await.map_err(|status| status.code());
        assert_eq!(late.map(|_| ()), Err(Code::DeadlineExceeded));
        self.rig.latch.open();
        while running.message().await.unwrap().is_some() {}
        self.admit(&[0]);
        self.tally.done += 1;
        self.tally.cancelled += 2;
        self.rig.baseline().await;
        self.rig.probe.fail_at(self.rig.probe.num_steps(), ExecError::Failed("on purpose".into()));
        let failed = self.ask(&[1]).await;
        assert_eq!(collect(failed).await.map_err(|status| status.code()).err(), Some(Code::Internal));
        self.admit(&[1]);
        self.tally.failed += 1;
    }
}

/// Nothing runs or waits at the end of the session, and one copy of a document serves every position.
const MAY_BE_ZERO: [&str; 3] =
    ["lazyattn_requests_running", "lazyattn_requests_waiting", "lazyattn_document_reencoded_tokens_total"];

#[tokio::test(flavor = "multi_thread")]
async fn after_a_session_every_metric_has_appeared_and_the_counters_add_up() {
    let mut session = Session::new().await;
    session.share().await;
    session.put().await;
    session.crowd().await;
    session.give_up().await;
    session.rig.baseline().await;
    let (scrape, tally) = (session.scrape(), &session.tally);
    expect_file!["golden/metrics.txt"].assert_eq(&scrape.names());
    for (family, _) in &scrape.families {
        let is_fed = scrape.of(family).any(|sample| sample.value > 0.0);
        assert!(is_fed || MAY_BE_ZERO.contains(&family.as_str()), "{family} is never fed");
    }
    let ended = |outcome| scrape.sum("requests_total", &[("outcome", outcome)]);
    let outcomes = ["done", "rejected", "cancelled", "failed"].map(ended);
    assert_eq!(outcomes, [tally.done + tally.put, tally.rejected, tally.cancelled, tally.failed]);
    assert_eq!(scrape.sum("requests_total", &[]), tally.submitted);
    assert_eq!(scrape.sum("admission_rejections_total", &[]), tally.rejected);
    let rejected = |reason| scrape.sum("admission_rejections_total", &[("reason", reason)]);
    let reasons = ["invalid_field", "unknown_model", "context_too_long", "kv_never_fits", "queue_full"];
    assert_eq!(reasons.map(rejected), [1; 5]);
    assert_eq!(
        ["client", "deadline"].map(|cause| scrape.sum("cancelled_total", &[("cause", cause)])),
        [1, 1]
    );

    assert_eq!(scrape.sum("document_lookups_total", &[]), tally.documents);
    let (reused, computed) =
        (scrape.sum("document_reused_tokens_total", &[]), scrape.sum("document_computed_tokens_total", &[]));
    assert_eq!(reused + computed, tally.document_tokens);
    // Documents 0 and 2 were found once each before anything was evicted.
    let found = |outcome| scrape.sum("document_lookups_total", &[("outcome", outcome)]);
    assert!(found("device") + found("joined") >= 2 && found("miss") >= 10);

    let load = session.client.load().await.unwrap();
    let gauges = ["kv_blocks_total", "requests_waiting"].map(|name| scrape.sum(name, &[]));
    assert_eq!([u64::from(load.kv_blocks_total), u64::from(load.requests_waiting)], gauges);
    let stats = session.rig.handle.settled_stats().unwrap();
    assert_eq!((load.tokens_generated, load.steps), (stats.tokens_generated, stats.sched.steps));
    let count = |name: &str| scrape.sum(&format!("{name}_count"), &[]);
    assert_eq!(count("queue_seconds"), tally.done + tally.put + tally.failed);
    assert_eq!([count("e2e_seconds"), count("decode_seconds")], [tally.done; 2]);
    assert_eq!(count("ttft_seconds") + count("inter_token_seconds"), stats.tokens_generated);
    assert_eq!(count("ttft_seconds"), count("prefill_seconds"));
    assert_eq!(count("step_duration_seconds"), count("batch_tokens"));
    assert_eq!(scrape.sum("batch_tokens_sum", &[]), stats.tokens_run);
    assert_eq!(count("step_duration_seconds") + stats.steps_failed, session.rig.probe.num_steps());
    assert!(scrape.sum("document_group_size_bucket", &[("le", "1")]) < count("document_group_size"));
    assert_eq!(scrape.sum("kv_evictions_total", &[]), stats.sched.kv.evictions);
    assert_eq!(scrape.sum("preemptions_total", &[]), stats.sched.preemptions);
    assert_eq!(scrape.sum("documents_resident", &[]), stats.sched.kv.documents as u64);
}

async fn http(address: std::net::SocketAddr, request: &[u8]) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // A server that has seen enough may close before it has read everything.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    timeout(PATIENCE, exchange).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_served_alone_and_to_any_number_of_scrapers() {
    let rig = start(Options::default()).await;
    let listener = bind("127.0.0.1:0".parse().unwrap(), Exposure::LoopbackOnly).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(serve_metrics(listener, rig.metrics.clone()));
    // Silent connections, fewer than are served at once, hold nobody up.
    let mut silent = Vec::new();
    for _ in 0..7 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    for _ in 0..20 {
        let answer = http(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("text/plain; version=0.0.4"), "{head}");
        assert_eq!(Scrape::parse(body).families.len(), Scrape::parse(&rig.metrics.render()).families.len());
    }
    let status = |answer: String| answer.split(' ').nth(1).map(str::to_owned);
    let refused = [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "404"),
        ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".to_owned(), "405"),
        (format!("GET /metrics HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(64 << 10)), "431"),
        (format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(100)), "431"),
    ];
    for (request, expected) in refused {
        let got = status(http(address, request.as_bytes()).await);
        // A connection that is closed with bytes unread may be reset before its answer is read.
        assert!(got.is_none() || got.as_deref() == Some(expected), "{got:?} instead of {expected}");
        assert!(got.is_some() || expected == "431", "no answer instead of {expected}");
    }
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_drains_says_what_it_refused() {
    let mut rig = start(Options::default()).await;
    let mut client =
        Client::connect(ClientOptions { url: rig.url.clone(), ..ClientOptions::default() }).await.unwrap();
    rig.latch.shut();
    let mut last = client.generate(request(&[], &[1, 2], 3), None).await.unwrap();
    admitted(&mut last).await;
    drop(rig.drain.take());
    let refused = async {
        loop {
            // The drain is on its way: until it is there, requests are let in, and cancelled by the drop here.
            let refusal = client.generate(request(&[], &[1], 1), None).await.err();
            if refusal.is_some_and(|status| status.code() == Code::Unavailable) {
                return;
            }
        }
    };
    timeout(PATIENCE, refused).await.unwrap();
    let scrape = Scrape::parse(&rig.metrics.render());
    assert_eq!(scrape.sum("admission_rejections_total", &[("reason", "draining")]), 1);
    rig.latch.open();
    while last.message().await.unwrap().is_some() {}
}
