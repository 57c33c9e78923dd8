//! The CUDA kernels on scattered blocks, in milliseconds and TB/s or TFLOP/s; the L2 cache is flushed between repetitions.
//!
//! Where items of up to 16 rows do it all, the ceiling stands beside it: the same blocks read through the same rings by the same
//! workers, and nothing computed.
//!
//! Prints a line per scenario, and with `--out FILE` writes them as JSON. The kernels come from the file that
//! `LAZY_ATTN_KERNELS` names. An argument that is no option selects the scenarios whose names contain it.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, sys::CUevent_flags};
use half::bf16;
use lazy_attn::cuda::{CudaAttention, CudaDevice, CudaKvStore, DevicePlan, PlanBounds};
use lazy_attn::{AttnParams, KvDtype, KvLayout, PlanConfig, Planner, RopeTable, Schedule};
use lazy_attn_types::{BlockId, BlockSize, Position, Run, SegmentHandle, SegmentView, StepInput, TokenId};

const NUM_Q_HEADS: u32 = 32;
const NUM_KV_HEADS: u32 = 8;
const BLOCK_SIZE: u32 = 16;
/// Larger than any L2 cache.
const FLUSH_BYTES: usize = 256 << 20;
const REPETITIONS: usize = 40;

/// What every request of a step does.
#[derive(Debug, Clone)]
struct Scenario {
    name: String,
    num_requests: u32,
    /// Lengths of the documents before the tail.
    documents: Vec<u32>,
    /// Whether all requests read the same documents, each at another place.
    is_shared: bool,
    /// Tokens of the tail that were run before.
    num_stored: u32,
    /// Query tokens.
    num_tokens: u32,
    head_dim: u32,
    dtype: KvDtype,
}

impl Scenario {
    /// Decoding: one query over `context` keys in documents of `document` tokens (0: none), the last one being the tail.
    fn decode(name: &str, num_requests: u32, context: u32, document: u32, head_dim: u32) -> Scenario {
        let count = if document == 0 { 0 } else { context.div_ceil(document) - 1 };
        let num_stored = context - count * document - 1;
        let name = format!("{name}_b{num_requests}_ctx{context}_d{head_dim}");
        let documents = vec![document; count as usize];
        Scenario {
            name,
            num_requests,
            documents,
            is_shared: false,
            num_stored,
            num_tokens: 1,
            head_dim,
            dtype: KvDtype::Bf16,
        }
    }

    /// Decoding over `shared` keys that all requests read, and a short tail.
    fn shared(num_requests: u32, shared: u32, head_dim: u32) -> Scenario {
        let name = format!("decode_shared_b{num_requests}_ctx{shared}_d{head_dim}");
        let documents = vec![shared];
        Scenario {
            name,
            num_requests,
            documents,
            is_shared: true,
            num_stored: 15,
            num_tokens: 1,
            head_dim,
            dtype: KvDtype::Bf16,
        }
    }

    /// `num_tokens` queries over `context` cached keys in documents of 1024, and over themselves.
    fn prefill(num_requests: u32, num_tokens: u32, context: u32, head_dim: u32) -> Scenario {
        let name = format!("prefill_b{num_requests}_q{num_tokens}_ctx{context}_d{head_dim}");
        let documents = vec![1024; context as usize / 1024];
        Scenario {
            name,
            num_requests,
            documents,
            is_shared: false,
            num_stored: 0,
            num_tokens,
            head_dim,
            dtype: KvDtype::Bf16,
        }
    }

    /// The same with keys and values of 8 bits.
    fn fp8(self) -> Scenario {
        Scenario { name: format!("fp8_{}", self.name), dtype: KvDtype::Fp8E4m3, ..self }
    }

