//! What is reused under each policy, and that it changes no token.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Rig, RigOptions, VOCAB_SIZE, answer, doc, expected, free, gated, read, request, text};
use lazy_attn_engine::PartOutcome::{Hit, Miss, Reencoded};
use lazy_attn_engine::{
    EncodeRequest, EngineConfig, EngineError, GenerateRequest, Part, PartContent, PartOutcome, Pin,
};
use lazy_attn_testkit::FakeConfig;
use lazy_attn_types::{
    AttentionMode, BlockSize, Capability, Exactness, ExecError, KvPolicy, SamplingParams, StoredKeys,
    TenantSalt,
};
use proptest::prelude::*;

fn rig(kv_policy: KvPolicy) -> Rig {
    free(RigOptions {
        engine: EngineConfig { kv_policy, ..EngineConfig::default() },
        ..RigOptions::default()
    })
}

fn parts(documents: [&str; 2], question: &str) -> Vec<Part> {
    documents.into_iter().map(doc).chain([text(question)]).collect()
}

/// Asks for block attention, and checks that documents were text all the same.
fn outcomes(rig: &Rig, parts: &[Part]) -> Vec<PartOutcome> {
    let reply = answer(&rig.handle, request(parts.to_vec(), 4));
    assert_eq!(reply.exactness, Exactness::Full);
    assert_eq!(reply.ids(), expected(parts, AttentionMode::Full, 4));
    reply.parts.iter().map(|part| part.outcome).collect()
}

#[test]
fn prefix_reuses_up_to_the_first_difference() {
    let rig = rig(KvPolicy::Prefix);
    let (a, b) = ("the first document", "another one, a little longer");
    assert_eq!(outcomes(&rig, &parts([a, b], "why?")), [Miss, Miss, Miss]);
    assert_eq!(outcomes(&rig, &parts([a, b], "when?")), [Hit, Hit, Miss]);
    assert_eq!(outcomes(&rig, &parts([b, a], "why?")), [Miss, Miss, Miss]);
    assert_eq!(outcomes(&rig, &parts([a, "a third"], "why?")), [Hit, Miss, Miss]);
}

#[test]
fn none_finds_nothing_and_keeps_nothing() {
    let rig = rig(KvPolicy::None);
    for _ in 0..2 {
        assert_eq!(outcomes(&rig, &parts(["a document", "and another"], "why?")), [Miss, Miss, Miss]);
    }
    let kv = rig.handle.settled_stats().unwrap().sched.kv;
    assert_eq!((kv.blocks_free, kv.hits), (kv.blocks_total, 0));
}

#[test]
fn samples_of_one_request_share_its_prompt_where_nothing_is_reused() {
    let rig = rig(KvPolicy::None);
    let parts = parts(["a document", "and another"], "why?");
    let sampling = SamplingParams { n: 3, seed: Some(1), ..SamplingParams::default() };
    let reply = answer(&rig.handle, GenerateRequest { sampling, ..request(parts.clone(), 1) });
    let expected = expected(&parts, AttentionMode::Full, 1);
    assert!(reply.samples.len() == 3 && reply.samples.iter().all(|sample| sample.ids() == expected));
    let prompt = reply.usage().prompt_tokens as usize;
    // Each sample runs the last prompt token, which opens its tail.
    assert_eq!(rig.probe.num_tokens_run(), prompt - 1 + 3);
}

#[test]
fn a_document_alone_has_no_kv_where_documents_are_text() {
    for policy in [KvPolicy::Prefix, KvPolicy::None] {
        let request = EncodeRequest {
            content: PartContent::Text("a document".into()),
            tenant: TenantSalt::SINGLE_USER,
            pin: Pin::No,
            priority: 0,
            timeout: None,
        };
        let refused = rig(policy).handle.encode(request).err();
        assert!(matches!(refused, Some(EngineError::Invalid { field, .. }) if field == "document"));
    }
}

/// An engine over a few blocks of four tokens whose steps are short.
fn tight(kv_policy: KvPolicy, num_blocks: u32, capability: Capability) -> Rig {
    let executor = FakeConfig { vocab_size: VOCAB_SIZE, num_blocks, ..FakeConfig::default() };
    gated(RigOptions {
        engine: EngineConfig { kv_policy, max_step_tokens: 24, max_running: 5, ..EngineConfig::default() },
        executor: FakeConfig { block_size: BlockSize::new(4).unwrap(), ..executor },
        capability,
        ..RigOptions::default()
    })
}

