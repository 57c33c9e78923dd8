//! Runs the scenarios of the CPU tests on a device.

use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};

use half::{bf16, f16};
use lazy_attn::cuda::{CudaAttention, CudaDevice, CudaKvStore, DevicePlan, PlanBounds};
use lazy_attn::{AttnError, AttnParams, KvDtype, KvLayout, Plan, PlanConfig, RopeTable, Schedule};
use lazy_attn_types::BlockSize;

use crate::common::{LAYER, Rounding, Rows, Scenario, Shape, inv_freq, relative_error, scale};

/// The device, and the kernels from the file that `LAZY_ATTN_KERNELS` names.
pub(crate) fn device() -> Arc<CudaDevice> {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    let image = IMAGE.get_or_init(|| {
        let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/kernels/lazy_kernels.fatbin");
        let path = std::env::var("LAZY_ATTN_KERNELS").unwrap_or(built.to_owned());
        std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}; run `cargo xtask kernels`"))
    });
    Arc::new(CudaDevice::new(0, image.clone()).unwrap())
}

pub(crate) fn config(scenario: &Scenario) -> PlanConfig {
    let block_size = BlockSize::new(scenario.shape.block_size).unwrap();
    let window = scenario.window.and_then(NonZeroU32::new);
    let max_item_tokens = device().max_item_tokens(scenario.shape.group_size);
    PlanConfig { window, ..PlanConfig::cuda(block_size, max_item_tokens) }
}

pub(crate) fn narrow(dtype: KvDtype, values: &[f32]) -> Vec<u16> {
    let bits = |&value: &f32| match dtype {
        KvDtype::F16 => f16::from_f32(value).to_bits(),
        _ => bf16::from_f32(value).to_bits(),
    };
    values.iter().map(bits).collect()
}

pub(crate) fn widen(dtype: KvDtype, bits: &[u16]) -> Vec<f32> {
    let value = |&bits: &u16| match dtype {
        KvDtype::F16 => f16::from_bits(bits).to_f32(),
        _ => bf16::from_bits(bits).to_f32(),
    };
    bits.iter().map(value).collect()
}

/// Bytes that are copied at once.
const PIECE_BYTES: usize = 16 << 20;

/// A store and attention for one scenario.
pub(crate) struct Gpu {
    pub(crate) device: Arc<CudaDevice>,
    pub(crate) store: CudaKvStore,
    params: AttnParams,
    window: u32,
    max_workers: u32,
    dtype: KvDtype,
    keys: Keys,
}

/// How the store's keys lie there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    Rotated,
    Raw,
}

/// What the second step needs, kept so that it can be run again.
pub(crate) struct Prepared {
    pub(crate) plan: DevicePlan,
    pub(crate) attention: CudaAttention,
    pub(crate) q: cudarc::driver::CudaSlice<u16>,
    pub(crate) out: cudarc::driver::CudaSlice<u16>,
}

impl Gpu {
    /// A store of NaNs: reading an unwritten slot shows.
    pub(crate) fn new(scenario: &Scenario) -> Gpu {
        let (shape, device) = (scenario.shape, device());
        let layout = KvLayout {
            num_layers: LAYER + 1,
            num_blocks: scenario.num_blocks(),
            block_size: BlockSize::new(shape.block_size).unwrap(),
            num_kv_heads: shape.num_kv_heads,
            head_dim: shape.head_dim,
            dtype: shape.dtype,
        };
        let store = CudaKvStore::new(&device, layout).unwrap();
        let params = AttnParams {
            num_q_heads: shape.num_kv_heads * shape.group_size,
            rope: RopeTable::from_inv_freq(&inv_freq(shape)).unwrap(),
            softmax_scale: scale(shape) as f32,
        };
        let window = scenario.window.unwrap_or(0);
        let (dtype, max_workers, keys) = (shape.dtype, scenario.max_workers, Keys::Rotated);
        let mut gpu = Gpu { device, store, params, window, max_workers, dtype, keys };
        gpu.poison();
        gpu
    }

