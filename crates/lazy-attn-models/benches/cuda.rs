//! A model's shape on a CUDA device: decode, time to the first token, encoding. Arguments are the shape (a name or a
//! `config.json`; `llama-3.1-8b` unless given; a folder is a model with its weights) and parts of the names of the rows to run; `--graphs` or `--eager` runs only one of the two, `--library`
//! has cuBLASLt multiply always. Times are from call to answer, copies and planning included; the median of the repetitions.
#![allow(clippy::unwrap_used, reason = "a bench stops at the first error")]

use std::sync::Arc;
use std::time::Instant;

use lazy_attn::cuda::{CudaDevice, ElementType, Gemm, GemmShape, KernelImage, Products};
use lazy_attn_models::cuda::{CudaExecutor, CudaOptions};
use lazy_attn_models::{LoadOptions, LoadedModel, ModelConfig, ModelParts, ModelRef, Silent, load};
use lazy_attn_testkit::driver::{Pool, RunSpec, StepBuilder, StoredSegment};
use lazy_attn_types::exec::{CarriedToken, OutputKind, RowSampling};
use lazy_attn_types::{Executor, StepInput, TokenId};

const GREEDY: RowSampling =
    RowSampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0, draw: 0 };
/// What the H100 reads from its memory, bytes a second: the measured ceiling of its kind.
const MEMORY_RATE: f64 = 3.0e12;

struct Bench {
    device: Arc<CudaDevice>,
    model: LoadedModel,
    executor: CudaExecutor,
    pool: Pool,
    filters: Vec<String>,
}

