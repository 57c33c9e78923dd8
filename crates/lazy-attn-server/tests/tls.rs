//! Encrypted connections, and clients that show a certificate.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::PathBuf;

use common::{Options, PATIENCE, Rig, answer, document, expected, request, start};
use lazy_attn_proto::{Client, ClientError, ClientIdentity, ClientOptions, ClientTls};
use lazy_attn_server::{Authorities, Identity, ServerTls};
use tokio::net::TcpStream;
use tokio::time::timeout;

fn file(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../lazy-attn-testkit/certs")).join(name)
}

fn pem(name: &str) -> Vec<u8> {
    std::fs::read(file(name)).unwrap()
}

async fn encrypted(client_authorities: Option<&str>) -> Rig {
    let tls = ServerTls {
        identity: Identity::load(&file("server.pem"), &file("server.key")).unwrap(),
        client_authorities: client_authorities.map(|name| Authorities::load(&file(name)).unwrap()),
    };
    start(Options { tls: Some(tls), ..Options::default() }).await
}

/// Asks with these files, from connecting to the answer; says why not.
async fn ask(url: &str, authority: &str, identity: Option<&str>) -> Result<Vec<u32>, String> {
    let identity = identity.map(|name| ClientIdentity {
        certificate_pem: pem(&format!("{name}.pem")),
        key_pem: pem(&format!("{name}.key")),
    });
    let tls = Some(ClientTls { authority_pem: pem(authority), identity });
    let options = ClientOptions { url: url.to_owned(), tls, ..ClientOptions::default() };
    let asking = async {
        let mut client = Client::connect(options).await.map_err(|error| format!("{error:?}"))?;
        let request = request(&[document(1)], &[5, 6], 3);
        Ok(answer(&mut client, request).await.map_err(|status| format!("{status:?}"))?.token_ids)
    };
    timeout(PATIENCE, asking).await.unwrap()
}

#[tokio::test]
async fn an_encrypted_server_answers_whoever_trusts_its_authority() {
    let rig = encrypted(None).await;
    assert!(rig.url.starts_with("https://"));
    // Who stops in the middle of a handshake holds up nobody.
    let address = rig.url.strip_prefix("https://").unwrap();
    let _stalled = TcpStream::connect(address).await.unwrap();
    let answer = ask(&rig.url, "ca.pem", None).await;
    assert_eq!(answer.unwrap(), expected(&[document(1)], &[5, 6], 3));
    let error = ask(&rig.url, "other-ca.pem", None).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn a_client_without_encryption_is_refused() {
    let rig = encrypted(None).await;
    let url = rig.url.replace("https://", "http://");
    let asking = async {
        let options = ClientOptions { url, ..ClientOptions::default() };
        let mut client = Client::connect(options).await.map_err(|error| format!("{error:?}"))?;
        answer(&mut client, request(&[], &[5, 6], 1)).await.map_err(|status| format!("{status:?}"))
    };
    assert!(timeout(PATIENCE, asking).await.unwrap().is_err());
    assert_eq!(rig.handle.settled_stats().unwrap().tokens_run, 0);
}

#[tokio::test]
async fn a_server_with_client_authorities_answers_only_their_clients() {
    let rig = encrypted(Some("ca.pem")).await;
    for identity in [None, Some("stranger")] {
        // The server's alert, or a connection that is gone before it is read.
        ask(&rig.url, "ca.pem", identity).await.unwrap_err();
    }
    assert_eq!(rig.handle.settled_stats().unwrap().tokens_run, 0);
    let answer = ask(&rig.url, "ca.pem", Some("client")).await;
    assert_eq!(answer.unwrap(), expected(&[document(1)], &[5, 6], 3));
}

#[tokio::test]
async fn an_address_and_its_encryption_have_to_agree() {
    let tls = Some(ClientTls { authority_pem: pem("ca.pem"), identity: None });
    let options = ClientOptions { url: "http://127.0.0.1:1".into(), tls, ..ClientOptions::default() };
    assert!(matches!(Client::connect(options).await, Err(ClientError::NotEncrypted { .. })));
    let options = ClientOptions { url: "https://127.0.0.1:1".into(), ..ClientOptions::default() };
    assert!(matches!(Client::connect(options).await, Err(ClientError::NoAuthority { .. })));
}
