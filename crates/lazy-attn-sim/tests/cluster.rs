//! Simulated clusters do what can be computed by hand, and what reuse promises.

#![allow(clippy::unwrap_used, reason = "tests")]

use lazy_attn_sim::{ClusterConfig, Figures, Routing, SimError, Target, simulate, sustained_rate};
use lazy_attn_types::cost::{StepSize, visible_pairs};
use lazy_attn_types::{CostModel, KvPolicy};
use lazy_attn_workload::theory::Demand;
use lazy_attn_workload::{KvBudget, Load, Shape, Trace, Workload};

fn workload(num_documents: u32, num_requests: u32, load: Load) -> Workload {
    let shape = Shape {
        num_documents,
        document_tokens: 512,
        documents_per_request: 4,
        query_tokens: 32,
        output_tokens: 16,
    };
    let (name, kv_budget) = ("test".to_owned(), KvBudget::All);
    Workload { name, shape, alpha: 1.1, num_requests, load, kv_budget }
}

/// A store of `documents` documents and what a few requests need beside them.
fn config(policy: KvPolicy, documents: u32) -> ClusterConfig {
    ClusterConfig {
        policy,
        num_blocks: documents * 32 + 16 * 8,
        max_running: 16,
        ..ClusterConfig::llama_8b_on_one_h100()
    }
}

fn run(workload: &Workload, config: &ClusterConfig) -> Figures {
    simulate(&Trace::generate(workload, 3).unwrap(), config).unwrap()
}

#[test]
fn a_request_alone_takes_the_sum_of_its_steps() {
    let one = workload(4, 1, Load::Closed { clients: 1 });
    let figures = run(&one, &ClusterConfig { max_step_tokens: 4096, ..config(KvPolicy::Lazy, 8) });
    let cost = CostModel::measured_llama_8b_on_h100();
    // All four documents, the question and its last token run in the first step.
    let documents = 4.0 * visible_pairs(512, 0, 0.0);
    let question = visible_pairs(31, 0, 2048.0) + visible_pairs(1, 0, 2079.0);
    let first = StepSize {
        tokens: 2080.0,
        rows: 1.0,
        kv_tokens: 2080.0,
        token_keys: documents + question,
        copied_tokens: 0.0,
    };
    let ttft_ms = cost.time(&first).as_secs_f64() * 1e3;
    // Moments are whole microseconds.
    assert!((figures.ttft_ms.p50 - ttft_ms).abs() < 0.002, "{} is not {ttft_ms}", figures.ttft_ms.p50);
    assert_eq!(figures.num_steps, 16);
    let decodes: f64 = (1..16)
        .map(|at| {
            let keys = f64::from(2080 + at);
            let step =
                StepSize { tokens: 1.0, rows: 1.0, kv_tokens: keys, token_keys: keys, copied_tokens: 0.0 };
            cost.time(&step).as_secs_f64() * 1e3
        })
        .sum();
    assert!((figures.tpot_ms.p50 - decodes / 15.0).abs() < 0.002);
    assert!((figures.busy - 1.0).abs() < 1e-3);
}

#[test]
fn every_request_ends_under_every_policy_routing_and_load() {
    for load in [Load::Closed { clients: 24 }, Load::Open { rate_per_second: 40.0 }] {
        let workload = workload(50, 60, load);
        for routing in Routing::ALL {
            for policy in KvPolicy::ALL {
                let config = ClusterConfig { num_workers: 3, routing, num_warmup: 20, ..config(policy, 12) };
                let figures = run(&workload, &config);
                assert_eq!(figures.num_requests, 40, "{policy} {routing}");
                assert!(figures.busy > 0.0 && figures.busy <= 1.0, "{figures:?}");
                assert_eq!(run(&workload, &config), figures, "the same calls give the same figures");
            }
        }
    }
}

#[test]
fn reuse_at_any_place_is_faster_than_behind_equal_beginnings_and_that_than_none() {
    let workload = workload(40, 400, Load::Closed { clients: 8 });
    let [lazy, copying, rotating, prefix, none] =
        KvPolicy::ALL.map(|policy| run(&workload, &ClusterConfig { num_warmup: 100, ..config(policy, 40) }));
    assert!(lazy.document_hit_ratio > 0.95 && none.document_hit_ratio == 0.0);
    assert!(prefix.document_hit_ratio > 0.02 && prefix.document_hit_ratio < 0.6);
    assert!(lazy.requests_per_second > copying.requests_per_second);
    let order = [&lazy, &rotating, &prefix, &none].map(|figures| figures.requests_per_second);
    assert!(order.is_sorted_by(|a, b| a >= b), "{order:?}");
    assert!(lazy.requests_per_second > 3.0 * none.requests_per_second);
}

#[test]
fn homes_make_one_cache_of_four_where_a_request_takes_one_document() {
    let base = workload(200, 3000, Load::Closed { clients: 32 });
    let workload = Workload { shape: Shape { documents_per_request: 1, ..base.shape }, ..base };
    let hits = |routing| {
        let config =
            ClusterConfig { num_workers: 4, routing, num_warmup: 1000, ..config(KvPolicy::Lazy, 24) };
        run(&workload, &config).document_hit_ratio
    };
    let (turns, affinity) = (hits(Routing::RoundRobin), hits(Routing::Affinity));
    let demand = Demand::new(200, workload.alpha, 1);
    let gain = demand.best_hit_ratio(4.0 * 24.0) - demand.best_hit_ratio(24.0);
    println!("{turns:.3} in turns, {affinity:.3} with homes; four caches as one are worth {gain:.3}");
    // What spills over for the load's sake, and what runs outside of the cache, costs less than half of it.
    assert!(affinity > turns + 0.5 * gain, "{affinity} with homes, {turns} in turns, of {gain}");
}

#[test]
fn a_sustained_rate_keeps_its_target_and_more_is_too_much() {
    let workload = workload(40, 300, Load::Closed { clients: 1 });
    let config = ClusterConfig { num_warmup: 50, ..config(KvPolicy::None, 40) };
    let target = Target { ttft_p99_ms: 250.0, num_trials: 5 };
    let (rate, figures) = sustained_rate(&workload, &config, target, 3).unwrap().unwrap();
    assert!(figures.ttft_ms.p99 <= 250.0, "{figures}");
    let over = Workload { load: Load::Open { rate_per_second: 2.0 * rate }, ..workload.clone() };
    assert!(run(&over, &config).ttft_ms.p99 > 250.0);
    let hopeless = Target { ttft_p99_ms: 1.0, ..target };
    assert_eq!(sustained_rate(&workload, &config, hopeless, 3).unwrap(), None);
}

#[test]
fn what_cannot_be_simulated_is_refused_by_field() {
    let trace = Trace::generate(&workload(40, 10, Load::Closed { clients: 1 }), 3).unwrap();
    let refused = |change: fn(&mut ClusterConfig)| {
        let mut config = config(KvPolicy::Lazy, 40);
        change(&mut config);
        simulate(&trace, &config).unwrap_err()
    };
    assert!(matches!(refused(|c| c.num_workers = 0), SimError::Param { field: "num_workers", .. }));
    assert!(matches!(refused(|c| c.num_warmup = 10), SimError::Param { field: "num_warmup", .. }));
    assert!(matches!(refused(|c| c.max_step_tokens = 16), SimError::Sched(_)));
    assert!(matches!(refused(|c| c.num_blocks = 8), SimError::Sched(_)));
}
