//! What is asked for, and what it needs of the cache.

use std::collections::HashSet;
use std::sync::Arc;

use lazy_attn_kv::{RecomputeCost, Scope, SegmentNeed};
use lazy_attn_types::{
    BlockSize, Context, KvPolicy, Position, RequestId, Segment, SegmentKind, SequenceId, TenantSalt,
    Timestamp,
};

/// One or more sequences over one context.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Whose they are; cancelled together.
    pub request: RequestId,
    /// The samples, at least one; they share every segment of the context.
    pub sequences: Vec<SequenceId>,
    /// The prompt.
    pub context: Arc<Context>,
    /// Most tokens each sequence generates. With 0 the segments of the context are computed and nothing else: the last
    /// prompt token is not run, and the sequence ends when they are complete.
    pub max_tokens: u32,
    /// Who may find the segments: [`Scope::Private`] bypasses the cache.
    pub scope: Scope,
    /// Who asks; tenants take turns.
    pub tenant: TenantSalt,
    /// Larger goes sooner, among the requests of its tenant.
    pub priority: i32,
    /// When the answer is of no use any more.
    pub deadline: Option<Timestamp>,
}

impl Submission {
    /// Most tokens its tail comes to hold: the last prompt token and all generated ones but the last, which is never run.
    #[must_use]
    pub fn tail_tokens(&self) -> u32 {
        self.max_tokens
    }

    /// The segments of the context, as the cache asks for them under `kv_policy`.
    #[must_use]
    pub fn needs(&self, kv_policy: KvPolicy) -> Vec<SegmentNeed> {
        let segments = self.context.segments();
        let mut num_earlier = 0;
        let need = |segment: &Segment| {
            let num_tokens = segment.num_tokens();
            let num_visible = match segment.kind() {
                SegmentKind::Document => num_seen(&segments[..segment.num_preamble()]),
                SegmentKind::Text => num_earlier,
            };
            num_earlier += segment.seen().num_tokens();
            let cost = RecomputeCost::of_prefill(num_tokens, num_visible);
            SegmentNeed {
                scope: self.scope,
                key: segment.key(),
                place: place(segment, kv_policy),
                kind: segment.kind(),
                num_tokens,
                cost,
            }
        };
        segments.iter().map(need).collect()
    }
}

fn num_seen(segments: &[Segment]) -> u32 {
    segments.iter().map(|segment| segment.seen().num_tokens()).sum()
}

/// Where `segment` must stand to be of use, if not anywhere.
fn place(segment: &Segment, kv_policy: KvPolicy) -> Option<Position> {
    kv_policy.has_places().then(|| segment.start())
}

/// Blocks a sequence over `context` takes in an empty pool: every distinct segment and the whole tail.
#[must_use]
pub fn blocks_needed(context: &Context, max_tokens: u32, block_size: BlockSize, kv_policy: KvPolicy) -> u32 {
    let mut seen = HashSet::new();
    let distinct =
        context.segments().iter().filter(|segment| seen.insert((segment.key(), place(segment, kv_policy))));
    let segments = distinct.map(|segment| block_size.blocks_for(segment.num_tokens()));
    segments.fold(block_size.blocks_for(max_tokens), u32::saturating_add)
}
