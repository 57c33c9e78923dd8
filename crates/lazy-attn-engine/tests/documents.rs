//! Documents outside a request: names, residency, encoding, pinning, watching.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, not only the tests themselves

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::{Reply, Rig, RigOptions, answer, doc, expected, free, gated, read, request, text};
use lazy_attn_engine::{
    DocumentResidency, EncodeRequest, EngineConfig, EngineError, Part, PartContent, PartOutcome, Pin,
};
use lazy_attn_kv::KvEvent;
use lazy_attn_testkit::FakeConfig;
use lazy_attn_types::{AttentionMode, BlockSize, SegmentKey, TenantSalt};

const TEXT: &str = "a document of more than one block, which is sixteen tokens";

fn content(text: &str) -> PartContent {
    PartContent::Text(text.into())
}

fn encode_request(text: &str, pin: Pin) -> EncodeRequest {
    let tenant = TenantSalt::SINGLE_USER;
    EncodeRequest { content: content(text), tenant, pin, priority: 0, timeout: None }
}

fn encode(rig: &Rig, text: &str, pin: Pin) -> Reply {
    read(rig.handle.encode(encode_request(text, pin)).unwrap())
}

fn key(rig: &Rig, text: &str) -> SegmentKey {
    rig.handle.document(&content(text), TenantSalt::SINGLE_USER).unwrap().key
}

fn residency(rig: &Rig, text: &str) -> DocumentResidency {
    rig.handle.residency(vec![key(rig, text)]).unwrap()[0]
}

/// 8 blocks of 16 tokens.
fn small_pool() -> RigOptions {
    let defaults = RigOptions::default();
    let executor = FakeConfig { num_blocks: 8, block_size: BlockSize::new(16).unwrap(), ..defaults.executor };
    RigOptions { executor, ..defaults }
}

#[test]
fn an_encoded_document_is_a_hit_for_the_request_that_names_it() {
    let rig = free(RigOptions::default());
    assert_eq!(residency(&rig, TEXT), DocumentResidency::Absent);
    let num_tokens = TEXT.len() as u32;
    let usage = encode(&rig, TEXT, Pin::No).usage();
    assert_eq!(
        (usage.prompt_tokens, usage.computed_prompt_tokens, usage.completion_tokens),
        (num_tokens, num_tokens, 0)
    );
    assert_eq!(usage.cache_creation_tokens, num_tokens);
    assert_eq!(residency(&rig, TEXT), DocumentResidency::Resident { num_users: 0 });
    let run = rig.probe.num_tokens_run();
    assert_eq!(run, num_tokens as usize, "nothing but the document is run");
    let again = encode(&rig, TEXT, Pin::No).usage();
    assert_eq!((again.computed_prompt_tokens, again.cached_prompt_tokens), (0, num_tokens));
    assert_eq!(rig.probe.num_tokens_run(), run, "a resident document costs nothing");
    let parts = vec![doc(TEXT), text("Why?")];
    let reply = answer(&rig.handle, request(parts.clone(), 3));
    assert_eq!(reply.ids(), expected(&parts, AttentionMode::Block, 3));
    assert_eq!(reply.parts[0].outcome, PartOutcome::Hit);
    assert_eq!(reply.parts[0].document_key, key(&rig, TEXT).to_hex());
}

#[test]
fn a_request_joins_a_document_being_encoded_and_the_other_way_round() {
    for generates_first in [false, true] {
        let mut options = RigOptions::default();
        options.engine.max_step_tokens = 65;
        let mut rig = gated(options);
        let long = TEXT.repeat(4);
        let parts = vec![doc(&long), text("Why?")];
        let (encoding, answering) = if generates_first {
            let answering = rig.handle.submit(request(parts.clone(), 3)).unwrap();
            rig.gate.wait();
            (rig.handle.encode(encode_request(&long, Pin::No)).unwrap(), answering)
        } else {
            let encoding = rig.handle.encode(encode_request(&long, Pin::No)).unwrap();
            rig.gate.wait();
            (encoding, rig.handle.submit(request(parts.clone(), 3)).unwrap())
        };
        rig.gate.open();
        let encoded = read(encoding);
        assert!(encoded.done.is_some(), "{encoded:?}");
        assert_eq!(read(answering).ids(), expected(&parts, AttentionMode::Block, 3));
        let stats = rig.handle.settled_stats().unwrap();
        assert_eq!((stats.tokens_encoded, stats.sched.kv.joins), (long.len() as u64, 1));
        assert_eq!((stats.requests_done, stats.sched.running, stats.sched.kv.blocks_leased), (2, 0, 0));
    }
}

#[test]
fn giving_up_on_an_encode_leaves_the_document_to_those_who_joined() {
    let mut options = RigOptions::default();
    options.engine.max_step_tokens = 65;
    let mut rig = gated(options);
    let long = TEXT.repeat(4);
    let leader = rig.handle.encode(encode_request(&long, Pin::No)).unwrap();
    rig.gate.wait();
    let follower = rig.handle.encode(encode_request(&long, Pin::No)).unwrap();
    rig.gate.permit();
    rig.gate.wait();
    drop(leader);
    rig.gate.open();
    assert!(read(follower).done.is_some());
    assert_eq!(residency(&rig, &long), DocumentResidency::Resident { num_users: 0 });
    assert_eq!(rig.handle.settled_stats().unwrap().requests_cancelled, 1);
}

