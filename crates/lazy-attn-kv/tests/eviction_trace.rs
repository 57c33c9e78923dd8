//! Cost-aware eviction against LRU on a trace like that of retrieval: few popular documents, lengths of all sizes.

#![allow(clippy::unwrap_used)] // helpers of tests, not only the tests themselves

use lazy_attn_kv::{
    EvictionPolicy, FillState, KvCache, KvConfig, RecomputeCost, ReserveRequest, Scope, SegmentNeed,
};
use lazy_attn_types::{BlockSize, SegmentKey, SegmentKind, Timestamp};

const NUM_DOCUMENTS: usize = 400;
const NUM_QUERIES: u64 = 20_000;

/// SplitMix64; the trace is the same on every machine.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn documents(rng: &mut Rng) -> Vec<SegmentNeed> {
    (0..NUM_DOCUMENTS as u64)
        .map(|name| {
            // From 64 to 4096 tokens, evenly in the logarithm.
            let num_tokens = (64.0 * 64f64.powf(rng.unit())) as u32;
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&name.to_le_bytes());
            let cost = RecomputeCost::of_prefill(num_tokens, 0);
            let key = SegmentKey::from_bytes(bytes);
            SegmentNeed {
                scope: Scope::Shared,
                key,
                place: None,
                kind: SegmentKind::Document,
                num_tokens,
                cost,
            }
        })
        .collect()
}

/// Cumulative Zipf weights with exponent 1.
fn zipf() -> Vec<f64> {
    let weights = (1..=NUM_DOCUMENTS).map(|rank| 1.0 / rank as f64);
    let sums: Vec<f64> = weights
        .scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        })
        .collect();
    sums.iter().map(|sum| sum / sums[NUM_DOCUMENTS - 1]).collect()
}

/// Share of the trace's compute that had to be spent, lower is better.
fn recomputed_share(policy: EvictionPolicy, seed: u64) -> f64 {
    let mut rng = Rng(seed);
    let (documents, popularity) = (documents(&mut rng), zipf());
    let block_size = BlockSize::DEFAULT;
    let all: u32 = documents.iter().map(|document| block_size.blocks_for(document.num_tokens)).sum();
    let config = KvConfig {
        num_blocks: all / 5,
        block_size,
        kv_bytes_per_token: 1,
        max_pinned_blocks: u32::MAX,
        policy,
    };
    let mut cache = KvCache::new(config);
    let (mut spent, mut asked) = (0u64, 0u64);
    for query in 0..NUM_QUERIES {
        let draw = rng.unit();
        let document = documents[popularity.partition_point(|&sum| sum < draw).min(NUM_DOCUMENTS - 1)];
        let request = ReserveRequest { segments: &[document], tail_tokens: 0 };
        let mut reservation = cache.reserve(&request, Timestamp(query)).unwrap();
        let reference = reservation.segments.remove(0).reference;
        asked += document.cost.0;
        if cache.segment(reference.handle()).state != FillState::Complete {
            spent += document.cost.0;
            cache.mark_computed(reference.handle(), document.num_tokens);
        }
        cache.release(reference, Timestamp(query));
        cache.release_tail(reservation.tail);
    }
    cache.check_invariants();
    spent as f64 / asked as f64
}

#[test]
fn cost_aware_eviction_recomputes_less_than_lru_on_every_trace() {
    for seed in 0..5 {
        let cost_aware = recomputed_share(EvictionPolicy::CostAware, seed);
        let lru = recomputed_share(EvictionPolicy::Lru, seed);
        println!("seed {seed}: recomputed {cost_aware:.3} cost-aware, {lru:.3} lru");
        assert!(cost_aware < 0.9 * lru, "seed {seed}: {cost_aware} cost-aware, {lru} lru");
    }
}
