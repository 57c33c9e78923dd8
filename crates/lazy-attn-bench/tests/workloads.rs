//! Every small workload under every policy that the executor can run.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{offline, trace};
use lazy_attn_bench::endpoint::Margins;
use lazy_attn_bench::{Agreement, Contender, Offline, Played, RequestRecord, RunFigures};
use lazy_attn_engine::EngineConfig;
use lazy_attn_types::{KvPolicy, SharedReads};
use lazy_attn_workload::workload::SMALL;
use lazy_attn_workload::{KvBudget, Load, Trace, Workload};

/// The workload with few requests, which are sent at once where they would wait for their time.
fn short(name: &str) -> (Trace, KvBudget) {
    let budget = Workload::named(name).unwrap().kv_budget;
    let short = trace(name, 7, |workload| {
        workload.num_requests = 24;
        workload.shape.output_tokens = workload.shape.output_tokens.min(16);
        if let Load::Open { .. } = workload.load {
            workload.load = Load::Open { rate_per_second: 1000.0 };
        }
    });
    (short, budget)
}

/// Under all policies, the one beside them, and without reading documents for several.
fn play_all(offline: &Offline, name: &str) -> Vec<Played> {
    let (trace, budget) = short(name);
    let once = KvPolicy::ALL.into_iter().chain([KvPolicy::ReencodeCopy]).map(Contender::from);
    let apart =
        [KvPolicy::Lazy, KvPolicy::Prefix].map(|policy| Contender { policy, reads: SharedReads::Apart });
    let contenders = once.chain(apart).filter(|contender| offline.can_play(contender.policy));
    contenders.map(|contender| offline.play(&trace, contender, budget, |_| ()).unwrap()).collect()
}

/// The same tokens, up to where a choice was close.
fn check_same(name: &str, one: &Played, other: &Played) {
    for (a, b) in one.records.iter().zip(&other.records) {
        assert_eq!(a.num_output_tokens(), b.num_output_tokens());
    }
    let agreement = Agreement::between(one, other);
    assert!(agreement.holds(), "{name}: {agreement:?}");
}

#[test]
fn every_policy_finishes_every_small_workload_and_policies_of_one_mathematics_agree() {
    let offline = offline(EngineConfig::default(), Margins::Noted);
    for name in Workload::names().filter(|name| name.ends_with(SMALL)) {
        let played = play_all(&offline, &name);
        let of = |policy: KvPolicy| played.iter().find(|played| played.contender == policy.into());
        assert!(
            of(KvPolicy::Lazy).is_some() && of(KvPolicy::Prefix).is_some() && of(KvPolicy::None).is_some()
        );
        for run in &played {
            let wanted = short(&name).0.header.shape.output_tokens as usize;
            assert!(
                run.records.iter().all(|record| record.num_output_tokens() == wanted),
                "{name} {}",
                run.contender
            );
            let base = if run.contender.policy.inlines_documents() { KvPolicy::None } else { KvPolicy::Lazy };
            check_same(&name, of(base).unwrap(), run);
        }
    }
}

#[test]
fn reuse_is_what_each_policy_can_have() {
    let offline = offline(EngineConfig::default(), Margins::Ignored);
    let hit_ratio = |policy| {
        let (trace, _) = short("reorder-small");
        let played = common::played(&offline, &trace, policy);
        RunFigures::of_engine(&played, &trace).hit_ratio
    };
    let (lazy, prefix, none) =
        (hit_ratio(KvPolicy::Lazy), hit_ratio(KvPolicy::Prefix), hit_ratio(KvPolicy::None));
    // The five documents are computed once, by the first of 24 requests.
    assert!((lazy - 23.0 / 24.0).abs() < 1e-12, "{lazy}");
    assert!(none == 0.0 && none < prefix && prefix < 0.5, "{prefix} {none}");
}

#[test]
fn a_shared_document_is_held_once() {
    let offline = offline(EngineConfig::default(), Margins::Ignored);
    let (trace, _) = short("shared-small");
    let lazy = RunFigures::of_engine(&common::played(&offline, &trace, KvPolicy::Lazy), &trace);
    let engine = lazy.engine.unwrap();
    let sharing = engine.shared_kv_factor.unwrap();
    assert!(
        sharing > 12.0 && engine.largest_document_group == 24,
        "{sharing} {}",
        engine.largest_document_group
    );
    // One document, and for each of 24 requests a tail of 17 tokens in two blocks.
    let held = u64::from(1024 / 16 + 24 * 2u32) * 16 * offline.executor.info().kv_bytes_per_token;
    assert!(engine.peak_kv_bytes <= held, "{} of {held}", engine.peak_kv_bytes);
}

#[test]
fn a_request_that_cannot_fit_is_an_error_and_not_a_figure() {
    let offline = offline(EngineConfig::default(), Margins::Ignored);
    let (trace, _) = short("hit-small");
    let error = offline.play(&trace, KvPolicy::Lazy, KvBudget::Tokens(64), |_| ()).unwrap_err();
    assert!(error.to_string().starts_with("24 of 24 requests failed"), "{error}");
}

#[test]
fn a_run_is_the_same_requests_for_everybody() {
    let offline = offline(EngineConfig::default(), Margins::Ignored);
    let (trace, _) = short("hit-small");
    let prompts = |policy| {
        let records: Vec<RequestRecord> = common::played(&offline, &trace, policy).records;
        records.into_iter().map(|record| record.prompt_tokens).collect::<Vec<_>>()
    };
    assert_eq!(prompts(KvPolicy::Lazy), prompts(KvPolicy::None));
}
