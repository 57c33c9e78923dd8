//! proptest strategies.

use std::collections::HashMap;

use lazy_attn_types::{AttentionMode, BlockSize, SegmentKind, StepInput, TokenId};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::driver::{Pool, RunSpec, StepBuilder, StoredSegment};
use crate::part::Part;
use crate::rng::SplitMix64;

/// Bounds of what is generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens are below this.
    pub vocab_size: u32,
    /// Most parts of a request, the question included.
    pub max_parts: usize,
    /// Most tokens of a part.
    pub max_part_tokens: usize,
    /// Most requests.
    pub max_requests: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { vocab_size: 97, max_parts: 6, max_part_tokens: 40, max_requests: 5 }
    }
}

/// Any tokens, at least one.
pub fn tokens(limits: Limits) -> impl Strategy<Value = Vec<TokenId>> {
    vec((0..limits.vocab_size).prop_map(TokenId), 1..=limits.max_part_tokens)
}

/// A context of documents and text in any order, ending in text.
pub fn parts(limits: Limits) -> impl Strategy<Value = Vec<Part>> {
    let kind = prop_oneof![2 => Just(SegmentKind::Document), 1 => Just(SegmentKind::Text)];
    let earlier =
        vec((kind, tokens(limits)).prop_map(|(kind, tokens)| Part { kind, tokens }), 0..limits.max_parts);
    (earlier, tokens(limits)).prop_map(|(mut parts, question)| {
        parts.push(Part { kind: SegmentKind::Text, tokens: question });
        parts
    })
}

/// Either attention mode.
pub fn mode() -> impl Strategy<Value = AttentionMode> {
    prop_oneof![Just(AttentionMode::Block), Just(AttentionMode::Full)]
}

/// Requests over one small corpus, so that they share documents, in different orders and places.
pub fn requests(limits: Limits) -> impl Strategy<Value = Vec<Vec<Part>>> {
    let corpus = vec(tokens(limits), 1..=limits.max_parts);
    corpus.prop_flat_map(move |corpus| {
        let num_documents = corpus.len();
        let picks = vec(any::<prop::sample::Index>(), 0..limits.max_parts);
        let system = prop::option::of(tokens(limits));
        let request = (system, picks, tokens(limits)).prop_map(move |(system, picks, question)| {
            let mut parts: Vec<Part> =
                system.into_iter().map(|tokens| Part { kind: SegmentKind::Text, tokens }).collect();
            let documents = picks.iter().map(|pick| corpus[pick.index(num_documents)].clone());
            parts.extend(documents.map(|tokens| Part { kind: SegmentKind::Document, tokens }));
            parts.push(Part { kind: SegmentKind::Text, tokens: question });
            parts
        });
        vec(request, 1..=limits.max_requests)
    })
}

/// A power of two from 1 to 64.
pub fn block_size() -> impl Strategy<Value = BlockSize> {
    (0u32..=6).prop_map(|log2| BlockSize::new(1 << log2).unwrap_or(BlockSize::DEFAULT))
}

/// A step with the size of the store it is valid for.
#[derive(Debug, Clone)]
pub struct GeneratedStep {
    /// The step.
    pub input: StepInput,
    /// Tokens per block.
    pub block_size: BlockSize,
    /// Blocks of the store.
    pub num_blocks: u32,
}

/// A valid step: encoding, prefill and decode runs of several requests over shared documents, block lists scattered.
///
/// Only its shape is random: it does not say how the segments it reads came to be written.
pub fn step(limits: Limits) -> impl Strategy<Value = GeneratedStep> {
    (requests(limits), block_size(), any::<u64>())
        .prop_map(|(requests, block_size, seed)| build_step(&requests, block_size, seed))
}

fn build_step(requests: &[Vec<Part>], block_size: BlockSize, seed: u64) -> GeneratedStep {
    let mut rng = SplitMix64::new(seed);
    // Every part its own blocks at worst, each with one spare.
    let parts = requests.iter().flatten();
    let num_blocks: u32 = parts.map(|part| block_size.blocks_for(part.tokens.len() as u32) + 1).sum();
    let mut pool = Pool::scattered(num_blocks, block_size, rng.next_u64());
    let mut documents: HashMap<Vec<TokenId>, StoredSegment> = HashMap::new();
    let mut builder = StepBuilder::new();
    for request in requests {
        let mut context: Vec<(StoredSegment, u32)> = Vec::new();
        // Logical starts need not be consecutive, nor even ascending.
        let mut start = rng.below(1000) as u32;
        for part in request {
            let is_new = part.kind == SegmentKind::Text || !documents.contains_key(&part.tokens);
            let segment = stored(part, &mut pool, &mut documents);
            if is_new && part.kind == SegmentKind::Document && rng.below(2) == 0 {
                push_run(&mut builder, &[(segment.clone(), 0)], &part.tokens, 0, &mut rng);
            }
            context.push((segment, start));
            start += part.tokens.len() as u32 + rng.below(3) as u32 * 7;
        }
        if let Some(question) = request.last() {
            // A whole prefill, the rest of a chunked one, or a single decoded token.
            let first = rng.below(question.tokens.len() as u64) as usize;
            push_run(&mut builder, &context, &question.tokens[first..], first as u32, &mut rng);
        }
    }
    GeneratedStep { input: builder.finish(), block_size, num_blocks }
}

fn stored(
    part: &Part,
    pool: &mut Pool,
    documents: &mut HashMap<Vec<TokenId>, StoredSegment>,
) -> StoredSegment {
    let mut fresh = || {
        let mut segment = pool.allocate(part.tokens.len() as u32);
        segment.num_tokens = part.tokens.len() as u32;
        segment
    };
    match part.kind {
        SegmentKind::Text => fresh(),
        SegmentKind::Document => documents.entry(part.tokens.clone()).or_insert_with(fresh).clone(),
    }
}

fn push_run(
    builder: &mut StepBuilder,
    context: &[(StoredSegment, u32)],
    tokens: &[TokenId],
    first_local: u32,
    rng: &mut SplitMix64,
) {
    let wants_output = rng.below(2) == 0;
    builder.push(&RunSpec {
        context: context.iter().map(|(segment, start)| (segment, *start)).collect(),
        tokens,
        first_local,
        outputs: wants_output.then(|| tokens.len() as u32 - 1).into_iter().collect(),
    });
}
