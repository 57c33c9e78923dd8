//! Loading a model's weights onto a CUDA device: the whole way beside its two halves, the link alone and making pieces alone.
//! The argument is a model: a folder with its weights, or a shape, whose weights are then random. Gigabytes are 10^9 bytes.
#![allow(clippy::unwrap_used, reason = "a bench stops at the first error")]

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use lazy_attn::cuda::{CudaDevice, KernelImage, PinnedRing};
use lazy_attn_models::cuda::{CudaExecutor, CudaKvBudget, CudaOptions};
use lazy_attn_models::weights::{
    FusedTensor, HalfDtype, HalfReader, Shard, Staging, layer_tensors, outer_tensors,
};
use lazy_attn_models::{LoadOptions, LoadedModel, ModelError, ModelParts, ModelRef, Progress, Silent, load};

/// Elements of a piece, as the loader's.
const PIECE_ELEMENTS: usize = 16 << 20;
const PIECES: usize = 3;
/// Copies of a piece that are timed.
const COPIES: usize = 128;

fn report(what: &str, bytes: f64, seconds: f64) {
    println!("{what:44} {:6.2} GB in {seconds:6.3} s: {:5.1} GB/s", bytes / 1e9, bytes / seconds / 1e9);
}

/// Pieces of pinned memory that nobody writes, one behind the other.
fn link(device: &CudaDevice) {
    let mut ring = PinnedRing::<u16>::new(device, PIECES, PIECE_ELEMENTS).unwrap();
    let mut memory = device.alloc::<u16>(PIECE_ELEMENTS).unwrap();
    let mut copy = || ring.send(device, PIECE_ELEMENTS, &mut memory, |_| Ok::<(), ModelError>(())).unwrap();
    copy();
    device.synchronize().unwrap();
    let start = Instant::now();
    (0..COPIES).for_each(|_| copy());
    device.synchronize().unwrap();
    report("copies of pinned memory", (COPIES * PIECE_ELEMENTS * 2) as f64, start.elapsed().as_secs_f64());
}

/// Memory that is overwritten again and again.
struct Discard(Vec<u16>);

impl Staging for Discard {
    fn capacity(&self) -> usize {
        self.0.len()
    }

    fn stage(
        &mut self,
        places: Range<usize>,
        fill: &mut dyn FnMut(&mut [u16]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        fill(&mut self.0[..places.len()])
    }
}

/// Reading or making every matrix, without a device.
fn making(model: &LoadedModel, what: &str) {
    let reader = HalfReader { source: model.tensors.as_ref(), dtype: HalfDtype::Bf16, progress: &Silent };
    let mut discard = Discard(vec![0; PIECE_ELEMENTS]);
    let outer = outer_tensors(&model.config, Shard::WHOLE).unwrap();
    let layers: Vec<_> = (0..model.config.num_layers)
        .map(|layer| layer_tensors(&model.config, layer, Shard::WHOLE).unwrap())
        .collect();
    let tensors: Vec<&FusedTensor> = layers.iter().flat_map(|layer| layer.all()).chain(outer.all()).collect();
    let start = Instant::now();
    tensors.iter().for_each(|tensor| reader.stream(tensor, &mut discard).unwrap());
    let bytes: usize = tensors.iter().map(|tensor| 2 * tensor.num_elements()).sum();
    report(what, bytes as f64, start.elapsed().as_secs_f64());
}

/// When the copying of weights began, and how long it took.
#[derive(Default)]
struct Clock(Mutex<(Option<Instant>, f64)>);

impl Progress for Clock {
    fn begin(&self, _task: &str, _total_bytes: u64) {
        self.0.lock().unwrap().0 = Some(Instant::now());
    }

    fn advance(&self, _bytes: u64) {}

    fn finish(&self) {
        let mut clock = self.0.lock().unwrap();
        clock.1 = clock.0.map_or(0.0, |start| start.elapsed().as_secs_f64());
    }
}

fn main() {
    let shape = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let shape = shape.unwrap_or("llama-3.1-8b".to_owned());
    let is_folder = std::path::Path::new(&shape).is_dir();
    let reference: ModelRef =
        if is_folder { shape.clone() } else { format!("random:7:{shape}") }.parse().unwrap();
    let start = Instant::now();
    let model = load(&reference, &LoadOptions::default()).unwrap();
    println!("{shape}: opened and hashed in {:.3} s", start.elapsed().as_secs_f64());
    let device = Arc::new(CudaDevice::new(0, KernelImage::find().unwrap().bytes).unwrap());
    link(&device);
    for turn in ["first", "again"] {
        let (clock, start) = (Clock::default(), Instant::now());
        let options = CudaOptions { kv_budget: CudaKvBudget::Blocks(1024), ..CudaOptions::default() };
        let executor = CudaExecutor::new(&device, ModelParts::from(&model), &options, &clock).unwrap();
        let whole = start.elapsed().as_secs_f64();
        drop(executor);
        let bytes = model.tensors.total_bytes() as f64;
        report(&format!("weights onto the device, {turn}"), bytes, clock.0.lock().unwrap().1);
        report(&format!("the whole executor, {turn}"), bytes, whole);
    }
    making(
        &model,
        if is_folder { "reading into one piece of memory" } else { "making in one piece of memory" },
    );
    link(&device);
}
