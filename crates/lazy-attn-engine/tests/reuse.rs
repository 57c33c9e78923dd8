//! Documents are computed once and reused at any place, and the numbers say so.

mod common;

use common::{Reply, RigOptions, answer, doc, expected, free, gated, read, request, text};
use lazy_attn_engine::PartOutcome::{Hit, Joined, Miss};
use lazy_attn_engine::{CacheUse, EngineConfig, GenerateRequest, Part, PartOutcome, Usage};
use lazy_attn_types::{AttentionMode, SamplingParams, TenantSalt};

fn documents() -> [Part; 3] {
    [doc("The pilot boat leaves at six. "), doc("The lamp burns oil. "), doc("x")]
}

fn asked(order: [usize; 3]) -> Vec<Part> {
    let all = documents();
    let documents = order.map(|index| all[index].clone());
    documents.into_iter().chain([text("When?")]).collect()
}

fn outcomes(reply: &Reply) -> Vec<PartOutcome> {
    reply.parts.iter().map(|part| part.outcome).collect()
}

#[test]
fn permuted_documents_are_reused_in_every_order() {
    let rig = free(RigOptions::default());
    let first = answer(&rig.handle, request(asked([0, 1, 2]), 4));
    let num_document_tokens = 30 + 20 + 1;
    let nothing_reused = Usage {
        prompt_tokens: num_document_tokens + 5,
        cached_prompt_tokens: 0,
        computed_prompt_tokens: num_document_tokens + 5,
        // The last prompt token opens the tail, which nobody else can use.
        recomputed_tokens: 0,
        cache_creation_tokens: num_document_tokens + 4,
        completion_tokens: 4,
        documents_total: 3,
        documents_reused: 0,
        documents_reencoded: 0,
        preemptions: 0,
    };
    assert_eq!((first.usage(), outcomes(&first)), (nothing_reused, vec![Miss; 4]));
    let encoded = rig.handle.settled_stats().unwrap().tokens_encoded;
    for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let reply = answer(&rig.handle, request(asked(order), 4));
        let reused = Usage {
            cached_prompt_tokens: num_document_tokens,
            computed_prompt_tokens: 5,
            cache_creation_tokens: 4,
            documents_reused: 3,
            ..nothing_reused
        };
        assert_eq!((reply.usage(), outcomes(&reply)), (reused, vec![Hit, Hit, Hit, Miss]));
        assert_eq!(reply.ids(), expected(&asked(order), AttentionMode::Block, 4));
        let mut keys: Vec<&str> = reply.parts.iter().map(|part| part.document_key.as_str()).collect();
        let mut first_keys: Vec<&str> = first.parts.iter().map(|part| part.document_key.as_str()).collect();
        keys.sort_unstable();
        first_keys.sort_unstable();
        assert_eq!(keys, first_keys, "a key says nothing of the place");
    }
    assert_eq!(rig.handle.settled_stats().unwrap().tokens_encoded, encoded, "nothing was encoded again");
}

#[test]
fn a_document_two_requests_need_is_encoded_once_and_the_second_joins() {
    let engine = EngineConfig { max_step_tokens: 8, max_running: 4, ..EngineConfig::default() };
    let mut rig = gated(RigOptions { engine, ..RigOptions::default() });
    let parts = |question: &str| vec![documents()[0].clone(), text(question)];
    let first = rig.handle.submit(request(parts("When?"), 3)).unwrap();
    rig.gate.wait();
    let second = rig.handle.submit(request(parts("Where does it go?"), 3)).unwrap();
    rig.gate.open();
    let (first, second) = (read(first), read(second));
    assert_eq!((outcomes(&first), outcomes(&second)), (vec![Miss, Miss], vec![Joined, Miss]));
    assert_eq!((first.usage().cached_prompt_tokens, second.usage().cached_prompt_tokens), (0, 30));
    assert_eq!(rig.handle.settled_stats().unwrap().tokens_encoded, 30);
    assert_eq!(second.ids(), expected(&parts("Where does it go?"), AttentionMode::Block, 3));
}

