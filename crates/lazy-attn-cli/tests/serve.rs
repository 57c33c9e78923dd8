//! `lazyattn serve` and its client, as processes, with the embedded model.

#![cfg(feature = "embedded-model")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[path = "serve/restart.rs"]
mod restart;
mod served;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use lazy_attn_proto::v1::{self, CacheOutcome, generate_response::Event, inline_document, part};
use lazy_attn_proto::{Client, ClientOptions};
use lazy_attn_server::convert::Collector;
use serde_json::Value;
use tokio::time::timeout;
use tonic::Code;

use served::Served;

/// Long enough for any machine, short enough to fail rather than hang.
const PATIENCE: Duration = Duration::from_secs(240);
const NUM_STREAMS: usize = 64;
const NUM_DOCUMENTS: usize = 16;

fn lazyattn(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lazyattn"));
    command.args(arguments).args(["--kv-blocks", "512"]);
    command
}

fn serve(arguments: &[&str]) -> Served {
    serve_on("0", arguments)
}

/// A server on `port`; 0 takes a free one.
fn serve_on(port: &str, arguments: &[&str]) -> Served {
    Served::start(lazyattn(&["serve", "--grpc-port", port]).args(arguments))
}

impl Served {
    async fn client(&self, api_key: Option<&str>) -> Client {
        let options = ClientOptions { url: self.url.clone(), api_key: api_key.map(str::to_owned), tls: None };
        Client::connect(options).await.unwrap()
    }

    /// What it tells Prometheus.
    fn metrics(&self) -> String {
        let url = self.ready.split_once("metrics on http://").unwrap().1;
        let mut stream = TcpStream::connect(url.split_once("/metrics").unwrap().0).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn terminate(&self) {
        served::send_signal(&self.child, "TERM");
    }

    async fn end(&mut self) -> ExitStatus {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, ended).await.unwrap()
    }
}

fn document(index: usize) -> String {
    format!("Title: Berth {index}\nThe pilot boat of berth {index} leaves at {}.\n\n", index % 12 + 1)
}

fn request(documents: &[usize], question: &str, max_tokens: u32) -> v1::GenerateRequest {
    let document = |&index: &usize| {
        part::Part::InlineDocument(v1::InlineDocument {
            source: Some(inline_document::Source::Text(document(index))),
            ..Default::default()
        })
    };
    let parts = documents.iter().map(document).chain([part::Part::Text(question.to_owned())]);
    let stopping = v1::StoppingOptions {
        max_tokens: Some(max_tokens),
        ignore_end_tokens: Some(true),
        ..Default::default()
    };
    v1::GenerateRequest {
        parts: parts.map(|part| v1::Part { part: Some(part) }).collect(),
        stopping: Some(stopping),
        response: Some(v1::ResponseOptions { token_ids: Some(true), ..Default::default() }),
        ..Default::default()
    }
}

fn stream_request(stream: usize) -> v1::GenerateRequest {
    let documents = [stream, stream + 5 + stream / 16].map(|index| index % NUM_DOCUMENTS);
    request(&documents, &format!("When does the boat of berth {} leave?", documents[0]), 4)
}

async fn answer(mut client: Client, request: v1::GenerateRequest) -> v1::CollectedResponse {
    let mut stream = client.generate(request, None).await.unwrap();
    let mut collector = Collector::new(1);
    while let Some(message) = stream.message().await.unwrap() {
        collector.push(message).unwrap();
    }
    collector.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_streams_answer_as_one_at_a_time_and_encode_each_document_once() {
    let served = serve(&["--metrics-port", "0"]);
    assert!(served.ready.contains("KV 8192 tokens"), "{}", served.ready);
    let mut client = served.client(None).await;
    let tasks: Vec<_> =
        (0..NUM_STREAMS).map(|stream| tokio::spawn(answer(client.clone(), stream_request(stream)))).collect();
    let mut together = Vec::new();
    for task in tasks {
        together.push(timeout(PATIENCE, task).await.unwrap().unwrap());
    }
    let mut misses: BTreeMap<&str, u32> = BTreeMap::new();
    for part in together.iter().flat_map(|response| &response.parts) {
        if !part.document_key.is_empty() {
            *misses.entry(&part.document_key).or_default() += u32::from(part.outcome() == CacheOutcome::Miss);
        }
    }
    assert_eq!(misses.len(), NUM_DOCUMENTS);
    assert!(misses.values().all(|&num_misses| num_misses == 1), "{misses:?}");
    let load = client.load().await.unwrap();
    assert_eq!((load.kv_blocks_leased, load.sequences_running, load.requests_waiting), (0, 0, 0));
    let metrics = served.metrics();
    let shows =
        |sample: &str| metrics.lines().any(|line| line.starts_with("lazyattn_") && line.contains(sample));
    assert!(shows(&format!("outcome=\"done\"}} {NUM_STREAMS}")), "{metrics}");
    assert!(shows(&format!("outcome=\"miss\"}} {NUM_DOCUMENTS}")), "{metrics}");
    assert!(!metrics.contains("Berth"), "no document is named");
    for (stream, response) in together.iter().enumerate() {
        let alone = answer(client.clone(), stream_request(stream)).await;
        assert_eq!((&response.text, &response.token_ids), (&alone.text, &alone.token_ids), "{stream}");
    }
}

fn scratch(name: &str, content: &[u8]) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, content).unwrap();
    path
}