const DOCUMENTS: [&str; 4] =
    ["The pilot boat leaves at six. ", "The lamp burns oil. ", "x", "Fog is thick. "];

fn asked(order: &[usize], question: &str) -> Vec<Part> {
    order.iter().map(|&index| doc(DOCUMENTS[index])).chain([text(question)]).collect()
}

#[test]
fn reencode_finds_a_document_in_place_at_another_place_or_not_at_all() {
    let rig = rig(KvPolicy::Reencode);
    let outcomes = |order: &[usize], question: &str| {
        let parts = asked(order, question);
        let reply = answer(&rig.handle, request(parts.clone(), 4));
        assert_eq!(reply.exactness, Exactness::Block);
        assert_eq!(reply.ids(), expected(&parts, AttentionMode::Block, 4));
        let usage = reply.usage();
        let outcomes: Vec<PartOutcome> = reply.parts.iter().map(|part| part.outcome).collect();
        let count = |outcome| outcomes.iter().filter(|&&found| found == outcome).count() as u32;
        assert_eq!((usage.documents_reused, usage.documents_reencoded), (count(Hit), count(Reencoded)));
        outcomes
    };
    assert_eq!(outcomes(&[0, 1, 2], "why?"), [Miss, Miss, Miss, Miss]);
    assert_eq!(outcomes(&[0, 1, 3], "when?"), [Hit, Hit, Miss, Miss]);
    assert_eq!(outcomes(&[1, 0, 2], "who?"), [Reencoded, Reencoded, Hit, Miss]);
    // One place is the one it came to, the other a copy of that.
    assert_eq!(outcomes(&[0, 0], "how?"), [Reencoded, Reencoded, Miss]);
    let stats = rig.handle.settled_stats().unwrap();
    assert_eq!(stats.tokens_encoded, 30 + 20 + 1 + 14);
    assert_eq!(stats.tokens_reencoded, 30 + 20 + 2 * 30);
    let kv = stats.sched.kv;
    assert_eq!((kv.hits, kv.reencodes, kv.misses), (3, 4, 4 + 4));
}

#[test]
fn reencode_copy_keeps_what_it_found_at_its_place() {
    let rig = rig(KvPolicy::ReencodeCopy);
    for (order, found) in [([0, 1], Miss), ([1, 0], Reencoded), ([0, 1], Hit), ([1, 0], Hit)] {
        let parts = asked(&order, "why?");
        let reply = answer(&rig.handle, request(parts.clone(), 4));
        assert_eq!(reply.ids(), expected(&parts, AttentionMode::Block, 4));
        assert!(reply.parts[..2].iter().all(|part| part.outcome == found), "{order:?}: {:?}", reply.parts);
    }
}

#[test]
fn documents_are_read_in_part_under_lazy_only() {
    for policy in [KvPolicy::Reencode, KvPolicy::ReencodeCopy, KvPolicy::RotateKeys] {
        let exactness = Exactness::Head { num_tokens: 4 };
        let head = GenerateRequest { exactness, ..request(asked(&[0], "why?"), 1) };
        let refused = rig(policy).handle.submit(head).err();
        assert!(matches!(refused, Some(EngineError::Invalid { field, .. }) if field == "exactness"));
    }
}

#[test]
fn rotate_keys_reuses_as_lazy_does() {
    let rig = rig(KvPolicy::RotateKeys);
    for (order, found) in [([0, 1], Miss), ([1, 0], Hit)] {
        let parts = asked(&order, "why?");
        let reply = answer(&rig.handle, request(parts.clone(), 4));
        assert_eq!(reply.ids(), expected(&parts, AttentionMode::Block, 4));
        assert!(reply.parts[..2].iter().all(|part| part.outcome == found));
    }
    assert!(rig.probe.inputs().iter().all(|input| input.stored_keys == StoredKeys::Raw));
}

