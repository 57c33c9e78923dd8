//! A server with certificates, and what its log tells, as processes, with the embedded model.

#![cfg(feature = "embedded-model")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod served;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use lazy_attn_proto::{Client, ClientIdentity, ClientOptions, ClientTls, from_json, v1};
use lazy_attn_server::convert::Collector;
use serde_json::{Value, json};
use tokio::time::timeout;

use served::Served;

/// Long enough for any machine, short enough to fail rather than hang.
const PATIENCE: Duration = Duration::from_secs(240);
/// Stands in every part of a request, and must stand nowhere else.
const MARKER: &str = "Quizzaciously";
const KEY: &str = "the-red-key-of-this-test";

fn serve(arguments: &[&str]) -> Served {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lazyattn"));
    Served::start(command.args(["serve", "--grpc-port", "0", "--kv-blocks", "512"]).args(arguments))
}

impl Served {
    async fn ask(&self, options: ClientOptions, request: v1::GenerateRequest) -> Result<String, String> {
        let options = ClientOptions { url: self.url.clone(), ..options };
        let asking = async {
            let mut client = Client::connect(options).await.map_err(|error| error.to_string())?;
            let stream = client.generate(request, None).await;
            let mut stream = stream.map_err(|status| status.message().to_owned())?;
            let mut collector = Collector::new(1);
            while let Some(message) = stream.message().await.unwrap() {
                collector.push(message).unwrap();
            }
            Ok(collector.finish().unwrap().text)
        };
        timeout(PATIENCE, asking).await.unwrap()
    }
}

fn marked_request(max_tokens: u32) -> v1::GenerateRequest {
    let document = json!({"title": MARKER, "text": format!("{MARKER} leaves at six.\n\n")});
    let request = json!({
        "parts": [{"inlineDocument": document}, {"text": format!("When does {MARKER} leave?")}],
        "stopping": {"maxTokens": max_tokens},
        "requestId": "request-7",
    });
    from_json(request.to_string().as_bytes()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_of_each_request_and_never_what_it_says() {
    let keys = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("keys-of-the-log.txt");
    let hash = blake3::hash(KEY.as_bytes()).to_hex();
    std::fs::write(&keys, format!("red:{hash}\n")).unwrap();
    let arguments =
        ["--log-format", "json", "--log-level", "trace", "--api-key-file", keys.to_str().unwrap()];
    let served = serve(&arguments);
    assert!(served.ready.contains("KV 8192 tokens"), "{}", served.ready);
    let options = ClientOptions { api_key: Some(KEY.to_owned()), ..ClientOptions::default() };
    let text = served.ask(options.clone(), marked_request(3)).await.unwrap();
    assert!(!text.is_empty());
    served.ask(options.clone(), marked_request(1 << 30)).await.unwrap_err();
    let log: Vec<String> = [served.ready.clone()].into_iter().chain(served.log()).collect();
    let lines: Vec<Value> = log.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for message in ["submitted", "admitted", "first token", "finished"] {
        let line = lines.iter().find(|line| line["message"] == message);
        let line = line.unwrap_or_else(|| panic!("{message} is missing from {log:#?}"));
        assert!(line["span"]["request_id"].is_u64(), "{line}");
    }
    let named = lines.iter().find(|line| line["name"] == "request-7").unwrap();
    assert!(named["request_id"].is_u64(), "{named}");
    assert!(lines.iter().any(|line| line["level"] == "TRACE"));
    for line in &log {
        for secret in [MARKER, KEY] {
            assert!(!line.contains(secret), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_server_answers_only_clients_with_a_certificate_it_knows() {
    let certs = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../lazy-attn-testkit/certs"));
    let path = |name: &str| certs.join(name).to_str().unwrap().to_owned();
    let pem = |name: &str| std::fs::read(certs.join(name)).unwrap();
    let [cert, key, ca] = ["server.pem", "server.key", "ca.pem"].map(path);
    let served = serve(&["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca]);
    assert!(served.url.starts_with("https://127.0.0.1:"), "{}", served.ready);
    let options = |identity| {
        let tls = ClientTls { authority_pem: pem("ca.pem"), identity };
        ClientOptions { tls: Some(tls), ..ClientOptions::default() }
    };
    let identity = ClientIdentity { certificate_pem: pem("client.pem"), key_pem: pem("client.key") };
    assert!(served.ask(options(None), marked_request(3)).await.is_err());
    assert!(served.ask(options(Some(identity)), marked_request(3)).await.is_ok());
    let request = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("asked-over-tls.json");
    std::fs::write(&request, r#"{"parts": [{"text": "a"}], "stopping": {"maxTokens": 1}}"#).unwrap();
    let generate = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lazyattn"));
        command.args(["generate", "--server", &served.url, "--request"]).arg(&request).args(more);
        command.output().unwrap().status.code()
    };
    let [cert, key] = ["client.pem", "client.key"].map(path);
    assert_eq!(generate(&[]), Some(2));
    assert_eq!(generate(&["--tls-ca", &ca]), Some(6));
    assert_eq!(generate(&["--tls-ca", &ca, "--tls-client-cert", &key, "--tls-client-key", &key]), Some(2));
    assert_eq!(generate(&["--tls-ca", &ca, "--tls-client-cert", &cert, "--tls-client-key", &key]), Some(0));
}

#[test]
fn certificates_that_cannot_work_are_refused_before_the_model_is_loaded() {
    let certs = concat!(env!("CARGO_MANIFEST_DIR"), "/../lazy-attn-testkit/certs");
    let [server, key, client] =
        ["server.pem", "server.key", "client.key"].map(|name| format!("{certs}/{name}"));
    let cases: [(&[&str], &str); 4] = [
        (&["--tls-cert", &server], "needs --tls-key"),
        (&["--tls-client-ca", &server], "needs --tls-cert"),
        (&["--tls-cert", &server, "--tls-key", &client], "client.key is not the key of the certificate in"),
        (&["--tls-cert", &key, "--tls-key", &key], "server.key holds no certificate"),
    ];
    for (arguments, expected) in cases {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lazyattn"));
        command.args(["serve", "--model", "no-such-model.gguf"]).args(arguments);
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
