//! What surrounds a request: keys, tenants, health, reflection, drain.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{Options, PATIENCE, admitted, answer, document, expected, keys, request, start};
use lazy_attn_engine::EngineError;
use lazy_attn_proto::v1::{CacheOutcome, ServerState};
use lazy_attn_proto::{Client, ClientOptions};
use lazy_attn_server::{Exposure, ServeError, bind};
use lazy_attn_types::ExecError;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

const GENERATION: &str = "lazyattn.v1.GenerationService";
const ENGINE: &str = "lazyattn.v1.EngineService";

async fn health(url: &str, service: &str) -> Result<ServingStatus, Status> {
    let channel = Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
    let request = HealthCheckRequest { service: service.to_owned() };
    Ok(HealthClient::new(channel).check(request).await?.into_inner().status())
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().unwrap().reason.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_known_key_is_let_in_and_health_needs_none() {
    let rig = start(Options { keys: Some(keys()), ..Options::default() }).await;
    for key in [None, Some("red-ke"), Some("red-key2"), Some("")] {
        let mut client = rig.client_of(key).await;
        let status = client.generate(request(&[], &[1], 1), None).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "WRONG_API_KEY"));
        assert_eq!(client.load().await.unwrap_err().code(), Code::Unauthenticated);
        assert_eq!(client.server_info().await.unwrap_err().code(), Code::Unauthenticated);
    }
    let mut client = rig.client_of(Some("red-key")).await;
    assert_eq!(answer(&mut client, request(&[], &[1], 2)).await.unwrap().token_ids, expected(&[], &[1], 2));
    assert_eq!(health(&rig.url, GENERATION).await.unwrap(), ServingStatus::Serving);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_gets_a_miss_where_the_same_tenant_gets_a_hit() {
    let rig = start(Options { keys: Some(keys()), ..Options::default() }).await;
    let mut seen = Vec::new();
    for key in ["red-key", "red-key", "blue-key", "blue-key"] {
        let mut client = rig.client_of(Some(key)).await;
        let response = answer(&mut client, request(&[document(3)], &[1], 2)).await.unwrap();
        assert_eq!(response.token_ids, expected(&[document(3)], &[1], 2));
        let usage = response.usage.unwrap();
        seen.push((
            response.parts[0].outcome(),
            usage.documents_reused,
            response.parts[0].document_key.clone(),
        ));
    }
    let outcomes: Vec<_> = seen.iter().map(|(outcome, reused, _)| (*outcome, *reused)).collect();
    let (miss, hit) = ((CacheOutcome::Miss, 0), (CacheOutcome::Hit, 1));
    assert_eq!(outcomes, [miss, hit, miss, hit]);
    assert_eq!(seen[0].2, seen[1].2);
    assert_ne!(seen[0].2, seen[2].2, "tenants would share a key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_refuses_the_new_finishes_the_old_and_ends() {
    let mut rig = start(Options::default()).await;
    let mut client = rig.client().await;
    rig.latch.shut();
    let mut stream = client.generate(request(&[document(0)], &[5], 50), None).await.unwrap();
    admitted(&mut stream).await;
    rig.drain.take().unwrap().send(()).unwrap();
    let draining = async {
        while health(&rig.url, "").await.unwrap() == ServingStatus::Serving {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, draining).await.unwrap();
    for service in [GENERATION, ENGINE] {
        assert_eq!(health(&rig.url, service).await.unwrap(), ServingStatus::NotServing);
    }
    let status = client.generate(request(&[], &[1], 1), None).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "DRAINING"));
    assert!(status.get_error_details().retry_info().unwrap().retry_delay.is_some());
    assert_eq!(client.load().await.unwrap().state(), ServerState::Draining);
    assert!(!rig.serving.is_finished());
    rig.latch.open();
    let mut has_done = false;
    while let Some(message) = stream.message().await.unwrap() {
        has_done |= matches!(message.event, Some(lazy_attn_proto::v1::generate_response::Event::Done(_)));
    }
    assert!(has_done);
    timeout(PATIENCE, &mut rig.serving).await.unwrap().unwrap().unwrap();
    let options = ClientOptions { url: rig.url.clone(), ..ClientOptions::default() };
    assert!(Client::connect(options).await.is_err(), "somebody still listens");
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_watches_the_health_sees_the_drain_and_then_the_end() {
    let mut rig = start(Options::default()).await;
    let channel = Channel::from_shared(rig.url.clone()).unwrap().connect().await.unwrap();
    let request = HealthCheckRequest { service: GENERATION.to_owned() };
    let mut watch = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
    let mut seen = vec![watch.message().await.unwrap().unwrap().status()];
    rig.drain.take().unwrap().send(()).unwrap();
    let rest = async {
        while let Ok(Some(message)) = watch.message().await {
            seen.push(message.status());
        }
    };
    timeout(PATIENCE, rest).await.unwrap();
    // A watcher may miss a state that is followed by another at once, but not what it began with.
    assert_eq!(seen[0], ServingStatus::Serving);
    assert!(seen[1..].iter().all(|&status| status == ServingStatus::NotServing), "{seen:?}");
    timeout(PATIENCE, &mut rig.serving).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn losing_the_engine_ends_the_server_with_an_error() {
    let mut rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let mut stream = client.generate(request(&[], &[5], 8000), None).await.unwrap();
    admitted(&mut stream).await;
    drop(rig.engine.take());
    let status = loop {
        if let Err(status) = stream.message().await {
            break status;
        }
    };
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "SHUT_DOWN"));
    drop(stream);
    let result = timeout(PATIENCE, &mut rig.serving).await.unwrap().unwrap();
    assert!(matches!(result, Err(ServeError::EngineLost(EngineError::ShutDown))), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_device_fails_the_requests_turns_health_and_ends_the_server_with_an_error() {
    let mut rig = start(Options::default()).await;
    let channel = Channel::from_shared(rig.url.clone()).unwrap().connect().await.unwrap();
    let asked = HealthCheckRequest { service: GENERATION.to_owned() };
    let mut watch = HealthClient::new(channel).watch(asked).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let mut client = rig.client().await;
    rig.latch.shut();
    let mut stream = client.generate(request(&[], &[5], 50), None).await.unwrap();
    admitted(&mut stream).await;
    rig.probe.fail_at(0, ExecError::DeviceLost("Xid 79".into()));
    rig.latch.open();
    let status = loop {
        if let Err(status) = stream.message().await {
            break status;
        }
    };
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "DEVICE_LOST"));
    assert!(status.message().contains("Xid 79") && status.message().contains("restart"), "{status}");
    drop(stream);
    assert_ne!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let result = timeout(PATIENCE, &mut rig.serving).await.unwrap().unwrap();
    assert!(matches!(result, Err(ServeError::EngineLost(EngineError::DeviceLost(_)))), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_ends_while_nobody_asks_ends_the_server_too() {
    let mut rig = start(Options::default()).await;
    drop(rig.engine.take());
    let result = timeout(PATIENCE, &mut rig.serving).await.unwrap().unwrap();
    assert!(matches!(result, Err(ServeError::EngineLost(EngineError::ShutDown))), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_name_their_field_and_an_unknown_model_is_not_found() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let mut wrong = request(&[document(0)], &[5], 0);
    let status = client.generate(wrong.clone(), None).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    let details = status.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "stopping.max_tokens");
    wrong.model = "other".into();
    let status = client.generate(wrong, None).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "UNKNOWN_MODEL"));
    assert_eq!(status.get_error_details().resource_info().unwrap().resource_name, "other");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_above_the_bound_is_refused() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let mut large = request(&[], &[5], 1);
    large.request_id = "x".repeat(lazy_attn_proto::MAX_MESSAGE_BYTES - 100);
    // Below the bound of a message it is the bound of the field that speaks.
    let status = client.generate(large.clone(), None).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    large.request_id = "x".repeat(lazy_attn_proto::MAX_MESSAGE_BYTES + 1);
    let channel = Channel::from_shared(rig.url.clone()).unwrap().connect().await.unwrap();
    let mut unbounded = lazy_attn_proto::v1::generation_service_client::GenerationServiceClient::new(channel);
    let status = unbounded.generate(large).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_and_load_are_those_of_the_engine() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let info = client.server_info().await.unwrap();
    assert_eq!((info.model.as_str(), info.vocab_size, info.kv_capacity_tokens), ("fake", 97, 1024 * 16));
    answer(&mut client, request(&[], &[5], 3)).await.unwrap();
    rig.baseline().await;
    let load = client.load().await.unwrap();
    assert_eq!((load.state(), load.tokens_generated), (ServerState::Serving, 3));
    assert_eq!((load.kv_blocks_total, load.kv_blocks_leased, load.sequences_running), (1024, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_describes_itself() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let rig = start(Options::default()).await;
    let channel = Channel::from_shared(rig.url.clone()).unwrap().connect().await.unwrap();
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let replies = client.server_reflection_info(tokio_stream::iter([ask])).await.unwrap();
    let reply = replies.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = reply.message_response else {
        panic!("{reply:?}")
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in [GENERATION, ENGINE, "grpc.health.v1.Health"] {
        assert!(names.iter().any(|known| known == name), "{name} is not in {names:?}");
    }
}

#[tokio::test]
async fn an_address_beyond_loopback_needs_permission() {
    let everywhere = "0.0.0.0:0".parse().unwrap();
    let refused = bind(everywhere, Exposure::LoopbackOnly).await;
    assert!(matches!(refused, Err(ServeError::NotLoopback { .. })), "{refused:?}");
    assert!(bind(everywhere, Exposure::Anywhere).await.is_ok());
}
