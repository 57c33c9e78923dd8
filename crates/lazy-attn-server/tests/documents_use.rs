//! Documents in requests: by name, stored with a request, counted, evicted, watched.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::documents::{by_name, code_and_reason, count, fields, put, stored};
use common::{Options, PATIENCE, Rig, admitted, answer, document, expected, keys, request, start};
use lazy_attn_proto::Client;
use lazy_attn_proto::v1::{
    self, CacheOutcome, KvResidency, PrefillMode, part, watch_kv_events_response::Event,
};
use lazy_attn_server::{AdminAccess, DocumentLimits};
use lazy_attn_testkit::FakeConfig;
use lazy_attn_types::BlockSize;
use tokio::time::timeout;
use tonic::{Code, Streaming};
use tonic_types::StatusExt;

/// 16 blocks of 16 tokens.
async fn small() -> Rig {
    let executor =
        FakeConfig { num_blocks: 16, block_size: BlockSize::new(16).unwrap(), ..FakeConfig::default() };
    start(Options { executor, ..Options::default() }).await
}

async fn residency(client: &mut Client, name: &str) -> KvResidency {
    client.get_document(name).await.unwrap().residency()
}

/// Fills a small pool with other documents.
async fn pressure(client: &mut Client, seed: u32) {
    for filler in 0..6 {
        stored(client, &[seed + filler; 100]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_used_by_name_at_any_place_and_its_uses_are_counted() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let names = [stored(&mut client, &document(1)).await.name, stored(&mut client, &document(2)).await.name];
    for order in [[0, 1], [1, 0]] {
        let response =
            answer(&mut client, by_name(&order.map(|i| names[i].as_str()), &[7], 5)).await.unwrap();
        let documents = order.map(|i| document(i as u32 + 1));
        assert_eq!(response.token_ids, expected(&documents, &[7], 5));
        let usage = response.usage.unwrap();
        assert_eq!((usage.documents_total, usage.documents_reused), (2, 2));
        for (part, i) in response.parts.iter().zip(order) {
            assert_eq!(format!("documents/{}", part.document_key), names[i]);
            assert_eq!(part.outcome(), CacheOutcome::Hit);
        }
    }
    for name in &names {
        let used = client.get_document(name).await.unwrap();
        assert_eq!(used.use_count, 2);
        let (used, created) = (used.last_use_time.unwrap(), used.create_time.unwrap());
        assert!((used.seconds, used.nanos) >= (created.seconds, created.nanos));
    }
    // The same document given in place has the same name, and is not a use of the registered one.
    let response = answer(&mut client, request(&[document(1)], &[7], 5)).await.unwrap();
    assert_eq!(format!("documents/{}", response.parts[0].document_key), names[0]);
    assert_eq!(response.usage.unwrap().documents_reused, 1);
    assert_eq!(client.get_document(&names[0]).await.unwrap().use_count, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_document_is_named_with_its_place_in_the_prompt() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let known = stored(&mut client, &document(1)).await.name;
    let stranger = format!("documents/{}", "0".repeat(64));
    for name in [stranger.as_str(), "documents/7", "nonsense"] {
        let prompt = by_name(&[&known, name], &[7], 5);
        let counted = client.count_tokens(count(prompt.clone())).await.unwrap_err();
        let generated = answer(&mut client, prompt).await.unwrap_err();
        for status in [counted, generated] {
            assert_eq!(code_and_reason(&status), (Code::NotFound, "UNKNOWN_DOCUMENT".to_owned()));
            assert_eq!(fields(&status), ["parts[1].document"]);
            assert_eq!(status.get_error_details().resource_info().unwrap().resource_name, name);
        }
    }
    assert_eq!(client.get_document(&known).await.unwrap().use_count, 0, "a refused request uses nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn kv_that_was_evicted_is_computed_again_and_the_answer_is_the_same() {
    let rig = small().await;
    let mut client = rig.client().await;
    let tokens: Vec<u32> = (0..60).map(|i| (i * 11 + 3) % 97).collect();
    let name = stored(&mut client, &tokens).await.name;
    let expected = expected(&[tokens], &[7], 6);
    let ask = by_name(&[&name], &[7], 6);
    let before = answer(&mut client, ask.clone()).await.unwrap();
    assert_eq!((before.token_ids, before.parts[0].outcome()), (expected.clone(), CacheOutcome::Hit));
    pressure(&mut client, 10).await;
    assert_eq!(residency(&mut client, &name).await, KvResidency::Evicted);
    let after = answer(&mut client, ask.clone()).await.unwrap();
    assert_eq!((after.token_ids, after.parts[0].outcome()), (expected, CacheOutcome::Miss));
    assert_eq!(after.usage.unwrap().cache_creation_tokens, 60);
    assert_eq!(residency(&mut client, &name).await, KvResidency::Device);
    pressure(&mut client, 30).await;
    assert_eq!(residency(&mut client, &name).await, KvResidency::Evicted);
    let put_again = client.put_document(put(&(0..60).map(|i| (i * 11 + 3) % 97).collect::<Vec<_>>())).await;
    let put_again = put_again.unwrap();
    assert_eq!((put_again.created, put_again.prefilled_tokens), (false, 60));
    assert_eq!(answer(&mut client, ask).await.unwrap().parts[0].outcome(), CacheOutcome::Hit);
}

#[tokio::test(flavor = "multi_thread")]
async fn counting_says_what_generating_then_reports() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let resident = stored(&mut client, &document(1)).await.name;
    let lazy = v1::PutDocumentRequest { prefill_mode: PrefillMode::Lazy.into(), ..put(&document(2)) };
    let lazy = client.put_document(lazy).await.unwrap().document.unwrap().name;
    let mut prompt = by_name(&[&resident, &lazy], &[7, 8, 9], 5);
    prompt.parts.splice(1..1, request(&[document(3)], &[], 1).parts.into_iter().take(1));
    for round in 0..2 {
        let counted = client.count_tokens(count(prompt.clone())).await.unwrap();
        let encoded = rig.handle.settled_stats().unwrap().tokens_encoded;
        assert_eq!(client.count_tokens(count(prompt.clone())).await.unwrap(), counted);
        assert_eq!(rig.handle.settled_stats().unwrap().tokens_encoded, encoded, "counting computes nothing");
        let response = answer(&mut client, prompt.clone()).await.unwrap();
        let usage = response.usage.unwrap();
        assert_eq!(counted.prompt_tokens, usage.prompt_tokens);
        assert_eq!(counted.cached_prompt_tokens, usage.cached_prompt_tokens);
        let outcomes: Vec<_> = counted.parts.iter().map(|part| (part.index, part.outcome())).collect();
        let hit_later = if round == 0 { CacheOutcome::Miss } else { CacheOutcome::Hit };
        assert_eq!(outcomes[..3], [(0, CacheOutcome::Hit), (1, hit_later), (2, hit_later)]);
        assert_eq!(counted.parts, response.parts);
    }
    prompt.cache = Some(v1::CacheOptions { bypass: Some(true), ..Default::default() });
    let counted = client.count_tokens(count(prompt)).await.unwrap();
    assert_eq!(counted.cached_prompt_tokens, 0);
    assert!(counted.parts.iter().all(|part| part.outcome() == CacheOutcome::Miss));
    let lost = client.count_tokens(v1::CountTokensRequest::default()).await.unwrap_err();
    assert_eq!((lost.code(), fields(&lost)), (Code::InvalidArgument, vec!["parts".to_owned()]));
    assert_eq!(client.get_document(&resident).await.unwrap().use_count, 2, "counting is no use");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_come_with_a_request_are_registered_when_it_says_so() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let list = v1::ListDocumentsRequest::default;
    let plain = answer(&mut client, request(&[document(1)], &[7], 2)).await.unwrap();
    assert_eq!(client.list_documents(list()).await.unwrap().total_size, 0);
    let mut all = request(&[document(1), document(2)], &[7], 2);
    let ttl = Some(Duration::from_secs(600).into());
    all.cache = Some(v1::CacheOptions { store_inline_documents: Some(true), ttl, ..Default::default() });
    let response = answer(&mut client, all).await.unwrap();
    assert_eq!(response.parts[0].document_key, plain.parts[0].document_key);
    let listed = client.list_documents(list()).await.unwrap().documents;
    assert_eq!(listed.len(), 2);
    for (document, part) in listed.iter().zip(&response.parts) {
        assert_eq!(document.name, format!("documents/{}", part.document_key));
        assert_eq!((document.use_count, document.residency()), (1, KvResidency::Device));
        assert!(document.expiration.is_some());
    }
    let mut one = request(&[document(3), document(4)], &[7], 2);
    if let Some(part::Part::InlineDocument(document)) = &mut one.parts[1].part {
        document.store = true;
        document.title = "Harbour".to_owned();
    }
    let response = answer(&mut client, one).await.unwrap();
    let listed = client.list_documents(list()).await.unwrap().documents;
    assert_eq!((listed.len(), listed[2].display_name.as_str()), (3, "Harbour"));
    assert_eq!(listed[2].name, format!("documents/{}", response.parts[1].document_key));
    assert!(listed[2].expiration.is_none());
    let again = answer(&mut client, by_name(&[&listed[2].name], &[7], 3)).await.unwrap();
    assert_eq!(again.token_ids, expected(&[document(4)], &[7], 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn options_of_the_cache_that_contradict_each_other_are_refused() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let ttl = || Some(Duration::from_secs(600).into());
    let cases = [
        (
            "cache.bypass",
            v1::CacheOptions { bypass: Some(true), store_inline_documents: Some(true), ttl: None },
        ),
        ("cache.ttl", v1::CacheOptions { ttl: ttl(), ..Default::default() }),
        (
            "cache.ttl",
            v1::CacheOptions {
                store_inline_documents: Some(true),
                ttl: Some(Duration::ZERO.into()),
                ..Default::default()
            },
        ),
    ];
    for (field, cache) in cases {
        let prompt = v1::GenerateRequest { cache: Some(cache), ..request(&[document(1)], &[7], 2) };
        let status = answer(&mut client, prompt).await.unwrap_err();
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec![field.to_owned()]));
    }
    let mut forgotten = request(&[document(1)], &[7], 2);
    if let Some(part::Part::InlineDocument(document)) = &mut forgotten.parts[0].part {
        document.ttl = ttl();
    }
    let status = answer(&mut client, forgotten).await.unwrap_err();
    assert_eq!(fields(&status), ["parts[0].inline_document.ttl"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bypassing_the_cache_finds_nothing_keeps_nothing_and_answers_the_same() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let name = stored(&mut client, &document(1)).await.name;
    let mut prompt = by_name(&[&name], &[7], 4);
    prompt.parts.splice(1..1, request(&[document(2)], &[], 1).parts.into_iter().take(1));
    let bypass = v1::CacheOptions { bypass: Some(true), ..Default::default() };
    let alone = v1::GenerateRequest { cache: Some(bypass), ..prompt.clone() };
    let response = answer(&mut client, alone).await.unwrap();
    let documents = [document(1), document(2)];
    assert_eq!(response.token_ids, expected(&documents, &[7], 4));
    let usage = response.usage.unwrap();
    assert_eq!((usage.cached_prompt_tokens, usage.documents_reused, usage.cache_creation_tokens), (0, 0, 0));
    let response = answer(&mut client, prompt).await.unwrap();
    let outcomes: Vec<_> = response.parts[..2].iter().map(v1::ResolvedPart::outcome).collect();
    assert_eq!(outcomes, [CacheOutcome::Hit, CacheOutcome::Miss]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_reached_its_bound_is_told_the_numbers_and_others_are_not_touched() {
    let documents = DocumentLimits { max_documents: 3, ..DocumentLimits::default() };
    let rig = start(Options { documents, keys: Some(keys()), ..Options::default() }).await;
    let mut red = rig.client_of(Some("red-key")).await;
    for index in 0..3 {
        stored(&mut red, &document(index)).await;
    }
    let status = red.put_document(put(&document(3))).await.unwrap_err();
    assert_eq!(code_and_reason(&status), (Code::ResourceExhausted, "DOCUMENT_QUOTA".to_owned()));
    assert!(status.message().contains("would be 4, at most 3"), "{status:?}");
    let details = status.get_error_details();
    let violation = &details.quota_failure().unwrap().violations[0];
    assert_eq!(violation.subject, "documents of the tenant");
    let mut storing = request(&[document(3)], &[7], 2);
    let store = v1::CacheOptions { store_inline_documents: Some(true), ..Default::default() };
    storing.cache = Some(store);
    let status = answer(&mut red, storing).await.unwrap_err();
    assert_eq!(code_and_reason(&status).1, "DOCUMENT_QUOTA");
    assert!(!red.put_document(put(&document(2))).await.unwrap().created);
    stored(&mut rig.client_of(Some("blue-key")).await, &document(3)).await;
}

/// Plays events into the set of names that they describe.
struct Mirror {
    names: BTreeSet<String>,
    sequence: u64,
    events: Streaming<v1::WatchKvEventsResponse>,
}

impl Mirror {
    async fn start(client: &mut Client) -> Mirror {
        let events = client.watch_kv_events().await.unwrap();
        let mut mirror = Mirror { names: BTreeSet::new(), sequence: 0, events };
        let first = timeout(PATIENCE, mirror.events.message()).await.unwrap().unwrap().unwrap();
        let Some(Event::Snapshot(snapshot)) = first.event else { panic!("{first:?}") };
        assert!(snapshot.documents.is_sorted());
        mirror.names.extend(snapshot.documents);
        mirror.sequence = first.sequence;
        mirror
    }

    /// Reads on until the mirror holds `names`.
    async fn until(&mut self, names: &[&str]) {
        let wanted: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        while self.names != wanted {
            let next = timeout(PATIENCE, self.events.message()).await;
            let next = next.unwrap_or_else(|_| panic!("wanted {wanted:?}, got {:?}", self.names));
            let next = next.unwrap().unwrap();
            assert!(next.sequence >= self.sequence);
            self.sequence = next.sequence;
            match next.event.unwrap() {
                Event::Snapshot(snapshot) => self.names = snapshot.documents.into_iter().collect(),
                Event::Stored(name) => assert!(self.names.insert(name), "told twice"),
                Event::Evicted(name) => assert!(self.names.remove(&name), "never told"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_knows_what_is_registered_and_resident_whichever_comes_first() {
    let rig = small().await;
    let mut client = rig.client().await;
    let first = stored(&mut client, &document(1)).await.name;
    answer(&mut client, request(&[document(2)], &[7], 1)).await.unwrap();
    let mut mirror = Mirror::start(&mut client).await;
    mirror.until(&[&first]).await;
    // Its KV has long been there.
    let second = client.put_document(put(&document(2))).await.unwrap();
    assert_eq!(second.prefilled_tokens, 0);
    let second = second.document.unwrap().name;
    mirror.until(&[&first, &second]).await;
    let lazy = v1::PutDocumentRequest { prefill_mode: PrefillMode::Lazy.into(), ..put(&document(3)) };
    let lazy = client.put_document(lazy).await.unwrap().document.unwrap().name;
    answer(&mut client, by_name(&[&lazy], &[7], 1)).await.unwrap();
    mirror.until(&[&first, &lazy, &second]).await;
    let delete = v1::DeleteDocumentRequest { name: second.clone(), ..Default::default() };
    client.delete_document(delete).await.unwrap();
    mirror.until(&[&first, &lazy]).await;
    pressure(&mut client, 10).await;
    let mut resident = Vec::new();
    for document in client.list_documents(v1::ListDocumentsRequest::default()).await.unwrap().documents {
        if document.residency() == KvResidency::Device {
            resident.push(document.name);
        }
    }
    assert!(!resident.is_empty() && !resident.contains(&first), "the pool is small enough to evict");
    let resident: Vec<&str> = resident.iter().map(String::as_str).collect();
    mirror.until(&resident).await;
    let late = Mirror::start(&mut client).await;
    assert_eq!((late.names, late.sequence), (mirror.names.clone(), mirror.sequence));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_hears_nothing_of_other_tenants_and_ends_with_the_drain() {
    let mut rig = start(Options { keys: Some(keys()), ..Options::default() }).await;
    let (mut red, mut blue) = (rig.client_of(Some("red-key")).await, rig.client_of(Some("blue-key")).await);
    stored(&mut red, &document(1)).await;
    let mut mirror = Mirror::start(&mut blue).await;
    mirror.until(&[]).await;
    stored(&mut red, &document(2)).await;
    let own = stored(&mut blue, &document(2)).await.name;
    // A name of the other tenant, had it been told, would come first and never go again.
    mirror.until(&[&own]).await;
    rig.drain.take().unwrap().send(()).unwrap();
    let end = timeout(PATIENCE, mirror.events.message()).await.unwrap().unwrap_err();
    assert_eq!(code_and_reason(&end), (Code::Unavailable, "DRAINING".to_owned()));
    timeout(PATIENCE, &mut rig.serving).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_and_found_by_name() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let models = client.models().await.unwrap().models;
    assert_eq!(models.len(), 1);
    assert_eq!((models[0].name.as_str(), models[0].vocab_size), ("models/fake", 97));
    assert_eq!(client.model("models/fake").await.unwrap().model.unwrap(), models[0]);
    let unknown = client.model("models/other").await.unwrap_err();
    assert_eq!(code_and_reason(&unknown), (Code::NotFound, "UNKNOWN_MODEL".to_owned()));
    for name in ["", "fake", "models/"] {
        let status = client.model(name).await.unwrap_err();
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["name".to_owned()]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_server_that_allows_it_is_drained_by_a_call() {
    let rig = start(Options::default()).await;
    let refused = rig.client().await.drain().await.unwrap_err();
    assert_eq!(code_and_reason(&refused), (Code::PermissionDenied, "ADMIN_REFUSED".to_owned()));
    assert!(answer(&mut rig.client().await, request(&[], &[7], 1)).await.is_ok());

    let mut rig = start(Options { admin: AdminAccess::Allow, ..Options::default() }).await;
    let mut client = rig.client().await;
    rig.latch.shut();
    let mut running = client.generate(request(&[], &[7], 3), None).await.unwrap();
    admitted(&mut running).await;
    assert_eq!(client.drain().await.unwrap().in_flight, 1);
    let refused = answer(&mut client, request(&[], &[7], 1)).await.unwrap_err();
    assert_eq!(code_and_reason(&refused), (Code::Unavailable, "DRAINING".to_owned()));
    let refused = client.put_document(put(&document(1))).await.unwrap_err();
    assert_eq!(code_and_reason(&refused), (Code::Unavailable, "DRAINING".to_owned()));
    rig.latch.open();
    assert_eq!(common::collect(running).await.unwrap().token_ids, expected(&[], &[7], 3));
    timeout(PATIENCE, &mut rig.serving).await.unwrap().unwrap().unwrap();
}
