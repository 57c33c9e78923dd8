//! Copies of KV blocks, as they are and with their keys re-encoded, beside the driver's copy of as many bytes;
//! sampling; and what stands between the products of a layer.
//!
//! Prints milliseconds and TB/s (bytes read and written), medians of 40 with the L2 cache flushed in between. The kernels
//! come from the file that `LAZY_ATTN_KERNELS` names.
#![allow(clippy::unwrap_used)]

mod support;

use lazy_attn::cuda::{
    BlockCopies, CudaKvStore, CudaRope, ElementType, Gemm, GemmShape, LogitShape, Norm, Products, QkvNorm,
    RowShape,
};
use lazy_attn::{BlockCopy, KvDtype, KvLayout, RopeTable};
use lazy_attn_sys::abi::LaSampling;
use lazy_attn_types::{BlockId, BlockSize};
use support::Bench;

const NUM_KV_HEADS: u32 = 8;
const BLOCK_SIZE: u32 = 16;

/// Times everything but attention.
struct Rows {
    bench: Bench,
}

impl Rows {
    /// `num_tokens` tokens of one layer, from scattered blocks to scattered blocks.
    fn copies(&mut self, num_tokens: u32, head_dim: u32) {
        let num_copies = num_tokens / BLOCK_SIZE;
        let layout = KvLayout {
            num_layers: 1,
            num_blocks: (2 * num_copies).next_power_of_two(),
            block_size: BlockSize::new(BLOCK_SIZE).unwrap(),
            num_kv_heads: NUM_KV_HEADS,
            head_dim,
            dtype: KvDtype::Bf16,
        };
        let mut store = CudaKvStore::new(&self.bench.device, layout).unwrap();
        // Elements of about one: zeros are faster than real data.
        let noise: Vec<u8> = (0..store.memory_mut().len() as u32)
            .map(|byte| if byte % 2 == 1 { 0x3F } else { (byte.wrapping_mul(2_654_435_761) >> 24) as u8 })
            .collect();
        self.bench.device.stream().memcpy_htod(&noise, store.memory_mut()).unwrap();
        let scattered = |index: u32| BlockId(index.wrapping_mul(2_654_435_761) % layout.num_blocks);
        let copy = |index| BlockCopy {
            from: scattered(index),
            to: scattered(index + num_copies),
            distance: 1000 + index as i32,
        };
        let copies: Vec<BlockCopy> = (0..num_copies).map(copy).collect();
        let copies = BlockCopies::new(&self.bench.device, &copies).unwrap();
        let inv_freq: Vec<f32> =
            (0..head_dim / 2).map(|pair| 500_000f32.powf(-2.0 * pair as f32 / head_dim as f32)).collect();
        let rope = CudaRope::new(&self.bench.device, &RopeTable::from_inv_freq(&inv_freq).unwrap()).unwrap();

        let half = (num_tokens * NUM_KV_HEADS * head_dim * 4) as usize;
        let from = self.bench.device.stream().clone_htod(&noise[..half]).unwrap();
        let mut to = self.bench.device.stream().alloc_zeros::<u8>(half).unwrap();
        let bytes = 2.0 * half as f64;
        let driver = self.bench.time(|device| device.stream().memcpy_dtod(&from, &mut to).unwrap());
        let copied = self.bench.time(|device| device.copy_blocks(&mut store, 0, &copies).unwrap());
        let reencoded =
            self.bench.time(|device| device.reencode_blocks(&mut store, 0, &copies, &rope).unwrap());
        for (name, ms) in [("driver_copy", driver), ("copy_blocks", copied), ("reencode", reencoded)] {
            let share = driver / ms;
            println!(
                "{name}_t{num_tokens}_d{head_dim}: {ms:.4} ms, {:.3} TB/s, {share:.2} of the driver's copy",
                bytes / ms / 1e9
            );
        }
    }

    fn sampling(&mut self, num_rows: u32, vocab_size: u32) {
        let shape = LogitShape { num_rows, vocab_size };
        let logit = |index: u32| {
            let bits = index.wrapping_mul(2_654_435_761);
            (0..4).map(|byte| ((bits >> (8 * byte)) & 255) as f32 / 48.0).sum()
        };
        let logits: Vec<f32> = (0..num_rows * vocab_size).map(logit).collect();
        let stream = self.bench.device.stream().clone();
        let logits = stream.clone_htod(&logits).unwrap();
        let mut tokens = stream.alloc_zeros::<u32>(num_rows as usize).unwrap();
        let ms = self.bench.time(|device| device.argmax(shape, &logits, &mut tokens).unwrap());
        println!("argmax_b{num_rows}_v{vocab_size}: {ms:.4} ms");
        let all =
            LaSampling { temperature: 1.0, top_p: 1.0, repetition: 1.0, seed: 7, ..LaSampling::default() };
        let with_top_p = LaSampling { top_p: 0.95, ..all };
        for (name, row) in
            [("all", all), ("top_p", with_top_p), ("top_k_top_p", LaSampling { top_k: 50, ..with_top_p })]
        {
            let rows = stream.clone_htod(&vec![row; num_rows as usize]).unwrap();
            let ms = self.bench.time(|device| device.sample(shape, &rows, &logits, &mut tokens).unwrap());
            println!("sample_{name}_b{num_rows}_v{vocab_size}: {ms:.4} ms");
        }
    }