#[test]
fn a_pinned_document_outlives_what_evicts_the_others() {
    let rig = free(small_pool());
    let (pinned, other) = ("p".repeat(40), "o".repeat(40));
    encode(&rig, &pinned, Pin::Yes);
    encode(&rig, &other, Pin::No);
    for filler in ["x", "y", "z"] {
        encode(&rig, &filler.repeat(60), Pin::No);
    }
    assert_eq!(residency(&rig, &pinned), DocumentResidency::Resident { num_users: 0 });
    assert_eq!(residency(&rig, &other), DocumentResidency::Absent);
    rig.handle.unpin(key(&rig, &pinned)).unwrap();
    for filler in ["x", "y", "z", "v", "w"] {
        encode(&rig, &filler.repeat(60), Pin::No);
    }
    assert_eq!(
        residency(&rig, &pinned),
        DocumentResidency::Absent,
        "an unpinned one is evicted like any other"
    );
}

#[test]
fn pins_are_bounded_and_need_a_resident_document() {
    let rig = free(small_pool());
    assert_eq!(rig.handle.pin(key(&rig, "absent")), Err(EngineError::NotResident));
    encode(&rig, &"p".repeat(40), Pin::Yes);
    encode(&rig, &"q".repeat(40), Pin::No);
    let bound = EngineError::PinBound { needed_blocks: 3, pinned_blocks: 3, max_blocks: 4 };
    assert_eq!(rig.handle.pin(key(&rig, &"q".repeat(40))), Err(bound.clone()));
    let refused = encode(&rig, &"r".repeat(40), Pin::Yes);
    assert_eq!(refused.failed, Some(bound));
    // What pins leave must still be refused with the numbers when it cannot hold a request.
    let reply = answer(&rig.handle, request(vec![doc(&"s".repeat(80)), text("Why?")], 1));
    assert_eq!(reply.failed, Some(EngineError::NeverFits { needed_blocks: 7, total_blocks: 5 }));
}

#[test]
fn counting_tells_what_generating_would_find_and_changes_nothing() {
    let rig = free(RigOptions::default());
    encode(&rig, TEXT, Pin::No);
    let before = rig.handle.settled_stats().unwrap();
    let parts = vec![text("Rules."), doc(TEXT), doc("another one"), text("Why?")];
    let count = rig.handle.count(request(parts.clone(), 3)).unwrap();
    assert_eq!(rig.handle.settled_stats().unwrap(), before);
    let reply = answer(&rig.handle, request(parts.clone(), 3));
    assert_eq!(count.parts, reply.parts);
    let usage = reply.usage();
    assert_eq!(
        (count.prompt_tokens, count.cached_prompt_tokens),
        (usage.prompt_tokens, usage.cached_prompt_tokens)
    );
    let bypass = lazy_attn_engine::CacheUse::Bypass;
    let count = rig.handle.count(lazy_attn_engine::GenerateRequest { cache: bypass, ..request(parts, 3) });
    assert!(count.unwrap().parts.iter().all(|part| part.outcome == PartOutcome::Miss));
}

#[test]
fn a_document_that_is_empty_or_too_large_is_refused_with_its_field_and_numbers() {
    let rig = free(small_pool());
    for field in [rig.handle.encode(encode_request("", Pin::No)).map(|_| ()), {
        rig.handle.document(&content(""), TenantSalt::SINGLE_USER).map(|_| ())
    }] {
        let message = field.unwrap_err().to_string();
        assert!(message.starts_with("document: the document is empty"), "{message}");
    }
    let error = rig.handle.encode(encode_request(&"l".repeat(129), Pin::No)).unwrap_err();
    assert_eq!(error, EngineError::NeverFits { needed_blocks: 9, total_blocks: 8 });
    let info = rig.handle.document(&content(&"l".repeat(17)), TenantSalt::SINGLE_USER).unwrap();
    assert_eq!((info.num_blocks, info.tokens.len()), (2, 17));
}

#[test]
fn an_encode_waits_its_turn_and_ends_with_its_deadline() {
    let engine = EngineConfig { max_running: 1, ..EngineConfig::default() };
    let mut rig = gated(RigOptions { engine, ..RigOptions::default() });
    let running = rig.handle.submit(request(vec![text("One?")], 9)).unwrap();
    rig.gate.wait();
    let timeout = Some(Duration::from_millis(5));
    let late = rig.handle.encode(EncodeRequest { timeout, ..encode_request(TEXT, Pin::Yes) }).unwrap();
    rig.clock.advance(20_000);
    rig.gate.open();
    assert_eq!(read(late).failed, Some(EngineError::DeadlineExceeded { late: Duration::from_millis(15) }));
    assert_eq!(read(running).ids().len(), 9);
}

#[test]
fn a_watch_adds_up_to_what_is_resident() {
    let rig = free(small_pool());
    encode(&rig, &"a".repeat(40), Pin::No);
    let mut watch = rig.handle.watch_kv().unwrap();
    let mut mirror: HashMap<SegmentKey, u32> = watch.resident.iter().copied().collect();
    assert_eq!(mirror, HashMap::from([(key(&rig, &"a".repeat(40)), 40)]));
    for filler in ["b", "c", "d", "e"] {
        let parts: Vec<Part> = vec![doc(&filler.repeat(40)), text("And why?")];
        answer(&rig.handle, request(parts, 2));
    }
    let settled = rig.handle.watch_kv().unwrap();
    let mut sequence = watch.sequence;
    while sequence < settled.sequence {
        let change = watch.changes.try_recv().unwrap();
        sequence += 1;
        assert_eq!(change.sequence, sequence, "no change is left out");
        match change.event {
            KvEvent::Stored { key, num_tokens } => assert_eq!(mirror.insert(key, num_tokens), None),
            KvEvent::Evicted { key, num_tokens } => assert_eq!(mirror.remove(&key), Some(num_tokens)),
        };
    }
    assert_eq!(mirror, settled.resident.into_iter().collect());
    assert!(!mirror.contains_key(&key(&rig, &"a".repeat(40))), "the pool is small enough to evict");
}
