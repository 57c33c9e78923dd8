//! What reuse of documents is worth on a device: documents that many requests read, read once for all of them or once for each,
//! and keys that are rotated as they are read (what engines do that store them as they are) beside queries that are.
//!
//! Prints milliseconds of attend and merge and the TB/s of the keys and values that a step reads, medians of 40 with the L2 cache
//! flushed in between. The kernels come from the file that `LAZY_ATTN_KERNELS` names; arguments select rows by name.
#![allow(clippy::unwrap_used)]

mod support;

use lazy_attn::cuda::{CudaAttention, CudaKvStore, DevicePlan, PlanBounds};
use lazy_attn::{AttnParams, KvDtype, KvLayout, PlanConfig, Planner, RopeTable, Schedule};
use lazy_attn_types::{BlockId, BlockSize, Position, Run, SegmentHandle, SegmentView, StepInput, TokenId};
use support::Bench;

const GROUP_SIZE: u32 = 4;
const NUM_KV_HEADS: u32 = 8;
/// Tokens of a request's own that were run before.
const NUM_STORED: u32 = 63;

/// Where rotation happens, and whether documents are read once for all requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Queries are rotated, and shared documents read once.
    Grouped,
    /// Queries are rotated, and every request reads on its own.
    Alone,
    /// Keys are rotated, so every request reads on its own.
    RotatingKeys,
}

impl Way {
    const ALL: [Way; 3] = [Way::Grouped, Way::Alone, Way::RotatingKeys];

    fn name(self) -> &'static str {
        match self {
            Way::Grouped => "grouped",
            Way::Alone => "alone",
            Way::RotatingKeys => "rotating_keys",
        }
    }
}

/// Requests that decode over documents of one length.
struct Traffic {
    name: &'static str,
    head_dim: u32,
    document_tokens: u32,
    num_documents: u32,
    /// Documents of each request, in its order.
    requests: Vec<Vec<u32>>,
}

impl Traffic {
    /// Requests without a document in common.
    fn apart(name: &'static str, num_requests: u32, documents_each: u32, head_dim: u32) -> Traffic {
        let requests =
            (0..num_requests).map(|index| (index * documents_each..(index + 1) * documents_each).collect());
        let num_documents = num_requests * documents_each;
        Traffic { name, head_dim, document_tokens: 512, num_documents, requests: requests.collect() }
    }

