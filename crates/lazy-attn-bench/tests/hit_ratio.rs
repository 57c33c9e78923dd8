//! Measured hit ratios beside the closed forms.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{offline, trace};
use lazy_attn_bench::RequestRecord;
use lazy_attn_bench::endpoint::Margins;
use lazy_attn_engine::{EngineConfig, EvictionPolicy};
use lazy_attn_types::KvPolicy;
use lazy_attn_workload::theory::Demand;
use lazy_attn_workload::{KvBudget, Load, Trace};

const NUM_DOCUMENTS: u32 = 100;
const PER_REQUEST: u32 = 5;
/// Two blocks.
const DOCUMENT_TOKENS: u32 = 32;
const NUM_REQUESTS: u32 = 3000;
/// Requests until a cache of 25 documents has forgotten that it was empty.
const NUM_COLD: usize = 400;

/// How far Che's approximation is off for a hundred documents: it takes the time in which a cache is filled for certain, whose
/// relative spread is about `1 / sqrt(capacity)`, and the hit ratio is flat in it to first order.
const CHE_ERROR: f64 = 0.01;

/// One client after the other, and no question text that would take blocks from documents.
fn zipf(alpha: f64) -> Trace {
    trace("hit-small", 11, |workload| {
        workload.alpha = alpha;
        workload.num_requests = NUM_REQUESTS;
        workload.load = Load::Closed { clients: 1 };
        workload.shape.num_documents = NUM_DOCUMENTS;
        workload.shape.documents_per_request = PER_REQUEST;
        workload.shape.document_tokens = DOCUMENT_TOKENS;
        workload.shape.query_tokens = 1;
        workload.shape.output_tokens = 1;
    })
}

/// The same requests with another document for each place at which a document stands.
fn per_place(trace: &Trace) -> Trace {
    let mut trace = trace.clone();
    trace.header.shape.num_documents *= PER_REQUEST;
    for request in &mut trace.requests {
        for (place, document) in request.documents.iter_mut().enumerate() {
            *document = *document * PER_REQUEST + u32::try_from(place).unwrap();
        }
    }
    trace
}

/// Hit ratio of a warm cache for `capacity` documents, and its standard error.
fn measured(trace: &Trace, capacity: u32, eviction: EvictionPolicy) -> (f64, f64) {
    let offline = offline(EngineConfig { eviction, ..EngineConfig::default() }, Margins::Ignored);
    // A block for the tail.
    let budget = KvBudget::Tokens(u64::from(capacity * DOCUMENT_TOKENS + 16));
    let played = offline.play(trace, KvPolicy::Lazy, budget, |_| ()).unwrap();
    let warm = &played.records[NUM_COLD..];
    let ratio = |records: &[RequestRecord]| {
        let sum = |tokens: fn(&RequestRecord) -> u64| records.iter().map(tokens).sum::<u64>() as f64;
        sum(RequestRecord::hit_tokens) / sum(RequestRecord::document_tokens)
    };
    // Batches of a hundred requests forget each other.
    let batches: Vec<f64> = warm.chunks(100).map(ratio).collect();
    let mean = batches.iter().sum::<f64>() / batches.len() as f64;
    let variance =
        batches.iter().map(|batch| (batch - mean).powi(2)).sum::<f64>() / (batches.len() - 1) as f64;
    (mean, (variance / batches.len() as f64).sqrt())
}

#[test]
fn of_uniform_documents_a_cache_finds_its_share() {
    for eviction in [EvictionPolicy::Lru, EvictionPolicy::CostAware] {
        let (ratio, error) = measured(&zipf(0.0), 25, eviction);
        assert!((ratio - 0.25).abs() < 4.0 * error, "{eviction:?}: {ratio} +- {error}");
    }
}

#[test]
fn the_least_recently_used_documents_go_as_che_says() {
    for (alpha, capacity) in [(0.8, 25), (1.1, 10), (1.1, 25), (2.1, 10)] {
        let expected = Demand::new(NUM_DOCUMENTS, alpha, PER_REQUEST).lru_hit_ratio(f64::from(capacity));
        let (ratio, error) = measured(&zipf(alpha), capacity, EvictionPolicy::Lru);
        assert!(
            (ratio - expected).abs() < 4.0 * error + CHE_ERROR,
            "alpha {alpha}, {capacity} documents: {ratio} +- {error}, not {expected}"
        );
    }
}

#[test]
fn eviction_by_cost_lies_between_the_least_recently_used_and_the_best() {
    for (alpha, capacity) in [(0.8, 25), (1.1, 10), (1.1, 25), (2.1, 10)] {
        let demand = Demand::new(NUM_DOCUMENTS, alpha, PER_REQUEST);
        let (worst, best) =
            (demand.lru_hit_ratio(f64::from(capacity)), demand.best_hit_ratio(f64::from(capacity)));
        let (ratio, error) = measured(&zipf(alpha), capacity, EvictionPolicy::CostAware);
        let is_between = ratio > worst - 4.0 * error - CHE_ERROR && ratio < best + 4.0 * error;
        assert!(is_between, "alpha {alpha}, {capacity} documents: {worst} < {ratio} +- {error} < {best}");
    }
}

#[test]
fn copies_per_place_find_what_a_smaller_cache_would() {
    let (alpha, capacity) = (1.1, 25);
    let demand = Demand::new(NUM_DOCUMENTS, alpha, PER_REQUEST);
    let (ratio, error) = measured(&per_place(&zipf(alpha)), capacity, EvictionPolicy::Lru);
    let expected = demand.per_place(PER_REQUEST).lru_hit_ratio(f64::from(capacity));
    assert!((ratio - expected).abs() < 4.0 * error + CHE_ERROR, "{ratio} +- {error}, not {expected}");
    let best = demand.best_hit_ratio(f64::from(capacity) / f64::from(PER_REQUEST));
    assert!(ratio < best + 4.0 * error, "{ratio} +- {error} beats the best, {best}");
    let (shared, _) = measured(&zipf(alpha), capacity, EvictionPolicy::Lru);
    assert!(shared > 1.5 * ratio, "{shared} and {ratio}");
}
