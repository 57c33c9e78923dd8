//! Copies of KV blocks, as they are and with their keys re-encoded, beside the driver's copy of as many bytes; and sampling.
//!
//! Prints milliseconds and TB/s (bytes read and written), medians of 40 with the L2 cache flushed in between. The kernels
//! come from the file that `LAZY_ATTN_KERNELS` names.
#![allow(clippy::unwrap_used)]

use cudarc::driver::{CudaSlice, sys::CUevent_flags};
use lazy_attn::cuda::{BlockCopies, BlockCopy, CudaDevice, CudaKvStore, CudaRope, LogitShape};
use lazy_attn::{KvDtype, KvLayout, RopeTable};
use lazy_attn_sys::abi::LaSampling;
use lazy_attn_types::{BlockId, BlockSize};

const NUM_KV_HEADS: u32 = 8;
const BLOCK_SIZE: u32 = 16;
/// Larger than any L2 cache.
const FLUSH_BYTES: usize = 256 << 20;
const REPETITIONS: usize = 40;

struct Bench {
    device: CudaDevice,
    flush: CudaSlice<u8>,
}

impl Bench {
    /// Median milliseconds of `work`.
    fn time(&mut self, mut work: impl FnMut(&CudaDevice)) -> f64 {
        let stream = self.device.stream().clone();
        let mut times: Vec<f32> = (0..REPETITIONS + 3)
            .map(|_| {
                stream.memset_zeros(&mut self.flush).unwrap();
                let start = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
                work(&self.device);
                let end = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
                start.elapsed_ms(&end).unwrap()
            })
            .skip(3)
            .collect();
        times.sort_by(f32::total_cmp);
        f64::from(times[times.len() / 2])
    }

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
        let mut store = CudaKvStore::new(&self.device, layout).unwrap();
        // Elements of about one: zeros are faster than real data.
        let noise: Vec<u8> = (0..store.memory_mut().len() as u32)
            .map(|byte| if byte % 2 == 1 { 0x3F } else { (byte.wrapping_mul(2_654_435_761) >> 24) as u8 })
            .collect();
        self.device.stream().memcpy_htod(&noise, store.memory_mut()).unwrap();
        let scattered = |index: u32| BlockId(index.wrapping_mul(2_654_435_761) % layout.num_blocks);
        let copy = |index| BlockCopy {
            from: scattered(index),
            to: scattered(index + num_copies),
            distance: 1000 + index as i32,
        };
        let copies: Vec<BlockCopy> = (0..num_copies).map(copy).collect();
        let copies = BlockCopies::new(&self.device, &copies).unwrap();
        let inv_freq: Vec<f32> =
            (0..head_dim / 2).map(|pair| 500_000f32.powf(-2.0 * pair as f32 / head_dim as f32)).collect();
        let rope = CudaRope::new(&self.device, &RopeTable::from_inv_freq(&inv_freq).unwrap()).unwrap();

        let half = (num_tokens * NUM_KV_HEADS * head_dim * 4) as usize;
        let from = self.device.stream().clone_htod(&noise[..half]).unwrap();
        let mut to = self.device.stream().alloc_zeros::<u8>(half).unwrap();
        let bytes = 2.0 * half as f64;
        let driver = self.time(|device| device.stream().memcpy_dtod(&from, &mut to).unwrap());
        let copied = self.time(|device| device.copy_blocks(&mut store, 0, &copies).unwrap());
        let reencoded = self.time(|device| device.reencode_blocks(&mut store, 0, &copies, &rope).unwrap());
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
        let stream = self.device.stream().clone();
        let logits = stream.clone_htod(&logits).unwrap();
        let mut tokens = stream.alloc_zeros::<u32>(num_rows as usize).unwrap();
        let ms = self.time(|device| device.argmax(shape, &logits, &mut tokens).unwrap());
        println!("argmax_b{num_rows}_v{vocab_size}: {ms:.4} ms");
        let all =
            LaSampling { temperature: 1.0, top_p: 1.0, repetition: 1.0, seed: 7, ..LaSampling::default() };
        let with_top_p = LaSampling { top_p: 0.95, ..all };
        for (name, row) in
            [("all", all), ("top_p", with_top_p), ("top_k_top_p", LaSampling { top_k: 50, ..with_top_p })]
        {
            let rows = stream.clone_htod(&vec![row; num_rows as usize]).unwrap();
            let ms = self.time(|device| device.sample(shape, &rows, &logits, &mut tokens).unwrap());
            println!("sample_{name}_b{num_rows}_v{vocab_size}: {ms:.4} ms");
        }
    }
}

fn main() {
    let path = std::env::var("LAZY_ATTN_KERNELS").unwrap();
    let device = CudaDevice::new(0, std::fs::read(path).unwrap()).unwrap();
    let flush = device.stream().alloc_zeros::<u8>(FLUSH_BYTES).unwrap();
    let mut bench = Bench { device, flush };
    for (num_tokens, head_dim) in [(8192, 128), (65_536, 128), (65_536, 64)] {
        bench.copies(num_tokens, head_dim);
    }
    for num_rows in [1, 64] {
        bench.sampling(num_rows, 128_256);
    }
}
