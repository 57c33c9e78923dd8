//! Two requests need the same document: the second finds it resident, and what nobody uses makes room for the next.
//!
//! `cargo run -p lazy-attn-kv --example reuse`

use lazy_attn_kv::{
    EvictionPolicy, KvCache, KvConfig, KvError, RecomputeCost, ReserveRequest, Scope, SegmentNeed,
};
use lazy_attn_types::{BlockSize, Fingerprint, KeySpace, SegmentKind, TenantSalt, Timestamp, TokenId};

fn main() -> Result<(), KvError> {
    let config = KvConfig {
        num_blocks: 8,
        block_size: BlockSize::DEFAULT,
        kv_bytes_per_token: 1024,
        max_pinned_blocks: u32::MAX,
        policy: EvictionPolicy::CostAware,
    };
    let mut cache = KvCache::new(config);
    let keys = KeySpace::new(TenantSalt::SINGLE_USER, Fingerprint::of(&[("model", b"example")]));
    for (name, first_token) in [("harbour", 0), ("harbour", 0), ("lighthouse", 500)] {
        let tokens: Vec<TokenId> = (first_token..first_token + 90).map(TokenId).collect();
        let need = SegmentNeed {
            scope: Scope::Shared,
            key: keys.document(&tokens),
            place: None,
            kind: SegmentKind::Document,
            num_tokens: 90,
            cost: RecomputeCost::of_prefill(90, 0),
        };
        let granted = cache.reserve(&ReserveRequest { segments: &[need], tail_tokens: 20 }, Timestamp(0))?;
        for segment in granted.segments {
            let handle = segment.reference.handle();
            println!("{name}: {:?}, blocks {:?}", segment.found, cache.segment(handle).blocks);
            if segment.found == lazy_attn_kv::Found::Miss {
                cache.mark_computed(handle, 90); // here an executor would write the KV
            }
            cache.release(segment.reference, Timestamp(1));
        }
        cache.release_tail(granted.tail);
    }
    println!("{:#?}", cache.stats());
    Ok(())
}