#[test]
fn samples_share_documents_and_prompt_and_differ_by_their_seed() {
    let rig = free(RigOptions::default());
    let base = request(asked([0, 1, 2]), 12);
    let sampling = SamplingParams { n: 3, temperature: 1.0, seed: Some(7), ..SamplingParams::default() };
    let reply = answer(&rig.handle, GenerateRequest { sampling: sampling.clone(), ..base.clone() });
    let usage = reply.usage();
    assert_eq!((usage.completion_tokens, usage.computed_prompt_tokens), (36, usage.prompt_tokens));
    // 55 tokens of segments once, and 12 rows of each of 3 samples.
    assert_eq!(rig.probe.num_tokens_run(), 55 + 3 * 12);
    assert_ne!(reply.samples[0].ids(), reply.samples[1].ids());
    // Sample i of seed s is the only sample of seed s + i.
    for (index, sample) in (0u64..).zip(&reply.samples) {
        let alone = SamplingParams { n: 1, seed: Some(7 + index), ..sampling.clone() };
        let alone = answer(&rig.handle, GenerateRequest { sampling: alone, ..base.clone() });
        assert_eq!(alone.ids(), sample.ids());
    }
}

#[test]
fn a_request_without_a_seed_gets_one_that_reproduces_it() {
    let rig = free(RigOptions::default());
    let base = request(asked([0, 1, 2]), 12);
    let unseeded = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
    let first = answer(&rig.handle, GenerateRequest { sampling: unseeded.clone(), ..base.clone() });
    let other = answer(&rig.handle, GenerateRequest { sampling: unseeded.clone(), ..base.clone() });
    assert_ne!(first.seed, other.seed);
    let seeded = SamplingParams { seed: first.seed, ..unseeded };
    let again = answer(&rig.handle, GenerateRequest { sampling: seeded, ..base });
    assert_eq!(again.ids(), first.ids());
}

#[test]
fn tenants_never_share_a_document() {
    let rig = free(RigOptions::default());
    let of = |tenant| GenerateRequest { tenant: TenantSalt([tenant; 32]), ..request(asked([0, 1, 2]), 2) };
    answer(&rig.handle, of(1));
    assert_eq!(outcomes(&answer(&rig.handle, of(2))), [Miss; 4]);
    assert_eq!(outcomes(&answer(&rig.handle, of(1))), [Hit; 4]);
}

#[test]
fn a_bypassing_request_computes_everything_and_keeps_nothing() {
    let rig = free(RigOptions::default());
    answer(&rig.handle, request(asked([0, 1, 2]), 2));
    let before = rig.handle.settled_stats().unwrap().sched.kv;
    let bypass = GenerateRequest { cache: CacheUse::Bypass, ..request(asked([2, 1, 0]), 2) };
    let reply = answer(&rig.handle, bypass);
    assert_eq!(outcomes(&reply), [Miss; 4]);
    assert_eq!(reply.usage().cached_prompt_tokens, 0);
    let after = rig.handle.settled_stats().unwrap().sched.kv;
    assert_eq!((after.blocks_cached, after.blocks_free), (before.blocks_cached, before.blocks_free));
}

#[test]
fn full_mode_reuses_a_prefix_and_nothing_behind_the_first_difference() {
    let rig = free(RigOptions::default());
    let full = |order| GenerateRequest { exactness: AttentionMode::Full.into(), ..request(asked(order), 4) };
    answer(&rig.handle, full([0, 1, 2]));
    assert_eq!(outcomes(&answer(&rig.handle, full([0, 1, 2]))), [Hit; 4]);
    let other = answer(&rig.handle, full([0, 2, 1]));
    assert_eq!(other.usage().recomputed_tokens, 51, "every token of a document");
    assert_eq!(outcomes(&other), [Hit, Miss, Miss, Miss]);
    assert!(
        other.parts.iter().all(|part| part.document_key.is_empty()),
        "there are no documents in full mode"
    );
    assert_eq!(other.ids(), expected(&asked([0, 2, 1]), AttentionMode::Full, 4));
}
