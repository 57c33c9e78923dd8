//! Documents as resources: putting, getting, listing, changing and deleting them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::documents::{by_name, code_and_reason, eventually, fields, put, stored, update};
use common::{Options, PATIENCE, admitted, answer, collect, document, expected, keys, start};
use lazy_attn_engine::EngineConfig;
use lazy_attn_proto::Client;
use lazy_attn_proto::v1::{
    self, KvResidency, PrefillMode, batch_put_documents_response, document as document_message,
    put_document_request,
};
use lazy_attn_testkit::FakeConfig;
use lazy_attn_types::BlockSize;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::{Code, Status};
use tonic_types::StatusExt;

fn refused<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    code_and_reason(&result.unwrap_err())
}

fn invalid() -> (Code, String) {
    (Code::InvalidArgument, "INVALID_FIELD".to_owned())
}

fn unknown() -> (Code, String) {
    (Code::NotFound, "UNKNOWN_DOCUMENT".to_owned())
}

fn named(name: &str) -> v1::Document {
    v1::Document { name: name.to_owned(), ..Default::default() }
}

async fn listed(client: &mut Client, request: v1::ListDocumentsRequest) -> Vec<String> {
    let page = client.list_documents(request).await.unwrap();
    page.documents.into_iter().map(|document| document.display_name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_computed_once_and_the_same_content_has_the_same_name() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let first = client.put_document(put(&document(3))).await.unwrap();
    let num_tokens = document(3).len() as u32;
    assert!(first.created);
    assert_eq!(first.prefilled_tokens, num_tokens);
    let put_first = first.document.unwrap();
    assert!(put_first.name.starts_with("documents/"), "{}", put_first.name);
    assert_eq!((put_first.model.as_str(), put_first.token_count), ("models/fake", num_tokens));
    assert_eq!(put_first.residency(), KvResidency::Device);
    assert!(put_first.kv_bytes > 0 && !put_first.etag.is_empty() && put_first.create_time.is_some());
    assert_eq!((put_first.use_count, put_first.last_use_time), (0, None));
    let second = client.put_document(put(&document(3))).await.unwrap();
    assert_eq!((second.created, second.prefilled_tokens), (false, 0));
    assert_eq!(second.document.unwrap(), put_first, "a repeated call changes nothing");
    assert_eq!(client.get_document(&put_first.name).await.unwrap(), put_first);
    assert_ne!(stored(&mut client, &document(4)).await.name, put_first.name);
    assert_eq!(rig.handle.settled_stats().unwrap().tokens_encoded, u64::from(2 * num_tokens + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mode_says_when_the_kv_is_computed() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let with = |mode: PrefillMode, index| v1::PutDocumentRequest {
        prefill_mode: mode.into(),
        ..put(&document(index))
    };
    let lazy = client.put_document(with(PrefillMode::Lazy, 1)).await.unwrap();
    assert_eq!((lazy.created, lazy.prefilled_tokens), (true, 0));
    let lazy = lazy.document.unwrap();
    assert_eq!(lazy.residency(), KvResidency::Evicted);
    assert_eq!(rig.handle.settled_stats().unwrap().tokens_encoded, 0);
    let first_use = answer(&mut client, by_name(&[&lazy.name], &[7], 2)).await.unwrap();
    assert_eq!(first_use.token_ids, expected(&[document(1)], &[7], 2));
    assert_eq!(client.get_document(&lazy.name).await.unwrap().residency(), KvResidency::Device);
    let later = client.put_document(with(PrefillMode::Async, 2)).await.unwrap();
    assert_eq!(later.prefilled_tokens, 0);
    let name = later.document.unwrap().name;
    let is_there = |found: &Result<v1::Document, Status>| {
        found.as_ref().is_ok_and(|document| document.residency() == KvResidency::Device)
    };
    eventually(&mut client, &name, is_there).await.unwrap();
    let used = answer(&mut client, by_name(&[&name], &[7], 2)).await.unwrap();
    assert_eq!(used.usage.unwrap().documents_reused, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn validating_only_answers_but_registers_and_computes_nothing() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let validate = |tokens: &[u32]| v1::PutDocumentRequest { validate_only: true, ..put(tokens) };
    let would = client.put_document(validate(&document(1))).await.unwrap();
    assert!(would.created);
    let name = would.document.unwrap().name;
    assert_eq!(refused(client.get_document(&name).await), unknown());
    assert_eq!(rig.handle.settled_stats().unwrap().tokens_encoded, 0);
    assert_eq!(stored(&mut client, &document(1)).await.name, name);
    assert!(!client.put_document(validate(&document(1))).await.unwrap().created);
    assert_eq!(refused(client.put_document(validate(&[97])).await).0, Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_field_of_a_put_is_named() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let base = || put(&document(1));
    let text = |text: &str| Some(put_document_request::Source::Text(text.to_owned()));
    let labels = |key: String, value: String| BTreeMap::from([(key, value)]);
    let many: BTreeMap<String, String> = (0..33).map(|i| (format!("k{i}"), String::new())).collect();
    let cases: Vec<(&str, v1::PutDocumentRequest)> = vec![
        ("source", v1::PutDocumentRequest { source: None, ..base() }),
        ("text", v1::PutDocumentRequest { source: text(""), ..base() }),
        ("token_ids", put(&[])),
        ("token_ids", put(&[1, 97])),
        ("display_name", v1::PutDocumentRequest { display_name: "n".repeat(1025), ..base() }),
        ("labels", v1::PutDocumentRequest { labels: many, ..base() }),
        ("labels", v1::PutDocumentRequest { labels: labels(String::new(), String::new()), ..base() }),
        ("labels", v1::PutDocumentRequest { labels: labels("k".repeat(64), String::new()), ..base() }),
        ("labels", v1::PutDocumentRequest { labels: labels("k".into(), "v".repeat(257)), ..base() }),
        ("prefill_mode", v1::PutDocumentRequest { prefill_mode: 9, ..base() }),
        ("pinned", v1::PutDocumentRequest { pinned: true, prefill_mode: PrefillMode::Lazy.into(), ..base() }),
        ("ttl", v1::PutDocumentRequest { ttl: Some(Duration::ZERO.into()), ..base() }),
    ];
    for (field, request) in cases {
        let status = client.put_document(request).await.unwrap_err();
        assert_eq!(code_and_reason(&status), invalid(), "{field}: {status:?}");
        let fields = fields(&status);
        assert!(fields.len() == 1 && fields[0].starts_with(field), "{field}: {fields:?}");
    }
    assert_eq!(listed(&mut client, v1::ListDocumentsRequest::default()).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_just_within_its_bound_is_taken() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let most = (0..32).map(|i| (format!("{i:0>63}"), "v".repeat(256))).collect();
    let request =
        v1::PutDocumentRequest { labels: most, display_name: "n".repeat(1024), ..put(&document(1)) };
    let document = client.put_document(request).await.unwrap().document.unwrap();
    assert_eq!((document.labels.len(), document.display_name.len()), (32, 1024));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_and_a_document_that_never_fits_are_refused() {
    let executor =
        FakeConfig { num_blocks: 8, block_size: BlockSize::new(16).unwrap(), ..FakeConfig::default() };
    let rig = start(Options { executor, ..Options::default() }).await;
    let mut client = rig.client().await;
    for model in ["other", "models/other"] {
        let request = v1::PutDocumentRequest { model: model.to_owned(), ..put(&document(1)) };
        let status = client.put_document(request).await.unwrap_err();
        assert_eq!(code_and_reason(&status), (Code::NotFound, "UNKNOWN_MODEL".to_owned()));
        assert!(status.get_error_details().resource_info().is_some());
    }
    for model in ["fake", "models/fake"] {
        let request = v1::PutDocumentRequest { model: model.to_owned(), ..put(&document(1)) };
        assert!(client.put_document(request).await.is_ok(), "{model}");
    }
    let status = client.put_document(put(&vec![1; 129])).await.unwrap_err();
    assert_eq!(code_and_reason(&status), (Code::InvalidArgument, "KV_NEVER_FITS".to_owned()));
    let metadata = status.get_error_details().error_info().unwrap().metadata.clone();
    assert_eq!((metadata["needed_blocks"].as_str(), metadata["total_blocks"].as_str()), ("9", "8"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_none_and_one_that_nobody_has_are_told_apart() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    for name in ["", "documents/", "documents/zz", "models/fake", "documents/../etc"] {
        assert_eq!(refused(client.get_document(name).await), invalid(), "{name:?}");
        let delete = v1::DeleteDocumentRequest { name: name.to_owned(), ..Default::default() };
        assert_eq!(refused(client.delete_document(delete).await), invalid(), "{name:?}");
        let change = update(named(name), &["display_name"]);
        assert_eq!(refused(client.update_document(change).await), invalid(), "{name:?}");
    }
    let mut stranger = stored(&mut client, &document(1)).await.name;
    let last = stranger.pop().unwrap();
    stranger.push(if last == '0' { '1' } else { '0' });
    let status = client.get_document(&stranger).await.unwrap_err();
    assert_eq!(code_and_reason(&status), unknown());
    assert_eq!(status.get_error_details().resource_info().unwrap().resource_name, stranger);
    assert_eq!(refused(client.update_document(update(named(&stranger), &["pinned"])).await), unknown());
    let delete = v1::DeleteDocumentRequest { name: stranger, ..Default::default() };
    assert_eq!(refused(client.delete_document(delete.clone()).await), unknown());
    let delete = v1::DeleteDocumentRequest { allow_missing: true, ..delete };
    client.delete_document(delete).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_the_masked_fields_and_the_etag_and_nothing_else() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let before = stored(&mut client, &document(1)).await;
    let labels = BTreeMap::from([("site".to_owned(), "north".to_owned())]);
    let values = v1::Document {
        display_name: "Harbour".to_owned(),
        labels: labels.clone(),
        pinned: true,
        ..named(&before.name)
    };
    let after = client.update_document(update(values.clone(), &["display_name", "labels"])).await.unwrap();
    let same = v1::Document {
        display_name: "Harbour".to_owned(),
        labels,
        etag: after.etag.clone(),
        ..before.clone()
    };
    assert_eq!(after, same, "pinned is not in the mask");
    assert_ne!(after.etag, before.etag);
    let pinned = client.update_document(update(values.clone(), &["pinned"])).await.unwrap();
    assert!(pinned.pinned);
    assert_eq!(client.get_document(&before.name).await.unwrap(), pinned);
    for path in ["token_count", "name", "nonsense", ""] {
        let status = client.update_document(update(values.clone(), &[path])).await.unwrap_err();
        assert_eq!(code_and_reason(&status), invalid(), "{path:?}");
        assert!(fields(&status)[0].starts_with("update_mask"), "{path:?}");
    }
    let long = v1::Document { display_name: "n".repeat(1025), ..named(&before.name) };
    let status = client.update_document(update(long, &["display_name"])).await.unwrap_err();
    assert_eq!(
        (code_and_reason(&status), fields(&status)),
        (invalid(), vec!["document.display_name".into()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_etag_stops_an_update_and_a_delete() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let before = stored(&mut client, &document(1)).await;
    let values = |etag: &str, name: &str| v1::Document {
        display_name: name.to_owned(),
        etag: etag.to_owned(),
        ..named(&before.name)
    };
    let change = update(values(&before.etag, "first"), &["display_name"]);
    let after = client.update_document(change.clone()).await.unwrap();
    let mismatch = (Code::Aborted, "ETAG_MISMATCH".to_owned());
    assert_eq!(refused(client.update_document(change).await), mismatch);
    let delete = |etag: &str| v1::DeleteDocumentRequest {
        name: before.name.clone(),
        etag: etag.to_owned(),
        force: true,
        allow_missing: true,
    };
    assert_eq!(refused(client.delete_document(delete(&before.etag)).await), mismatch);
    assert_eq!(client.get_document(&before.name).await.unwrap().display_name, "first");
    client.delete_document(delete(&after.etag)).await.unwrap();
    assert_eq!(refused(client.get_document(&before.name).await), unknown());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_in_use_is_only_deleted_by_force_and_its_request_goes_on() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let name = stored(&mut client, &document(1)).await.name;
    let mut running = client.generate(by_name(&[&name], &[7], 4000), None).await.unwrap();
    admitted(&mut running).await;
    let delete = v1::DeleteDocumentRequest { name: name.clone(), ..Default::default() };
    let in_use = (Code::FailedPrecondition, "DOCUMENT_IN_USE".to_owned());
    assert_eq!(refused(client.delete_document(delete.clone()).await), in_use);
    let forced = v1::DeleteDocumentRequest { force: true, ..delete.clone() };
    client.delete_document(forced).await.unwrap();
    assert_eq!(refused(client.get_document(&name).await), unknown());
    assert!(running.message().await.unwrap().is_some(), "the request goes on");
    drop(running);
    rig.baseline().await;
    let again = client.put_document(put(&document(1))).await.unwrap();
    assert!(again.created);
    client.delete_document(delete).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_hold_every_document_once_whatever_is_put_in_between() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let mut names = Vec::new();
    for index in 0..25 {
        names.push(stored(&mut client, &document(index)).await.name);
    }
    let (mut seen, mut page_token, mut next) = (Vec::new(), String::new(), 100);
    loop {
        let request = v1::ListDocumentsRequest { page_size: 7, page_token, ..Default::default() };
        let page = client.list_documents(request).await.unwrap();
        assert!(page.documents.len() <= 7);
        assert_eq!(page.total_size, 25 + i64::from(next - 100));
        seen.extend(page.documents.into_iter().map(|document| document.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
        if next < 104 {
            stored(&mut client, &document(next)).await;
            next += 1;
        }
    }
    assert_eq!(seen[..25], names, "in the order of their creation");
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len(), "none twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_goes_with_the_question_it_was_given_for() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    for index in 0..3 {
        stored(&mut client, &document(index)).await;
    }
    let first = v1::ListDocumentsRequest { page_size: 1, ..Default::default() };
    let token = client.list_documents(first.clone()).await.unwrap().next_page_token;
    let with = |page_token: &str| v1::ListDocumentsRequest { page_token: page_token.into(), ..first.clone() };
    assert_eq!(client.list_documents(with(&token)).await.unwrap().documents.len(), 1);
    let wrong: [(&str, v1::ListDocumentsRequest); 8] = [
        ("page_token", with("nonsense")),
        ("page_token", with(&token[1..])),
        ("page_token", v1::ListDocumentsRequest { filter: "pinned = true".into(), ..with(&token) }),
        ("page_token", v1::ListDocumentsRequest { order_by: "token_count".into(), ..with(&token) }),
        ("page_size", v1::ListDocumentsRequest { page_size: -1, ..Default::default() }),
        ("filter", v1::ListDocumentsRequest { filter: "nonsense".into(), ..Default::default() }),
        ("filter", v1::ListDocumentsRequest { filter: "pinned = maybe".into(), ..Default::default() }),
        ("order_by", v1::ListDocumentsRequest { order_by: "name".into(), ..Default::default() }),
    ];
    for (field, request) in wrong {
        let status = client.list_documents(request).await.unwrap_err();
        assert_eq!((code_and_reason(&status), fields(&status)), (invalid(), vec![field.to_owned()]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_ordered() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    for (index, name, site) in [(5, "a", "north"), (1, "b", "south"), (3, "c", "north")] {
        let labels = BTreeMap::from([("site".to_owned(), site.to_owned())]);
        let request = v1::PutDocumentRequest { display_name: name.into(), labels, ..put(&document(index)) };
        let pinned = name == "c";
        client.put_document(v1::PutDocumentRequest { pinned, ..request }).await.unwrap();
    }
    let used = client.list_documents(v1::ListDocumentsRequest::default()).await.unwrap();
    answer(&mut client, by_name(&[&used.documents[1].name], &[7], 1)).await.unwrap();
    let cases = [
        ("", "", "abc"),
        ("", "create_time desc", "cba"),
        ("", "token_count", "bca"),
        ("", "token_count desc", "acb"),
        ("", "use_count desc", "bac"),
        ("labels.site = \"north\"", "", "ac"),
        ("labels.site = \"north\" AND pinned = true", "", "c"),
        ("pinned = false", "token_count", "ba"),
        ("display_name = \"b\"", "", "b"),
        ("labels.other = \"north\"", "", ""),
    ];
    for (filter, order_by, expected) in cases {
        let request = v1::ListDocumentsRequest {
            filter: filter.to_owned(),
            order_by: order_by.to_owned(),
            ..Default::default()
        };
        assert_eq!(listed(&mut client, request).await.concat(), expected, "{filter:?} by {order_by:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_answers_every_document_in_order_and_a_bad_one_does_not_end_it() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let requests = (0..200).map(|index| if index == 77 { put(&[97]) } else { put(&document(index % 150)) });
    let requests: Vec<v1::PutDocumentRequest> = requests.collect();
    let mut answers = client.batch_put_documents(tokio_stream::iter(requests)).await.unwrap();
    let mut created = 0;
    for index in 0..200 {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.index, index);
        match answer.result.unwrap() {
            batch_put_documents_response::Result::Response(response) => {
                assert_ne!(index, 77);
                created += u32::from(response.created);
                let num_tokens = document(index % 150).len() as u32;
                assert_eq!(response.document.unwrap().token_count, num_tokens);
            }
            batch_put_documents_response::Result::Error(error) => {
                assert_eq!((index, error.code), (77, Code::InvalidArgument as i32));
                assert_eq!(error.reason, "INVALID_FIELD");
            }
        }
    }
    assert!(answers.message().await.unwrap().is_none());
    assert_eq!(created, 149);
    rig.baseline().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_its_client_leaves_open_does_not_hold_up_the_drain() {
    let mut rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let idle = tokio_stream::once(put(&document(1))).chain(tokio_stream::pending());
    let mut answers = client.batch_put_documents(idle).await.unwrap();
    let first = answers.message().await.unwrap().unwrap();
    assert!(matches!(first.result, Some(batch_put_documents_response::Result::Response(_))), "{first:?}");
    rig.drain.take().unwrap().send(()).unwrap();
    let end = timeout(PATIENCE, answers.message()).await.unwrap().unwrap_err();
    assert_eq!(code_and_reason(&end), (Code::Unavailable, "DRAINING".to_owned()));
    timeout(PATIENCE, &mut rig.serving).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_document_is_as_good_as_none() {
    let rig = start(Options { keys: Some(keys()), ..Options::default() }).await;
    let (mut red, mut blue) = (rig.client_of(Some("red-key")).await, rig.client_of(Some("blue-key")).await);
    let name = stored(&mut red, &document(1)).await.name;
    assert_eq!(refused(blue.get_document(&name).await), unknown());
    assert_eq!(refused(blue.update_document(update(named(&name), &["pinned"])).await), unknown());
    let delete = v1::DeleteDocumentRequest { name: name.clone(), force: true, ..Default::default() };
    assert_eq!(refused(blue.delete_document(delete).await), unknown());
    assert_eq!(refused(answer(&mut blue, by_name(&[&name], &[7], 1)).await), unknown());
    assert_eq!(blue.list_documents(v1::ListDocumentsRequest::default()).await.unwrap().total_size, 0);
    let own = blue.put_document(put(&document(1))).await.unwrap();
    assert!(own.created && own.prefilled_tokens > 0, "the other tenant's KV is not found");
    assert_ne!(own.document.unwrap().name, name);
    assert!(red.get_document(&name).await.is_ok());
    let mut nobody = rig.client().await;
    assert_eq!(refused(nobody.put_document(put(&document(1))).await).0, Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_forgotten_when_its_time_is_over() {
    let rig = start(Options::default()).await;
    let mut client = rig.client().await;
    let hour = Duration::from_secs(3600);
    let long = v1::PutDocumentRequest { ttl: Some(hour.into()), ..put(&document(1)) };
    let document_with_end = client.put_document(long).await.unwrap().document.unwrap();
    let Some(document_message::Expiration::ExpireTime(end)) = document_with_end.expiration else {
        panic!("{document_with_end:?}")
    };
    let created = document_with_end.create_time.unwrap();
    assert!((3599..=3601).contains(&(end.seconds - created.seconds)), "{created:?} {end:?}");
    let short = Some(document_message::Expiration::Ttl(Duration::from_millis(1).into()));
    let change = v1::Document { expiration: short, ..named(&document_with_end.name) };
    client.update_document(update(change, &["ttl"])).await.unwrap();
    let gone = eventually(&mut client, &document_with_end.name, Result::is_err).await;
    assert_eq!(refused(gone), unknown());
    let used = answer(&mut client, by_name(&[&document_with_end.name], &[7], 1)).await;
    assert_eq!(refused(used), unknown());
    assert_eq!(client.list_documents(v1::ListDocumentsRequest::default()).await.unwrap().total_size, 0);
    assert!(client.put_document(put(&document(1))).await.unwrap().created);
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_outlive_pressure_and_are_bounded() {
    let executor =
        FakeConfig { num_blocks: 16, block_size: BlockSize::new(16).unwrap(), ..FakeConfig::default() };
    let engine = EngineConfig { max_pinned_percent: 25, ..EngineConfig::default() };
    let rig = start(Options { executor, engine, ..Options::default() }).await;
    let mut client = rig.client().await;
    let pin = |seed: u32| {
        let tokens: Vec<u32> = (0..48).map(|i| (i * 5 + seed) % 97).collect();
        v1::PutDocumentRequest { pinned: true, ..put(&tokens) }
    };
    let kept = client.put_document(pin(1)).await.unwrap().document.unwrap();
    let other = stored(&mut client, &[9; 48]).await;
    for filler in 0..6 {
        stored(&mut client, &[10 + filler; 100]).await;
    }
    let residency = |document: v1::Document| (document.residency(), document.pinned);
    let found = client.get_document(&kept.name).await.unwrap();
    assert_eq!(residency(found), (KvResidency::Device, true));
    let found = client.get_document(&other.name).await.unwrap();
    assert_eq!(residency(found), (KvResidency::Evicted, false));
    // 3 of 4 blocks that may be pinned are.
    let full = (Code::ResourceExhausted, "PIN_QUOTA".to_owned());
    assert_eq!(refused(client.put_document(pin(2)).await), full);
    let stream = client.generate(by_name(&[&other.name], &[7], 2), None).await.unwrap();
    assert_eq!(collect(stream).await.unwrap().token_ids, expected(&[vec![9; 48]], &[7], 2));
    let change = v1::Document { pinned: true, ..named(&other.name) };
    assert_eq!(refused(client.update_document(update(change.clone(), &["pinned"])).await), full);
    let loose = update(named(&kept.name), &["pinned"]);
    assert!(!client.update_document(loose).await.unwrap().pinned);
    assert!(client.update_document(update(change, &["pinned"])).await.unwrap().pinned);
}
