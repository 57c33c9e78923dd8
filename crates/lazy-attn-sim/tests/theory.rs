//! The KV store against what caches of its size can hold, over a million documents.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use lazy_attn_kv::{
    EvictionPolicy, FillState, KvCache, KvConfig, RecomputeCost, ReserveRequest, Scope, SegmentNeed,
};
use lazy_attn_types::{BlockSize, SegmentKey, SegmentKind, Timestamp};
use lazy_attn_workload::theory::Demand;
use lazy_attn_workload::{KvBudget, Load, Shape, Trace, Workload};

const NUM_DOCUMENTS: u32 = 1_000_000;
const PER_REQUEST: u32 = 5;
const NUM_BATCHES: usize = 20;
const BATCH_REQUESTS: usize = 300;

fn trace(alpha: f64, num_requests: usize) -> Trace {
    let shape = Shape {
        num_documents: NUM_DOCUMENTS,
        document_tokens: 16,
        documents_per_request: PER_REQUEST,
        query_tokens: 1,
        output_tokens: 1,
    };
    let workload = Workload {
        name: "theory".into(),
        shape,
        alpha,
        num_requests: num_requests as u32,
        load: Load::Closed { clients: 1 },
        kv_budget: KvBudget::All,
    };
    Trace::generate(&workload, 5).unwrap()
}

/// A document of one block.
fn need(document: u32) -> SegmentNeed {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&document.to_le_bytes());
    SegmentNeed {
        scope: Scope::Shared,
        key: SegmentKey::from_bytes(bytes),
        place: None,
        kind: SegmentKind::Document,
        num_tokens: 16,
        cost: RecomputeCost::of_prefill(16, 0),
    }
}

/// Hit ratio of a store of `capacity` documents, and its standard error from the means of batches, which knows that requests
/// behind one another find the same documents.
fn measured(policy: EvictionPolicy, alpha: f64, capacity: u32) -> (f64, f64) {
    let num_warmup = 30 * capacity as usize / PER_REQUEST as usize;
    let trace = trace(alpha, num_warmup + NUM_BATCHES * BATCH_REQUESTS);
    let mut cache = KvCache::new(KvConfig {
        num_blocks: capacity,
        block_size: BlockSize::DEFAULT,
        kv_bytes_per_token: 1,
        max_pinned_blocks: 0,
        policy,
    });
    let mut ratios = Vec::new();
    let mut hits_before = 0;
    for (index, request) in trace.requests.iter().enumerate() {
        let now = Timestamp(index as u64);
        let needs: Vec<SegmentNeed> = request.documents.iter().map(|&document| need(document)).collect();
        let reserved = cache.reserve(&ReserveRequest { segments: &needs, tail_tokens: 0 }, now).unwrap();
        for segment in reserved.segments {
            let handle = segment.reference.handle();
            if cache.state(handle) != FillState::Complete {
                cache.mark_computed(handle, 16);
            }
            cache.release(segment.reference, now);
        }
        cache.release_tail(reserved.tail);
        let num_measured = (index + 1).saturating_sub(num_warmup);
        if index + 1 >= num_warmup && num_measured % BATCH_REQUESTS == 0 {
            let hits = cache.stats().hits;
            if num_measured > 0 {
                let of = (BATCH_REQUESTS * PER_REQUEST as usize) as f64;
                ratios.push((hits - hits_before) as f64 / of);
            }
            hits_before = hits;
        }
    }
    assert_eq!(ratios.len(), NUM_BATCHES);
    let mean = ratios.iter().sum::<f64>() / NUM_BATCHES as f64;
    let squares = ratios.iter().map(|ratio| (ratio - mean).powi(2)).sum::<f64>();
    (mean, (squares / (NUM_BATCHES * (NUM_BATCHES - 1)) as f64).sqrt())
}

#[test]
fn least_recently_used_has_the_hit_ratio_of_ches_approximation() {
    for (alpha, capacity) in [(0.8, 200), (1.1, 2000), (1.5, 200)] {
        let expected = Demand::new(NUM_DOCUMENTS, alpha, PER_REQUEST).lru_hit_ratio(f64::from(capacity));
        let (ratio, error) = measured(EvictionPolicy::Lru, alpha, capacity);
        println!("alpha {alpha}, {capacity} documents: {ratio:.4} +- {error:.4}, Che {expected:.4}");
        // Four standard errors of the measured ratio; the approximation itself is off by about one document of the capacity.
        let allowed = 4.0 * error + 1.0 / f64::from(capacity);
        assert!((ratio - expected).abs() < allowed, "alpha {alpha}, {capacity}: {ratio} is not {expected}");
    }
}

#[test]
fn eviction_by_cost_comes_closer_to_the_best_than_by_age_and_never_beyond() {
    for (alpha, capacity) in [(0.8, 2000), (1.1, 2000)] {
        let demand = Demand::new(NUM_DOCUMENTS, alpha, PER_REQUEST);
        let best = demand.best_hit_ratio(f64::from(capacity));
        let (by_cost, error) = measured(EvictionPolicy::CostAware, alpha, capacity);
        let by_age = demand.lru_hit_ratio(f64::from(capacity));
        println!("alpha {alpha}: {by_cost:.4} +- {error:.4} by cost, {by_age:.4} by age, {best:.4} at best");
        assert!(by_cost < best + 4.0 * error, "alpha {alpha}: {by_cost} is more than the best, {best}");
        assert!(by_cost > by_age + 4.0 * error, "alpha {alpha}: {by_cost} is not above {by_age}");
    }
}
