//! Calls whose sizes disagree are errors, not reads out of bounds.

// Helpers outside test functions may unwrap too.
#![allow(clippy::unwrap_used)]

use lazy_attn::{
    AttnError, AttnParams, CpuAttention, KvDtype, KvLayout, KvStore, Plan, PlanConfig, Planner, RopeTable,
};
use lazy_attn_types::{BlockId, BlockSize, Position, Run, SegmentHandle, SegmentView, StepInput, TokenId};

fn plan(block: u32, block_size: BlockSize) -> Plan {
    let view = SegmentView {
        handle: SegmentHandle(0),
        first_block: 0,
        num_blocks: 1,
        first_seen: 0,
        num_tokens: 1,
        start: Position(0),
        origin: Position(0),
    };
    let run = Run { first_token: 0, num_tokens: 1, first_segment: 0, num_segments: 1, first_local: 0 };
    let input = StepInput {
        tokens: vec![TokenId(0)],
        runs: vec![run],
        segments: vec![view],
        block_ids: vec![BlockId(block)],
        ..StepInput::default()
    };
    Planner::new(PlanConfig::cpu(block_size, 2, 1)).unwrap().plan(&input)
}

fn store() -> KvStore {
    KvStore::new(KvLayout {
        num_layers: 1,
        num_blocks: 2,
        block_size: BlockSize::DEFAULT,
        num_kv_heads: 2,
        head_dim: 16,
        dtype: KvDtype::F32,
    })
    .unwrap()
}

fn attention(num_q_heads: u32, num_pairs: usize) -> CpuAttention {
    let rope = RopeTable::from_inv_freq(&vec![0.5; num_pairs]).unwrap();
    CpuAttention::new(AttnParams { num_q_heads, rope, softmax_scale: 0.25 })
}

fn attend(
    attention: &mut CpuAttention,
    layer: u32,
    plan: &Plan,
    q: usize,
    out: usize,
) -> Result<(), AttnError> {
    attention.attend(&store(), layer, plan, &vec![0.0; q], &mut vec![0.0; out])
}

#[test]
fn sizes_that_agree_are_accepted() {
    let plan = plan(1, BlockSize::DEFAULT);
    let mut attention = attention(4, 8);
    attend(&mut attention, 0, &plan, 64, 64).unwrap();
    attention.append(&mut store(), 0, &plan, &[0.0; 32], &[0.0; 32]).unwrap();
}

#[test]
fn every_disagreement_is_refused() {
    let good = plan(1, BlockSize::DEFAULT);
    let outside = plan(2, BlockSize::DEFAULT);
    let other_blocks = plan(1, BlockSize::new(32).unwrap());
    assert!(attend(&mut attention(4, 8), 1, &good, 64, 64).is_err(), "a layer the store lacks");
    assert!(attend(&mut attention(4, 8), 0, &outside, 64, 64).is_err(), "a block the store lacks");
    assert!(attend(&mut attention(4, 8), 0, &other_blocks, 64, 64).is_err(), "another block size");
    assert!(attend(&mut attention(3, 8), 0, &good, 48, 48).is_err(), "query heads that do not divide");
    assert!(attend(&mut attention(0, 8), 0, &good, 0, 0).is_err(), "no query heads");
    assert!(attend(&mut attention(4, 9), 0, &good, 64, 64).is_err(), "more rotation than head_dim");
    assert!(attend(&mut attention(4, 8), 0, &good, 63, 64).is_err(), "a short q");
    assert!(attend(&mut attention(4, 8), 0, &good, 64, 65).is_err(), "a long out");
    let short = attention(4, 8).append(&mut store(), 0, &good, &[0.0; 31], &[0.0; 32]);
    assert!(matches!(short, Err(AttnError::Mismatch { what: "length of k", .. })));
    let short = attention(4, 8).append(&mut store(), 0, &good, &[0.0; 32], &[0.0; 31]);
    assert!(matches!(short, Err(AttnError::Mismatch { what: "length of v", .. })));
}