    /// The same with keys that lie as `keys` says.
    pub(crate) fn over(keys: Keys, scenario: &Scenario) -> Gpu {
        Gpu { keys, ..Gpu::new(scenario) }
    }

    /// Fills the store with NaNs.
    pub(crate) fn poison(&mut self) {
        self.fill(0xFF, f32::NAN);
    }

    /// Fills the store with one byte, and its scales.
    pub(crate) fn fill(&mut self, byte: u8, scale: f32) {
        let stream = Arc::clone(self.device.stream());
        let piece = stream.clone_htod(&vec![byte; PIECE_BYTES]).unwrap();
        let num_bytes = self.store.memory_mut().len();
        for begin in (0..num_bytes).step_by(PIECE_BYTES) {
            let end = num_bytes.min(begin + PIECE_BYTES);
            let mut target = self.store.memory_mut().slice_mut(begin..end);
            stream.memcpy_dtod(&piece.slice(..end - begin), &mut target).unwrap();
        }
        let scales = vec![scale; self.store.scales_mut().len()];
        stream.memcpy_htod(&scales, self.store.scales_mut()).unwrap();
    }

    pub(crate) fn schedule(&self, plan: &Plan) -> Schedule {
        let mut workers = self.device.workers(&self.store, &self.params).unwrap();
        workers.per_class = workers.per_class.map(|count| count.min(self.max_workers));
        Schedule::new(plan, &workers)
    }

    pub(crate) fn prepare(&mut self, plan: &Plan, rows: &Rows) -> Prepared {
        let schedule = self.schedule(plan);
        let stream = Arc::clone(self.device.stream());
        let mut device_plan = DevicePlan::new(&self.device, PlanBounds::of(&schedule)).unwrap();
        device_plan.write(&self.device, &schedule).unwrap();
        let attention = self.attention(device_plan.max_slots());
        let upload = |values: &[f32]| stream.clone_htod(&self.bits(values)).unwrap();
        let (k, v, q) = (upload(&rows.k), upload(&rows.v), upload(&rows.q));
        attention.append(&mut self.store, LAYER, &device_plan, &k, &v).unwrap();
        let out = stream.clone_htod(&vec![0xFFFFu16; rows.q.len()]).unwrap();
        Prepared { plan: device_plan, attention, q, out }
    }

    pub(crate) fn attention(&self, max_slots: usize) -> CudaAttention {
        let params = self.params.clone();
        let attention =
            CudaAttention::new(&self.device, &self.store, params, max_slots, self.window).unwrap();
        match self.keys {
            Keys::Rotated => attention,
            Keys::Raw => attention.rotating_keys(&self.store).unwrap(),
        }
    }

    /// Encodes the documents of a scenario, and what its tails have stored.
    pub(crate) fn encode(&mut self, scenario: &Scenario) {
        self.prepare_steps(scenario, 1);
    }

    /// Encodes, and prepares the step under test.
    pub(crate) fn query(&mut self, scenario: &Scenario) -> Prepared {
        self.prepare_steps(scenario, 2).unwrap()
    }

    /// Writes the keys and values of the first `num_steps` steps; what the last of them needs, if it has tokens.
    fn prepare_steps(&mut self, scenario: &Scenario, num_steps: usize) -> Option<Prepared> {
        let (mut prepared, mut step) = (None, 0);
        scenario.run_steps(config(scenario), |plan, rows| {
            step += 1;
            if step <= num_steps && plan.num_tokens() > 0 {
                prepared = Some(self.prepare(plan, rows));
            }
            Vec::new()
        });
        prepared
    }

    /// Attends without waiting for it.
    pub(crate) fn launch(&self, prepared: &mut Prepared) {
        self.try_launch(prepared).unwrap();
    }