/// A response without what differs from run to run.
fn comparable(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let fields = value.as_object_mut().unwrap();
    for field in ["timing", "requestId", "seed", "parts"] {
        assert!(fields.remove(field).is_some(), "{field} is missing");
    }
    value
}

#[test]
fn generate_prints_the_same_response_with_and_without_a_server() {
    let served = serve(&[]);
    let json = lazy_attn_proto::to_json(&stream_request(3)).unwrap();
    let path = scratch("same-response.json", json.as_bytes());
    let generate = ["generate", "--request", path.to_str().unwrap()];
    let local = lazyattn(&generate).output().unwrap();
    let remote = lazyattn(&[&generate[..], &["--server", &served.url]].concat()).output().unwrap();
    assert_eq!(comparable(&remote), comparable(&local));
    let wrong = scratch("wrong-request.json", br#"{"parts": [{"text": "a"}], "sampling": {"topP": 2}}"#);
    let arguments = ["generate", "--request", wrong.to_str().unwrap(), "--server", &served.url];
    let refused = lazyattn(&arguments).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("sampling.top_p"));
}

#[test]
fn a_server_that_is_not_there_has_an_exit_code_of_its_own() {
    let path = scratch("nobody.json", br#"{"parts": [{"text": "a"}]}"#);
    // Port 1 of loopback needs privileges to listen on, so nobody does.
    let arguments = ["generate", "--request", path.to_str().unwrap(), "--server", "http://127.0.0.1:1"];
    let output = lazyattn(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_what_is_in_flight_and_exits_with_zero() {
    let mut served = serve(&[]);
    let mut client = served.client(None).await;
    let mut stream = client.generate(request(&[1], "When?", 40), None).await.unwrap();
    stream.message().await.unwrap().unwrap();
    served.terminate();
    let mut num_tokens = 0;
    let mut has_done = false;
    while let Some(message) = stream.message().await.unwrap() {
        match message.event {
            Some(Event::Delta(delta)) => num_tokens += delta.token_ids.len(),
            Some(Event::Done(_)) => has_done = true,
            _ => {}
        }
    }
    assert_eq!((num_tokens, has_done), (40, true));
    assert_eq!(served.end().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_stops_at_once() {
    let mut served = serve(&[]);
    let mut client = served.client(None).await;
    let mut stream = client.generate(request(&[1], "When?", 1500), None).await.unwrap();
    stream.message().await.unwrap().unwrap();
    served.terminate();
    let refused = async {
        loop {
            match client.generate(request(&[], "When?", 1), None).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(status) => return status.code(),
            }
        }
    };
    assert_eq!(timeout(PATIENCE, refused).await.unwrap(), Code::Unavailable);
    served.terminate();
    assert_eq!(served.end().await.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_file_name_tenants_that_share_nothing() {
    let line = |tenant: &str, key: &str| format!("{tenant}:{}\n", blake3::hash(key.as_bytes()).to_hex());
    let keys = scratch("keys.txt", (line("red", "red-key") + &line("blue", "blue-key")).as_bytes());
    let secret = scratch("secret.bin", &[9; 32]);
    let [keys, secret] = [&keys, &secret].map(|path| path.to_str().unwrap());
    let served = serve(&["--api-key-file", keys, "--tenant-secret-file", secret]);
    let mut wrong = served.client(Some("green-key")).await;
    let status = wrong.generate(request(&[], "When?", 1), None).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let mut reused = Vec::new();
    for key in ["red-key", "red-key", "blue-key"] {
        let response = answer(served.client(Some(key)).await, request(&[2], "When?", 1)).await;
        reused.push(response.usage.unwrap().documents_reused);
    }
    assert_eq!(reused, [0, 1, 0]);
    let path = scratch("with-key.json", br#"{"parts": [{"text": "a"}], "stopping": {"maxTokens": 1}}"#);
    let key = scratch("red.key", b"red-key\n");
    let arguments = ["generate", "--request", path.to_str().unwrap(), "--server", &served.url];
    assert_eq!(lazyattn(&arguments).output().unwrap().status.code(), Some(2));
    let with_key = [&arguments[..], &["--key-file", key.to_str().unwrap()]].concat();
    assert_eq!(lazyattn(&with_key).output().unwrap().status.code(), Some(0));
}

#[test]
fn an_address_that_other_machines_reach_is_refused_before_the_model_is_loaded() {
    let output = lazyattn(&["serve", "--host", "0.0.0.0", "--model", "no-such-model.gguf"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--insecure-bind"));
}