    /// Scenarios with 8-bit keys and values; those of the same names without the prefix are what they are compared with.
    fn all_fp8() -> Vec<Scenario> {
        let mut all = Vec::new();
        for head_dim in [128, 64] {
            for (batch, context) in [(1, 32768), (8, 8192), (32, 8192), (64, 8192)] {
                all.push(Scenario::decode("decode", batch, context, 0, head_dim));
            }
            all.push(Scenario::decode("decode_doc512", 32, 8192, 512, head_dim));
            all.push(Scenario::shared(64, 8192, head_dim));
        }
        all.extend(
            [(1, 512, 16384), (1, 8192, 0), (16, 512, 0)].map(|(b, q, c)| Scenario::prefill(b, q, c, 128)),
        );
        all.into_iter().map(Scenario::fp8).collect()
    }

    fn all() -> Vec<Scenario> {
        let mut all = Vec::new();
        for head_dim in [128, 64] {
            for (batch, context) in [(1, 8192), (1, 32768), (8, 8192), (32, 8192), (64, 8192)] {
                all.push(Scenario::decode("decode", batch, context, 0, head_dim));
                all.push(Scenario::decode("decode_doc512", batch, context, 512, head_dim));
                all.push(Scenario::decode("decode_doc64", batch, context, 64, head_dim));
            }
            all.push(Scenario::shared(64, 8192, head_dim));
            // Next to nothing to read: what launching and merging cost.
            all.push(Scenario::decode("decode_least", 1, 64, 0, head_dim));
        }
        for (batch, tokens, context) in
            [(1, 128, 8192), (1, 512, 16384), (8, 128, 8192), (1, 8192, 0), (16, 512, 0)]
        {
            all.push(Scenario::prefill(batch, tokens, context, 128));
        }
        all.extend(Scenario::all_fp8());
        all
    }

    /// The step, with blocks scattered over the pool, and the size of the pool.
    fn step(&self) -> (StepInput, u32) {
        let block_size = BlockSize::new(BLOCK_SIZE).unwrap();
        let tail = self.num_stored + self.num_tokens;
        let lengths: Vec<u32> = self.documents.iter().copied().chain([tail]).collect();
        let blocks: u32 = lengths.iter().map(|&length| block_size.blocks_for(length)).sum();
        let pool = (self.num_requests * blocks).next_power_of_two();
        let mut ids = (0..pool).map(|index| BlockId(index.wrapping_mul(2_654_435_761) % pool));
        let mut input = StepInput::default();
        let mut shared = Vec::new();
        for request in 0..self.num_requests {
            let first_segment = input.segments.len() as u32;
            let mut start = 7 * request;
            for (index, &num_tokens) in lengths.iter().enumerate() {
                let is_tail = index + 1 == lengths.len();
                let num_blocks = block_size.blocks_for(num_tokens);
                let mut first_block = input.block_ids.len() as u32;
                let mut handle = u64::from(first_segment) + index as u64;
                if self.is_shared && !is_tail && request > 0 {
                    (first_block, handle) = shared[index];
                } else {
                    input.block_ids.extend(ids.by_ref().take(num_blocks as usize));
                    shared.push((first_block, handle));
                }
                let handle = SegmentHandle(handle);
                input.segments.push(SegmentView {
                    handle,
                    first_block,
                    num_blocks,
                    first_seen: 0,
                    num_tokens,
                    start: Position(start),
                    origin: Position(start),
                });
                start += num_tokens;
            }
            input.runs.push(Run {
                first_token: input.tokens.len() as u32,
                num_tokens: self.num_tokens,
                first_segment,
                num_segments: lengths.len() as u32,
                first_local: self.num_stored,
            });
            input.tokens.extend((0..self.num_tokens).map(|_| TokenId(0)));
        }
        (input, pool)
    }

    /// Keys and values that are read at least once, and multiply-adds times two.
    fn work(&self) -> (f64, f64) {
        let documents: u32 = self.documents.iter().sum();
        let readers = f64::from(self.num_requests);
        let distinct = if self.is_shared { 1.0 } else { readers };
        let tail = f64::from(self.num_stored + self.num_tokens);
        let row_bytes = f64::from(2 * NUM_KV_HEADS * self.head_dim) * self.dtype.size_bytes() as f64;
        let bytes = (distinct * f64::from(documents) + readers * tail) * row_bytes;
        let queries = f64::from(self.num_tokens);
        let pairs = queries * (f64::from(documents + self.num_stored) + (queries + 1.0) / 2.0);
        (bytes, 4.0 * readers * pairs * f64::from(NUM_Q_HEADS * self.head_dim))
    }
}