fn tokens(count: usize, seed: usize) -> Vec<TokenId> {
    (0..count).map(|index| TokenId(((index * 7919 + seed * 104_729) % 32_000) as u32)).collect()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn timed(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}

/// Products and attention of a token that sees `context` tokens, in floating-point operations.
fn token_flops(config: &ModelConfig, context: f64) -> f64 {
    let (hidden, ffn) = (config.hidden_size as f64, config.intermediate_size as f64);
    let q = (config.num_q_heads * config.head_dim) as f64;
    let kv = (config.num_kv_heads * config.head_dim) as f64;
    let products = hidden * (q + 2.0 * kv) + q * hidden + 3.0 * hidden * ffn;
    config.num_layers as f64 * (2.0 * products + 4.0 * q * context)
}

impl Bench {
    fn wanted(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
    }

    /// A document of `len` tokens, encoded; several in one step where they fit.
    fn documents(&mut self, count: usize, len: usize) -> Vec<StoredSegment> {
        let per_step = (self.executor.info().max_step_tokens as usize / len).max(1);
        let mut documents = Vec::new();
        while documents.len() < count {
            let batch = per_step.min(count - documents.len());
            let mut stored: Vec<StoredSegment> = (0..batch).map(|_| self.pool.allocate(len as u32)).collect();
            let step = encode_step(&stored, len, documents.len());
            self.executor.execute(&step).unwrap();
            stored.iter_mut().for_each(|segment| segment.num_tokens = len as u32);
            documents.append(&mut stored);
        }
        documents
    }

    fn release(&mut self, segments: Vec<StoredSegment>) {
        segments.into_iter().for_each(|segment| self.pool.release(segment));
    }

    /// Decoding: `batch` sequences over the same `count` documents of `len` tokens, each in an order of its own.
    fn decode(&mut self, name: &str, batch: usize, (count, len): (usize, usize)) {
        if !self.wanted(name) {
            return;
        }
        let documents = self.documents(count, len);
        let mut tails: Vec<StoredSegment> = (0..batch).map(|_| self.pool.allocate(256)).collect();
        let mut times = Vec::new();
        for _ in 0..48 {
            let step = decode_step(&documents, &tails, len);
            times.push(timed(|| drop(self.executor.execute(&step).unwrap())));
            tails.iter_mut().for_each(|tail| tail.num_tokens += 1);
        }
        let time = median(times.split_off(8));
        let ahead = self.ahead(&documents, &mut tails, len);
        let weights = self.executor.weight_bytes_per_step() as f64 / MEMORY_RATE;
        println!(
            "{name:28} {:9.3} ms  {:8.0} tokens/s  {:.3} of the weights' reading time ({:.3} ms); one step ahead {:.3} ms",
            time * 1e3,
            batch as f64 / time,
            time / weights,
            weights * 1e3,
            ahead * 1e3
        );
        self.release(documents);
        self.release(tails);
    }

    /// Seconds between two steps of which one is always submitted ahead, as the engine does: the host is hidden.
    fn ahead(&mut self, documents: &[StoredSegment], tails: &mut [StoredSegment], len: usize) -> f64 {
        let (mut times, mut last) = (Vec::new(), Instant::now());
        for turn in 0..48 {
            let mut step = decode_step(documents, tails, len);
            if turn > 0 {
                step.carried =
                    (0..tails.len() as u32).map(|at| CarriedToken { token: at, row: at }).collect();
            }
            self.executor.submit(&step).unwrap();
            if turn > 0 {
                self.executor.wait().unwrap();
                times.push(last.elapsed().as_secs_f64());
                last = Instant::now();
            }
            tails.iter_mut().for_each(|tail| tail.num_tokens += 1);
        }
        self.executor.wait().unwrap();
        median(times.split_off(8))
    }

    /// Time to the first token behind resident documents.
    fn first_token(&mut self, name: &str, (count, len): (usize, usize), query: usize) {
        if !self.wanted(name) {
            return;
        }
        let documents = self.documents(count, len);
        let mut times = Vec::new();
        for turn in 0..12 {
            let tail = self.pool.allocate(query as u32);
            let step = query_step(&documents, &tail, (len, query), turn);
            times.push(timed(|| drop(self.executor.execute(&step).unwrap())));
            self.pool.release(tail);
        }
        println!("{name:28} {:9.3} ms to the first token", median(times.split_off(2)) * 1e3);
        self.release(documents);
    }

    /// Encoding as many documents of `len` tokens as a step takes.
    fn encode(&mut self, name: &str, len: usize, ceilings: Ceilings) {
        if !self.wanted(name) {
            return;
        }
        let count = (self.executor.info().max_step_tokens as usize / len).max(1);
        let stored: Vec<StoredSegment> = (0..count).map(|_| self.pool.allocate(len as u32)).collect();
        let step = encode_step(&stored, len, 1);
        let mut times = Vec::new();
        for _ in 0..7 {
            times.push(timed(|| drop(self.executor.execute(&step).unwrap())));
        }
        let time = median(times.split_off(2));
        let tokens = (count * len) as f64;
        let flops = tokens * token_flops(&self.model.config, len as f64 / 2.0);
        println!(
            "{name:28} {:9.3} ms  {:8.0} tokens/s  {:6.1} TFLOP/s, {:.1} % of {:.0}, a product of 8192^3; {:.1} % of {:.0}, the layers' products",
            time * 1e3,
            tokens / time,
            flops / time / 1e12,
            100.0 * flops / time / ceilings.largest,
            ceilings.largest / 1e12,
            100.0 * flops / time / ceilings.layers,
            ceilings.layers / 1e12
        );
        self.release(stored);
    }
}

/// What products alone reach, in floating-point operations a second.
#[derive(Clone, Copy)]
struct Ceilings {
    /// One product of 8192^3, between pauses.
    largest: f64,
    /// The four products of a layer over 8192 rows, one behind the other for as long as encoding a full step takes: a card
    /// that runs into its power limit slows these as it slows the step.
    layers: f64,
}

impl Ceilings {
    fn measure(device: &Arc<CudaDevice>, config: &ModelConfig) -> Ceilings {
        const N: usize = 8192;
        let cube = GemmShape { m: N, n: N, k: N };
        let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
        let q = config.num_q_heads * config.head_dim;
        let qkv = q + 2 * config.num_kv_heads * config.head_dim;
        let shapes = [(qkv, hidden), (hidden, q), (2 * ffn, hidden), (hidden, ffn)].map(|(n, k)| GemmShape {
            m: N,
            n,
            k,
        });
        let layers: Vec<GemmShape> = std::iter::repeat_n(shapes, config.num_layers).flatten().collect();
        Ceilings { largest: products_rate(device, &[cube]), layers: products_rate(device, &layers) }
    }
}

/// The rate of `shapes` behind one another.
fn products_rate(device: &Arc<CudaDevice>, shapes: &[GemmShape]) -> f64 {
    let mut gemm = Gemm::new(device, Products::Library).unwrap();
    let most = |size: fn(&GemmShape) -> usize| shapes.iter().map(size).max().unwrap();
    // Nearly normal, as a model's: what is multiplied decides how much power it takes, and so how fast it is.
    let normal = |index: u64| {
        let mut z = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^= z >> 27;
        let sum: u64 = (0..4).map(|part| (z >> (16 * part)) & 0xffff).sum();
        half::bf16::from_f32((sum as f32 - 131_070.0) / 37_837.0).to_bits()
    };
    // Of a length that is no multiple of a row's.
    let some: Vec<u16> = (1..1_000_004).map(normal).collect();
    let numbers = |len: usize| {
        let values: Vec<u16> = some.iter().copied().cycle().take(len).collect();
        let mut memory = device.alloc::<u16>(len).unwrap();
        device.stream().memcpy_htod(&values, &mut memory).unwrap();
        memory
    };
    let (x, w) = (numbers(most(|shape| shape.m * shape.k)), numbers(most(|shape| shape.n * shape.k)));
    let mut y = device.alloc::<u16>(most(|shape| shape.m * shape.n)).unwrap();
    let mut run = || {
        for &shape in shapes {
            let (x, w) = (x.slice(..shape.m * shape.k), w.slice(..shape.n * shape.k));
            let mut y = y.slice_mut(..shape.m * shape.n);
            gemm.run(ElementType::Bf16, shape, &x, &w, &mut y).unwrap();
        }
        device.synchronize().unwrap();
    };
    let times = (0..8).map(|_| timed(&mut run)).skip(3).collect();
    let flops: f64 = shapes.iter().map(|shape| 2.0 * shape.m as f64 * shape.n as f64 * shape.k as f64).sum();
    flops / median(times)
}

fn encode_step(stored: &[StoredSegment], len: usize, seed: usize) -> StepInput {
    let mut builder = StepBuilder::new();
    for (index, segment) in stored.iter().enumerate() {
        let tokens = tokens(len, seed + index);
        builder.push(&RunSpec {
            context: vec![(segment, 0)],
            tokens: &tokens,
            first_local: 0,
            outputs: vec![],
        });
    }
    builder.finish()
}

fn context(documents: &[StoredSegment], len: usize, turn: usize) -> Vec<(&StoredSegment, u32)> {
    let count = documents.len();
    (0..count).map(|index| (&documents[(index + turn) % count], (index * len) as u32)).collect()
}

fn decode_step(documents: &[StoredSegment], tails: &[StoredSegment], len: usize) -> StepInput {
    let mut builder = StepBuilder::new();
    for (turn, tail) in tails.iter().enumerate() {
        let mut context = context(documents, len, turn);
        context.push((tail, (documents.len() * len) as u32));
        let tokens = [TokenId(turn as u32 + 5)];
        builder.push(&RunSpec { context, tokens: &tokens, first_local: tail.num_tokens, outputs: vec![0] });
    }
    let mut step = builder.finish();
    step.outputs = vec![OutputKind::Token(GREEDY); tails.len()];
    step
}

fn query_step(
    documents: &[StoredSegment],
    tail: &StoredSegment,
    (len, query): (usize, usize),
    turn: usize,
) -> StepInput {
    let mut builder = StepBuilder::new();
    let mut context = context(documents, len, turn);
    context.push((tail, (documents.len() * len) as u32));
    let tokens = tokens(query, turn);
    let outputs = vec![query as u32 - 1];
    builder.push(&RunSpec { context, tokens: &tokens, first_local: 0, outputs });
    let mut step = builder.finish();
    step.outputs = vec![OutputKind::Token(GREEDY)];
    step
}

fn main() {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let is_given = |name: &str| given.iter().any(|argument| argument == name);
    let graphs: &[bool] = match (is_given("--graphs"), is_given("--eager")) {
        (true, false) => &[true],
        (false, true) => &[false],
        _ => &[true, false],
    };
    let mut arguments = given.iter().filter(|argument| !argument.starts_with("--")).cloned();
    let shape = arguments.next().unwrap_or("llama-3.1-8b".to_owned());
    let filters: Vec<String> = arguments.collect();
    let device = Arc::new(CudaDevice::new(0, KernelImage::find().unwrap().bytes).unwrap());
    let is_folder = std::path::Path::new(&shape).is_dir();
    let reference: ModelRef =
        if is_folder { shape.clone() } else { format!("random:7:{shape}") }.parse().unwrap();
    let model = load(&reference, &LoadOptions::default()).unwrap();
    let ceilings = Ceilings::measure(&device, &model.config);
    for &graphs in graphs {
        let start = Instant::now();
        let products = if is_given("--library") { Products::Library } else { Products::Fastest };
        let options = CudaOptions { graphs, products, max_logit_rows: 64, ..CudaOptions::default() };
        let executor = CudaExecutor::new(&device, ModelParts::from(&model), &options, &Silent).unwrap();
        let info = executor.info();
        let seconds = start.elapsed().as_secs_f64();
        let rate = model.tensors.total_bytes() as f64 / seconds / 1e9;
        println!(
            "{shape}, graphs {graphs}: loaded in {seconds:.2} s ({rate:.1} GB/s), {} KV blocks",
            info.num_blocks
        );
        let pool = Pool::scattered(info.num_blocks, info.block_size, 1);
        let again = ModelRef::clone(&reference);
        let model = load(&again, &LoadOptions::default()).unwrap();
        let mut bench =
            Bench { device: Arc::clone(&device), model, executor, pool, filters: filters.clone() };
        bench.decode("decode_b1_ctx2048", 1, (4, 512));
        if graphs {
            bench.decode("decode_b8_ctx2048", 8, (4, 512));
            bench.decode("decode_b16_ctx2048", 16, (4, 512));
            bench.decode("decode_b32_ctx2048", 32, (4, 512));
        }
        bench.decode("decode_b64_ctx8192", 64, (16, 512));
        if graphs {
            bench.first_token("ttft_5x2048_q32", (5, 2048), 32);
            bench.encode("encode_16x512", 512, ceilings);
            bench.encode("encode_4x2048", 2048, ceilings);
        }
        bench.device.synchronize().unwrap();
    }
}