#[test]
fn a_document_that_is_wanted_elsewhere_while_it_is_encoded_is_copied_when_it_is_done() {
    let mut rig = tight(KvPolicy::Reencode, 200, Capability::Logits);
    let first = rig.handle.submit(request(asked(&[0], "why?"), 3)).unwrap();
    rig.gate.wait();
    let second = rig.handle.submit(request(asked(&[2, 0], "why?"), 3)).unwrap();
    rig.gate.open();
    let (first, second) = (read(first), read(second));
    assert_eq!(first.ids(), expected(&asked(&[0], "why?"), AttentionMode::Block, 3));
    assert_eq!(second.ids(), expected(&asked(&[2, 0], "why?"), AttentionMode::Block, 3));
    assert_eq!(second.parts[1].outcome, Reencoded);
    let stats = rig.handle.settled_stats().unwrap();
    assert_eq!((stats.tokens_encoded, stats.tokens_reencoded), (30 + 1, 30));
}

#[test]
fn a_copy_of_a_document_whose_reader_gave_up_is_run() {
    let mut rig = tight(KvPolicy::Reencode, 200, Capability::Logits);
    // Four steps long.
    let long = doc(&"A document of many words. ".repeat(4));
    let given_up = rig.handle.submit(request(vec![long.clone(), text("why?")], 3)).unwrap();
    rig.gate.wait();
    let parts = vec![doc("x"), long, text("why?")];
    let kept = rig.handle.submit(request(parts.clone(), 3)).unwrap();
    rig.gate.permit();
    // From now on the second request waits for what the first one runs.
    rig.gate.wait();
    drop(given_up);
    rig.gate.permit();
    rig.gate.open();
    let kept = read(kept);
    assert_eq!(kept.parts[1].outcome, Reencoded);
    assert_eq!(kept.ids(), expected(&parts, AttentionMode::Block, 3));
    let stats = rig.handle.settled_stats().unwrap();
    assert_eq!((stats.steps_failed, stats.tokens_reencoded), (0, 0));
}

#[test]
fn a_step_that_fails_while_it_moves_a_document_costs_its_request_alone() {
    for capability in [Capability::Logits, Capability::Overlaps] {
        let mut rig = tight(KvPolicy::Reencode, 200, capability);
        rig.gate.open();
        answer(&rig.handle, request(asked(&[0, 1], "why?"), 3));
        let next = rig.probe.num_steps();
        rig.probe.fail_at(next, ExecError::Failed("told to".into()));
        let failed = answer(&rig.handle, request(asked(&[1, 0], "why?"), 3));
        assert!(matches!(failed.failed, Some(EngineError::Executor(_))));
        for order in [[1, 0], [0, 1]] {
            let reply = answer(&rig.handle, request(asked(&order, "why?"), 3));
            assert_eq!(reply.ids(), expected(&asked(&order, "why?"), AttentionMode::Block, 3));
        }
    }
}

#[derive(Debug, Clone)]
struct Asked {
    order: Vec<usize>,
    question: String,
    max_tokens: u32,
}

fn any_request() -> impl Strategy<Value = Asked> {
    let order = prop::collection::vec(0..DOCUMENTS.len(), 0..4);
    (order, "[a-c]{1,6}", 1u32..30).prop_map(|(order, question, max_tokens)| Asked {
        order,
        question,
        max_tokens,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn no_policy_changes_a_token_in_a_pool_where_requests_give_way(
        requests in prop::collection::vec(any_request(), 1..9),
        policy in prop::sample::select([&KvPolicy::ALL[..], &[KvPolicy::ReencodeCopy]].concat()),
        capability in prop::sample::select(&[Capability::Logits, Capability::Overlaps][..]),
    ) {
        let mut rig = tight(policy, 45, capability);
        let parts: Vec<_> = requests.iter().map(|asked| self::asked(&asked.order, &asked.question)).collect();
        let streams: Vec<_> = parts.iter().zip(&requests).map(|(parts, asked)| {
            rig.handle.submit(request(parts.clone(), asked.max_tokens)).unwrap()
        }).collect();
        rig.gate.open();
        let mode = if policy.inlines_documents() { AttentionMode::Full } else { AttentionMode::Block };
        for ((stream, parts), asked) in streams.into_iter().zip(&parts).zip(&requests) {
            prop_assert_eq!(read(stream).ids(), expected(parts, mode, asked.max_tokens));
        }
        let stats = rig.handle.settled_stats().unwrap();
        prop_assert_eq!((stats.steps_failed, stats.sched.kv.blocks_leased), (0, 0));
    }
}