    /// The products of an 8B model's layer and its head, by our kernel where it takes them and by cuBLASLt.
    fn products(&mut self) {
        const SHAPES: [(&str, usize, usize); 5] = [
            ("qkv", 6144, 4096),
            ("output", 4096, 4096),
            ("gate_up", 28_672, 4096),
            ("down", 4096, 14_336),
            ("head", 128_256, 4096),
        ];
        let stream = self.bench.device.stream().clone();
        // Bits of numbers around one: equal ones cost less power and are read faster.
        let bits = |index: usize| ((index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48) as u16;
        let memory = |elements: usize| {
            stream
                .clone_htod(&(0..elements).map(|at| 0x3C00 | (bits(at) & 0x83FF)).collect::<Vec<u16>>())
                .unwrap()
        };
        for (name, n, k) in SHAPES {
            let w = memory(n * k);
            for m in [1, 2, 4, 8, 16] {
                let (x, mut y) = (memory(m * k), memory(m * n));
                for (who, products) in [("own", Products::Fastest), ("library", Products::Library)] {
                    let mut gemm = Gemm::new(&self.bench.device, products).unwrap();
                    let shape = GemmShape { m, n, k };
                    let ms = self.bench.time(|_| gemm.run(ElementType::Bf16, shape, &x, &w, &mut y).unwrap());
                    print_row(&format!("product_{name}_{who}"), m as u32, ms, 2.0 * (n * k) as f64);
                }
            }
        }
    }

    /// What stands between the products of a layer of 4096 wide, as an 8B model has it.
    fn elementwise(&mut self, num_rows: u32) {
        const WIDTH: u32 = 4096;
        const INTERMEDIATE: u32 = 14_336;
        const VOCAB_SIZE: u32 = 128_256;
        let stream = self.bench.device.stream().clone();
        let memory = |elements: u32| stream.clone_htod(&vec![0x3F80u16; elements as usize]).unwrap();
        let element = ElementType::Bf16;
        let row = RowShape { num_rows, width: WIDTH };
        let (x, mut residual, mut out) =
            (memory(num_rows * WIDTH), memory(num_rows * WIDTH), memory(num_rows * WIDTH));
        let (weight, norm_row) = (memory(WIDTH), f64::from(num_rows * WIDTH * 2));
        let norm = Norm { weight: &weight, eps: 1e-5 };
        let ms = self.bench.time(|device| {
            device.add_rms_norm((element, row), &x, &mut residual, &norm, &mut out).unwrap();
        });
        print_row("add_rms_norm", num_rows, ms, 4.0 * norm_row);

        let shape = RowShape { num_rows, width: INTERMEDIATE };
        let (gate_up, mut gated) = (memory(2 * num_rows * INTERMEDIATE), memory(num_rows * INTERMEDIATE));
        let ms = self.bench.time(|device| device.silu_mul((element, shape), &gate_up, &mut gated).unwrap());
        print_row("silu_mul", num_rows, ms, 3.0 * f64::from(num_rows * INTERMEDIATE * 2));

        let heads = memory(128);
        let qkv_norm = QkvNorm {
            num_q_heads: 32,
            num_kv_heads: NUM_KV_HEADS,
            head_dim: 128,
            bias: None,
            weights: Some((&heads, &heads)),
            eps: 1e-5,
        };
        let width = (32 + 2 * NUM_KV_HEADS) * 128;
        let mut qkv = memory(num_rows * width);
        let ms = self.bench.time(|device| device.qkv_norm(element, num_rows, &qkv_norm, &mut qkv).unwrap());
        print_row("qkv_norm", num_rows, ms, 2.0 * f64::from(num_rows * width * 2));

        let table = memory(VOCAB_SIZE * WIDTH);
        let ids: Vec<u32> =
            (0..num_rows).map(|index| index.wrapping_mul(2_654_435_761) % VOCAB_SIZE).collect();
        let ids = stream.clone_htod(&ids).unwrap();
        let shape = RowShape { num_rows: VOCAB_SIZE, width: WIDTH };
        let ms = self.bench.time(|device| device.gather(shape, &table, &ids, &mut out).unwrap());
        print_row("gather", num_rows, ms, 2.0 * norm_row);
    }
}

fn print_row(name: &str, num_rows: u32, ms: f64, bytes: f64) {
    println!("{name}_t{num_rows}: {ms:.4} ms, {:.3} TB/s", bytes / ms / 1e9);
}

fn main() {
    let mut rows = Rows { bench: Bench::new() };
    for (num_tokens, head_dim) in [(8192, 128), (65_536, 128), (65_536, 64)] {
        rows.copies(num_tokens, head_dim);
    }
    for num_rows in [1, 64] {
        rows.sampling(num_rows, 128_256);
    }
    for num_rows in [1, 64, 2048] {
        rows.elementwise(num_rows);
    }
    rows.products();
}