    pub(crate) fn try_launch(&self, prepared: &mut Prepared) -> Result<(), AttnError> {
        let Prepared { plan, attention, q, out } = prepared;
        attention.attend(&self.store, LAYER, plan, q, out)
    }

    /// Reads what attention would.
    pub(crate) fn probe(&self, prepared: &Prepared) {
        prepared.attention.probe_reads(&self.store, LAYER, &prepared.plan).unwrap();
    }

    pub(crate) fn attend(&self, prepared: &mut Prepared) -> Vec<u16> {
        self.launch(prepared);
        self.device.stream().clone_dtoh(&prepared.out).unwrap()
    }

    pub(crate) fn bits(&self, values: &[f32]) -> Vec<u16> {
        narrow(self.dtype, values)
    }

    pub(crate) fn values(&self, bits: &[u16]) -> Vec<f32> {
        widen(self.dtype, bits)
    }
}

/// Runs the scenario: bits of `[num_tokens, num_q_heads * head_dim]`.
pub(crate) fn run(scenario: &Scenario, config: PlanConfig) -> Vec<u16> {
    run_over(Keys::Rotated, scenario, config)
}

/// The same over a store whose keys lie as `keys` says.
pub(crate) fn run_over(keys: Keys, scenario: &Scenario, config: PlanConfig) -> Vec<u16> {
    if scenario.requests.is_empty() {
        return Vec::new();
    }
    let mut gpu = Gpu::over(keys, scenario);
    let mut bits = Vec::new();
    scenario.run_steps(config, |plan, rows| {
        if plan.num_tokens() > 0 {
            let mut prepared = gpu.prepare(plan, rows);
            bits = gpu.attend(&mut prepared);
        }
        Vec::new()
    });
    bits
}

/// Compares with the oracles: the whole in the norm, and no element further off than rounding can take it.
pub(crate) fn check(scenario: &Scenario) {
    let got = widen(scenario.shape.dtype, &run(scenario, config(scenario)));
    compare(scenario, &got);
    scenario.assert_same_rounding(&got, Rounding::KeysAndQueries);
}

/// Compares with the oracle that rounds nothing.
pub(crate) fn compare(scenario: &Scenario, got: &[f32]) {
    let want = scenario.oracle();
    assert_eq!(got.len(), want.len());
    let unit = if scenario.shape.dtype == KvDtype::F16 { 2f64.powi(-11) } else { 2f64.powi(-9) };
    for (index, (&got, &(want, tolerance))) in got.iter().zip(&want).enumerate() {
        let difference = (f64::from(got) - want).abs();
        // The oracle's tolerance counts one rounding of every key and value; here the query is rounded too, after it is
        // rotated, and so are probabilities and results.
        let most = 2.0 * tolerance + 2.0 * unit;
        assert!(difference <= most, "element {index}: {got} is not {want} within {most} in {scenario:?}");
    }
    let want: Vec<f64> = want.into_iter().map(|(value, _)| value).collect();
    let relative = relative_error(got, &want);
    println!("relative error {relative:.2e}");
    assert!(relative <= scenario.relative_error_max(), "relative error {relative:.2e} in {scenario:?}");
}

/// Attends to a mix of shared and own segments `count` times more; the bits stay the same.
pub(crate) fn check_repetitions(shape: Shape, count: u32) {
    let mut scenario = Scenario::new(shape, &[1500, 333, 64]);
    for request in 0..7 {
        scenario = scenario.request(5 * request, &[0, 1, 2, 1], 90 * request, 1 + request % 3);
    }
    let mut gpu = Gpu::new(&scenario);
    scenario.run_steps(config(&scenario), |plan, rows| {
        let mut prepared = gpu.prepare(plan, rows);
        let first = gpu.attend(&mut prepared);
        for repetition in 0..count {
            assert!(gpu.attend(&mut prepared) == first, "repetition {repetition} differs");
        }
        Vec::new()
    });
}