struct Bench {
    device: Arc<CudaDevice>,
    flush: CudaSlice<u8>,
    /// Random values in [-1, 1), copied over every store.
    noise: Vec<u16>,
}

/// Medians in milliseconds.
struct Timed {
    all: f32,
    fastest: f32,
    /// Storing the keys and values of the step, before.
    append: f32,
    /// Reading alone, if the narrow class does it all.
    ceiling: Option<f32>,
    /// Planning on the host: the first time, which touches new memory, and the fastest of some more.
    plan_us: [f64; 2],
    num_slots: u32,
}

impl Bench {
    fn new() -> Bench {
        let path = std::env::var("LAZY_ATTN_KERNELS").unwrap();
        let device = Arc::new(CudaDevice::new(0, std::fs::read(path).unwrap()).unwrap());
        let flush = device.stream().alloc_zeros::<u8>(FLUSH_BYTES).unwrap();
        let mut state = 1u64;
        let noise = (0..1 << 22).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bf16::from_f32((state >> 56) as f32 / 128.0 - 1.0).to_bits()
        });
        Bench { device, flush, noise: noise.collect() }
    }

    /// A store full of noise.
    fn store(&self, num_blocks: u32, scenario: &Scenario) -> CudaKvStore {
        let layout = KvLayout {
            num_layers: 1,
            num_blocks,
            block_size: BlockSize::new(BLOCK_SIZE).unwrap(),
            num_kv_heads: NUM_KV_HEADS,
            head_dim: scenario.head_dim,
            dtype: scenario.dtype,
        };
        let mut store = CudaKvStore::new(&self.device, layout).unwrap();
        let mut noise: Vec<u8> = self.noise.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        if scenario.dtype == KvDtype::Fp8E4m3 {
            // Numbers below 2, times a scale.
            noise = self.noise.iter().map(|bits| (bits.wrapping_mul(40_503) >> 8) as u8 & 0xBF).collect();
            let scales = vec![0.5f32; store.scales_mut().len()];
            self.device.stream().memcpy_htod(&scales, store.scales_mut()).unwrap();
        }
        let stream = self.device.stream();
        let noise = stream.clone_htod(&noise).unwrap();
        let num_bytes = store.memory_mut().len();
        for at in (0..num_bytes).step_by(noise.len()) {
            let part = noise.len().min(num_bytes - at);
            let mut target = store.memory_mut().slice_mut(at..at + part);
            stream.memcpy_dtod(&noise.slice(..part), &mut target).unwrap();
        }
        store
    }

    fn run(&mut self, scenario: &Scenario) -> Timed {
        let (input, num_blocks) = scenario.step();
        let mut store = self.store(num_blocks, scenario);
        let inv_freq: Vec<f32> = (0..scenario.head_dim / 2)
            .map(|pair| 500_000f32.powf(-2.0 * pair as f32 / scenario.head_dim as f32))
            .collect();
        let params = AttnParams {
            num_q_heads: NUM_Q_HEADS,
            rope: RopeTable::from_inv_freq(&inv_freq).unwrap(),
            softmax_scale: 1.0 / (scenario.head_dim as f32).sqrt(),
        };
        let config = PlanConfig::cuda(
            store.layout().block_size,
            self.device.max_item_tokens(NUM_Q_HEADS / NUM_KV_HEADS),
        );
        let planner = Planner::new(config).unwrap();
        let workers = self.device.workers(&store, &params).unwrap();
        let make_schedule = || {
            let begin = std::time::Instant::now();
            let schedule = Schedule::new(&planner.plan(&input), &workers);
            (schedule, begin.elapsed().as_secs_f64() * 1e6)
        };
        let (schedule, first_us) = make_schedule();
        let again_us = (0..5).map(|_| make_schedule().1).fold(first_us, f64::min);
        let mut device_plan = DevicePlan::new(&self.device, PlanBounds::of(&schedule)).unwrap();
        device_plan.write(&self.device, &schedule).unwrap();
        let slots = device_plan.max_slots();
        let mut attention = CudaAttention::new(&self.device, &store, params, slots, 0).unwrap();
        let stream = Arc::clone(self.device.stream());
        let rows = |num_heads: u32| {
            let elements = input.tokens.len() * (num_heads * scenario.head_dim) as usize;
            let rows: Vec<u16> = self.noise.iter().copied().cycle().take(elements).collect();
            stream.clone_htod(&rows).unwrap()
        };
        let (q, k) = (rows(NUM_Q_HEADS), rows(NUM_KV_HEADS));
        let mut out = rows(NUM_Q_HEADS);
        let append = self.time(|| attention.append(&mut store, 0, &device_plan, &k, &k).unwrap());
        let attend = self.time(|| attention.attend(&store, 0, &device_plan, &q, &mut out).unwrap());
        let is_narrow = schedule.work[1..].iter().all(|work| work.items.is_empty());
        let ceiling = is_narrow
            .then(|| self.time(|| attention.probe_reads(&store, 0, &device_plan).unwrap())[REPETITIONS / 2]);
        Timed {
            all: attend[REPETITIONS / 2],
            fastest: attend[0],
            append: append[REPETITIONS / 2],
            ceiling,
            plan_us: [first_us, again_us],
            num_slots: schedule.num_slots,
        }
    }

    /// Milliseconds of `work`, ascending, each after a flush of the cache.
    fn time(&mut self, mut work: impl FnMut()) -> Vec<f32> {
        let stream = Arc::clone(self.device.stream());
        let mut times = Vec::with_capacity(REPETITIONS + 3);
        for _ in 0..REPETITIONS + 3 {
            stream.memset_zeros(&mut self.flush).unwrap();
            let begin = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
            work();
            let end = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
            times.push(begin.elapsed_ms(&end).unwrap());
        }
        times.drain(..3);
        times.sort_by(f32::total_cmp);
        times
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut out, mut filters) = (None, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--out" => out = arguments.next(),
            "--bench" => {}
            _ => filters.push(argument),
        }
    }
    let mut bench = Bench::new();
    let mut json = String::from("{\n");
    for scenario in Scenario::all() {
        if !filters.is_empty() && !filters.iter().any(|filter| scenario.name.contains(filter.as_str())) {
            continue;
        }
        let timed = bench.run(&scenario);
        let (bytes, operations) = scenario.work();
        let seconds = f64::from(timed.all) / 1e3;
        let (tb_s, tflop_s) = (bytes / seconds / 1e12, operations / seconds / 1e12);
        let ceiling = timed.ceiling.map_or(String::new(), |ms| format!("  reading alone {ms:.4} ms"));
        let [first_us, again_us] = timed.plan_us;
        println!(
            "{:34} {:8.4} ms (least {:.4})  {tb_s:5.2} TB/s {tflop_s:6.1} TFLOP/s  append {:.4} ms  plan {first_us:5.0} us, {again_us:5.0} again, {} partials{ceiling}",
            scenario.name, timed.all, timed.fastest, timed.append, timed.num_slots
        );
        let separator = if json.len() > 2 { ",\n" } else { "" };
        let _ = write!(
            json,
            "{separator}  \"{}\": {{\"ms\": {:.5}, \"tb_s\": {tb_s:.3}, \"tflops\": {tflop_s:.1}, \"append_ms\": {:.5}, \"ceiling_ms\": {}}}",
            scenario.name,
            timed.all,
            timed.append,
            timed.ceiling.map_or("null".to_owned(), |ms| format!("{ms:.5}"))
        );
    }
    json.push_str("\n}\n");
    if let Some(path) = out {
        std::fs::write(path, json).unwrap();
    }
}