    /// 128 requests of ten different ones of a thousand documents each, document r drawn in proportion to 1 / r.
    fn zipf(name: &'static str) -> Traffic {
        let num_documents = 1000;
        let weights: Vec<f64> = (0..num_documents).map(|rank| 1.0 / f64::from(rank + 1)).collect();
        let total: f64 = weights.iter().sum();
        let mut state = 7u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut left = (state >> 11) as f64 / 2f64.powi(53) * total;
            let found = weights.iter().position(|weight| {
                left -= weight;
                left < 0.0
            });
            found.unwrap_or(0) as u32
        };
        let request = |_| {
            let mut chosen: Vec<u32> = Vec::new();
            while chosen.len() < 10 {
                let document = draw();
                if !chosen.contains(&document) {
                    chosen.push(document);
                }
            }
            chosen
        };
        let requests = (0..128).map(request).collect();
        Traffic { name, head_dim: 128, document_tokens: 1000, num_documents, requests }
    }

    /// The same, with the documents of each request in the order of the pool: the same order for all.
    fn sorted(mut self, name: &'static str) -> Traffic {
        self.requests.iter_mut().for_each(|documents| documents.sort_unstable());
        Traffic { name, ..self }
    }

    /// The step, with blocks scattered over the pool, and the size of the pool.
    fn step(&self) -> (StepInput, u32) {
        let block_size = BlockSize::DEFAULT;
        let lengths: Vec<u32> = (0..self.num_documents)
            .map(|_| self.document_tokens)
            .chain(self.requests.iter().map(|_| NUM_STORED + 1))
            .collect();
        let pool =
            lengths.iter().map(|&tokens| block_size.blocks_for(tokens)).sum::<u32>().next_power_of_two();
        let mut ids = (0..pool).map(|index| BlockId(index.wrapping_mul(2_654_435_761) % pool));
        let mut input = StepInput::default();
        let mut first_blocks = Vec::new();
        for &num_tokens in &lengths {
            first_blocks.push(input.block_ids.len() as u32);
            input.block_ids.extend(ids.by_ref().take(block_size.blocks_for(num_tokens) as usize));
        }
        for (index, documents) in self.requests.iter().enumerate() {
            let tail = self.num_documents + index as u32;
            let (first_segment, mut start) = (input.segments.len() as u32, 7 * index as u32);
            for &segment in documents.iter().chain([&tail]) {
                let num_tokens = lengths[segment as usize];
                input.segments.push(SegmentView {
                    handle: SegmentHandle(u64::from(segment)),
                    first_block: first_blocks[segment as usize],
                    num_blocks: block_size.blocks_for(num_tokens),
                    first_seen: 0,
                    num_tokens,
                    start: Position(start),
                    origin: Position(start),
                });
                start += num_tokens;
            }
            input.runs.push(Run {
                first_token: index as u32,
                num_tokens: 1,
                first_segment,
                num_segments: documents.len() as u32 + 1,
                first_local: NUM_STORED,
            });
            input.tokens.push(TokenId(0));
        }
        (input, pool)
    }

    /// Documents that the requests read: for each of them, or each once.
    fn num_reads(&self, way: Way) -> usize {
        let mut all = self.requests.concat();
        all.sort_unstable();
        if way == Way::Grouped {
            all.dedup();
        }
        all.len()
    }

    fn run(&self, bench: &mut Bench, way: Way) {
        let (input, num_blocks) = self.step();
        let device = bench.device.clone();
        let store = store(bench, num_blocks, self.head_dim);
        let pairs = self.head_dim / 2;
        let inv_freq: Vec<f32> =
            (0..pairs).map(|pair| 500_000f32.powf(-(pair as f32) / pairs as f32)).collect();
        let rope = RopeTable::from_inv_freq(&inv_freq).unwrap();
        let softmax_scale = 1.0 / (self.head_dim as f32).sqrt();
        let params = AttnParams { num_q_heads: NUM_KV_HEADS * GROUP_SIZE, rope, softmax_scale };
        let config = PlanConfig::cuda(BlockSize::DEFAULT, device.max_item_tokens(GROUP_SIZE));
        let config = match way {
            Way::Grouped => config,
            Way::Alone => PlanConfig { min_shared_tokens: u32::MAX, ..config },
            Way::RotatingKeys => {
                PlanConfig { min_shared_tokens: u32::MAX, max_item_tokens: 16 / GROUP_SIZE, ..config }
            }
        };
        let plan = Planner::new(config).unwrap().plan(&input);
        let schedule = Schedule::new(&plan, &device.workers(&store, &params).unwrap());
        let mut device_plan = DevicePlan::new(&device, PlanBounds::of(&schedule)).unwrap();
        device_plan.write(&device, &schedule).unwrap();
        let elements = input.tokens.len() * (NUM_KV_HEADS * GROUP_SIZE * self.head_dim) as usize;
        let mut attention = CudaAttention::new(&device, &store, params, device_plan.max_slots(), 0).unwrap();
        if way == Way::RotatingKeys {
            attention = attention.rotating_keys(&store).unwrap();
        }
        let q: Vec<u16> =
            noise(2 * elements).chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        let q = device.stream().clone_htod(&q).unwrap();
        let mut out = device.stream().alloc_zeros::<u16>(elements).unwrap();
        let ms = bench.time(|_| attention.attend(&store, 0, &device_plan, &q, &mut out).unwrap());
        let tails = self.requests.len() * (NUM_STORED as usize + 1);
        let tokens = self.num_reads(way) * self.document_tokens as usize + tails;
        let tb_s = tokens as f64 * f64::from(4 * NUM_KV_HEADS * self.head_dim) / ms / 1e9;
        println!("{:28} {:14} {ms:.4} ms, {tb_s:.2} TB/s, {tokens} tokens read", self.name, way.name());
    }
}

/// Elements of about one: zeros are faster than real data.
fn noise(num_bytes: usize) -> Vec<u8> {
    let byte = |index: usize| {
        let bits = (index as u32).wrapping_mul(2_654_435_761) >> 24;
        if index % 2 == 1 { 0x3F | (bits as u8 & 0x80) } else { bits as u8 }
    };
    (0..num_bytes).map(byte).collect()
}

/// A store full of noise.
fn store(bench: &Bench, num_blocks: u32, head_dim: u32) -> CudaKvStore {
    let layout = KvLayout {
        num_layers: 1,
        num_blocks,
        block_size: BlockSize::DEFAULT,
        num_kv_heads: NUM_KV_HEADS,
        head_dim,
        dtype: KvDtype::Bf16,
    };
    let mut store = CudaKvStore::new(&bench.device, layout).unwrap();
    let stream = bench.device.stream();
    let noise = stream.clone_htod(&noise(16 << 20)).unwrap();
    let num_bytes = store.memory_mut().len();
    for at in (0..num_bytes).step_by(noise.len()) {
        let part = noise.len().min(num_bytes - at);
        stream.memcpy_dtod(&noise.slice(..part), &mut store.memory_mut().slice_mut(at..at + part)).unwrap();
    }
    store
}

fn main() {
    let filters: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let mut bench = Bench::new();
    let rows = [
        Traffic::apart("apart_b1_ctx32768_d128", 1, 64, 128),
        Traffic::apart("apart_b8_ctx8192_d128", 8, 16, 128),
        Traffic::apart("apart_b32_ctx8192_d128", 32, 16, 128),
        Traffic::apart("apart_b32_ctx8192_d64", 32, 16, 64),
        Traffic::zipf("zipf_b128_10x1000_d128"),
        Traffic::zipf("zipf_b128_10x1000_d128").sorted("zipf_sorted_b128_10x1000_d128"),
    ];
    for traffic in rows {
        if !filters.is_empty() && !filters.iter().any(|filter| traffic.name.contains(filter.as_str())) {
            continue;
        }
        for way in Way::ALL {
            traffic.run(&mut bench, way);
        }
    }
}
