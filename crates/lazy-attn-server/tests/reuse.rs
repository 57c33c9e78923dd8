//! Reuse over a long session: a thousand different orders of documents from a pool three times larger than the KV memory.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::HashSet;

use common::{Options, answer, expected, request, start};
use lazy_attn_proto::v1::CacheOutcome;
use lazy_attn_testkit::{FakeConfig, SplitMix64};

const NUM_QUERIES: usize = 1000;
const DOCUMENTS_PER_QUERY: usize = 4;
const NUM_BLOCKS: u32 = 128;
/// Tokens of 2 blocks: 192 documents fill 384 blocks.
const DOCUMENT_TOKENS: u32 = 32;
const NUM_DOCUMENTS: u64 = 192;
/// Of 400 documents of 100 queries, the share that is found has a standard error below 0.025; this is twice that of a
/// difference.
const DECAY_MAX: f64 = 0.07;

fn document(index: u64) -> Vec<u32> {
    let index = index as u32;
    (0..DOCUMENT_TOKENS)
        .map(|i| (i * 7 + index % 97 + if i == 0 { index / 97 * 31 } else { 0 }) % 97)
        .collect()
}

/// Different documents, some of them much more often than others, in an order that never was before.
fn new_query(rng: &mut SplitMix64, asked: &mut HashSet<Vec<u64>>) -> Vec<u64> {
    loop {
        let mut query = Vec::new();
        while query.len() < DOCUMENTS_PER_QUERY {
            let index = (0..3).map(|_| rng.below(NUM_DOCUMENTS)).min().unwrap();
            if !query.contains(&index) {
                query.push(index);
            }
        }
        if asked.insert(query.clone()) {
            return query;
        }
    }
}

fn hit_ratio(hits: &[usize]) -> f64 {
    hits.iter().sum::<usize>() as f64 / (hits.len() * DOCUMENTS_PER_QUERY) as f64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_new_orders_over_three_times_the_memory_do_not_wear_reuse_out() {
    let executor = FakeConfig { num_blocks: NUM_BLOCKS, ..FakeConfig::default() };
    let pool_blocks = NUM_DOCUMENTS as u32 * executor.block_size.blocks_for(DOCUMENT_TOKENS);
    assert_eq!(pool_blocks, 3 * NUM_BLOCKS);
    let rig = start(Options { executor, ..Options::default() }).await;
    let mut client = rig.client().await;
    let (mut rng, mut asked) = (SplitMix64::new(41), HashSet::new());
    let mut hits = Vec::with_capacity(NUM_QUERIES);
    for index in 0..NUM_QUERIES {
        let documents: Vec<_> = new_query(&mut rng, &mut asked).into_iter().map(document).collect();
        let question = [index as u32 % 97, 7];
        let response = answer(&mut client, request(&documents, &question, 2)).await.unwrap();
        if index % 10 == 0 {
            assert_eq!(response.token_ids, expected(&documents, &question, 2), "query {index}");
        }
        let found = response.parts.iter().filter(|part| !part.document_key.is_empty());
        hits.push(found.filter(|part| part.outcome() == CacheOutcome::Hit).count());
    }
    let (first, second) = (hit_ratio(&hits[..100]), hit_ratio(&hits[100..200]));
    let last = hit_ratio(&hits[NUM_QUERIES - 100..]);
    rig.baseline().await;
    let kv = rig.handle.settled_stats().unwrap().sched.kv;
    println!(
        "documents found: {first:.3} of the first 100 queries, {second:.3} of the second, {last:.3} of the last; \
         {} evictions, {} of {} blocks cached",
        kv.evictions, kv.blocks_cached, kv.blocks_total
    );
    assert!(last >= first, "{last:.3} of the last hundred, {first:.3} of the first");
    // The first hundred begin with an empty memory; the second do not.
    assert!(last >= second - DECAY_MAX, "{last:.3} of the last hundred, {second:.3} of the second");
    assert!(last < 1.0 && kv.evictions > 1000, "the memory was not short");
    assert_eq!(kv.blocks_free + kv.blocks_cached, kv.blocks_total);
}
