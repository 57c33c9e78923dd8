//! From a model to an executor: weights and activations on the device, then a KV store of the size that is left.

use std::collections::VecDeque;
use std::sync::Arc;

use lazy_attn::cuda::{CudaDevice, CudaKvStore, CudaRope, DevicePlan, PinnedRing, PlanBounds};
use lazy_attn::{KvDtype, KvLayout, PlanConfig, Planner};
use lazy_attn_types::exec::Capability;
use lazy_attn_types::{ExecutorInfo, Fingerprint, StoredKeys};

use super::decoder::{Decoder, Part, padded_rows};
use super::graphs::Graphs;
use super::outputs::Outputs;
use super::{CudaExecutor, CudaOptions, weights::Weights};
use crate::weights::{HalfDtype, HalfReader, TensorDtype};
use crate::{ModelError, ModelParts, Progress};

/// Copies of ids that may be under way.
const COPIES_IN_FLIGHT: usize = 2;
/// Logits are computed for at least so many rows at once: entries of a batch then begin at multiples of 16 bytes.
const MIN_LOGIT_ROWS: u32 = 4;
/// Partials there is room for at first; room grows when a step needs more.
const FIRST_SLOTS: usize = 1024;

/// A device with its part of a model, before the size of its KV store is settled: devices that share a model agree on it.
pub(super) struct Prepared {
    device: Arc<CudaDevice>,
    decoder: Decoder,
    outputs: Outputs,
    plan: DevicePlan,
    layout: KvLayout,
    rope: Option<CudaRope>,
    /// For rotated keys, and for raw ones.
    plan_configs: [PlanConfig; 2],
    info: ExecutorInfo,
    graphs: bool,
    logit_rows: usize,
}

impl Prepared {
    /// Copies the weights of `part` to `device`.
    pub(super) fn new(
        device: &Arc<CudaDevice>,
        model: ModelParts<'_>,
        options: &CudaOptions,
        progress: &dyn Progress,
        part: Part,
    ) -> Result<Prepared, ModelError> {
        let config = model.config;
        let dtype = options.dtype.map_or_else(|| stored_dtype(&model), Ok)?;
        progress.begin("weights", model.tensors.total_bytes());
        let reader = HalfReader { source: model.tensors, dtype, progress };
        let weights = Weights::load(device, config, reader, part.shard)?;
        device.synchronize()?;
        progress.finish();

        let max_tokens = options.max_step_tokens as usize;
        let logit_rows = padded_rows(
            (options.max_logit_rows.max(MIN_LOGIT_ROWS) as usize).min(max_tokens.next_multiple_of(4)),
        );
        // A captured step would hold the sums of several devices.
        let graphs = options.graphs && part.collective.is_none();
        let world = part.shard.world() as u64;
        let how = (dtype, options.products, part);
        let decoder = Decoder::new(device, config, weights, how, [max_tokens, logit_rows])?;
        let sizes = *decoder.sizes();
        let outputs = Outputs::new(device, padded_rows(max_tokens), sizes.vocab)?;
        let plan = DevicePlan::new(device, first_bounds(max_tokens))?;
        let mut layout = KvLayout {
            num_layers: config.num_layers as u32,
            num_blocks: 1,
            block_size: options.block_size,
            num_kv_heads: sizes.num_kv_heads as u32,
            head_dim: sizes.head_dim as u32,
            dtype: options.kv_dtype(dtype)?,
        };
        layout.num_blocks = options.kv_budget.num_blocks(&layout, device.memory()?)?;
        let group_size = (sizes.num_q_heads / sizes.num_kv_heads) as u32;
        let plan_config = PlanConfig {
            window: config.sliding_window.and_then(std::num::NonZeroU32::new),
            ..PlanConfig::cuda(layout.block_size, device.max_item_tokens(group_size))
        };
        let info = ExecutorInfo {
            vocab_size: sizes.vocab as u32,
            num_blocks: layout.num_blocks,
            block_size: layout.block_size,
            kv_bytes_per_token: world * layout.bytes_per_token(),
            max_step_tokens: options.max_step_tokens,
            max_context_tokens: config.max_context_tokens as u32,
            fingerprint: fingerprint(&model, dtype, layout.dtype),
            capability: Capability::Overlaps,
            stored_keys: stored_keys(&decoder, layout.dtype),
        };
        let rope = match decoder.params().rope.rotary_dim() {
            0 => None,
            _ => Some(CudaRope::new(device, &decoder.params().rope)?),
        };
        // A tile of keys that are rotated as they are read has 16 rows.
        let raw_config = PlanConfig { max_item_tokens: (16 / group_size).max(1), ..plan_config };
        let plan_configs = [plan_config, raw_config];
        let device = Arc::clone(device);
        Ok(Prepared { device, rope, decoder, outputs, plan, layout, plan_configs, info, graphs, logit_rows })
    }

    /// Blocks of a KV store that the budget allows on this device.
    pub(super) fn num_blocks(&self) -> u32 {
        self.layout.num_blocks
    }

    /// Reserves the KV store.
    pub(super) fn finish(self, num_blocks: u32) -> Result<CudaExecutor, ModelError> {
        let Prepared { device, decoder, outputs, plan, layout, info, rope, .. } = self;
        let [rotated, raw] = self.plan_configs;
        let store = CudaKvStore::new(&device, KvLayout { num_blocks, ..layout })?;
        let max_rows = padded_rows(info.max_step_tokens as usize);
        Ok(CudaExecutor {
            attention: decoder.attention(&store, plan.max_slots())?,
            workers: device.workers(&store, decoder.params())?,
            planner: Planner::new(rotated)?,
            raw_planner: Planner::new(raw)?,
            rope,
            ids: PinnedRing::new(&device, COPIES_IN_FLIGHT, max_rows)?,
            rows: PinnedRing::new(&device, COPIES_IN_FLIGHT, max_rows)?,
            graphs: self.graphs.then(|| Graphs::new(&device)),
            info: ExecutorInfo { num_blocks, ..info },
            device,
            decoder,
            store,
            plan,
            outputs,
            logit_rows: self.logit_rows,
            submitted: VecDeque::new(),
            last_rows: 0,
        })
    }
}

fn first_bounds(max_tokens: usize) -> PlanBounds {
    PlanBounds {
        tokens: max_tokens,
        items: 4096,
        parts: 16_384,
        rows: 2 * max_tokens + 4096,
        block_ids: 65_536,
        merge_slots: 4 * max_tokens + 16_384,
        slots: FIRST_SLOTS,
    }
}

/// The element type of the files' projections, if it has 16 bits.
fn stored_dtype(model: &ModelParts<'_>) -> Result<HalfDtype, ModelError> {
    let config = model.config;
    let shape = [config.num_q_heads * config.head_dim, config.hidden_size];
    let stored = model.tensors.tensor("model.layers.0.self_attn.q_proj.weight", &shape)?.dtype;
    Ok(if stored == TensorDtype::F16 { HalfDtype::F16 } else { HalfDtype::Bf16 })
}

/// Weights are part of it as they are held: another element type makes other keys.
fn fingerprint(model: &ModelParts<'_>, dtype: HalfDtype, kv: KvDtype) -> Fingerprint {
    let own = format!("cuda {dtype:?} {kv:?}");
    let given = model.fingerprint_parts.iter().map(|(label, bytes)| (*label, bytes.as_slice()));
    Fingerprint::of(&given.chain([("weight and KV dtype", own.as_bytes())]).collect::<Vec<_>>())
}

/// Keys are rotated as they are read where all of a head rotates and elements have 16 bits.
fn stored_keys(decoder: &Decoder, dtype: KvDtype) -> &'static [StoredKeys] {
    let is_whole = decoder.params().rope.rotary_dim() == decoder.sizes().head_dim;
    let can_be_raw = is_whole && dtype != KvDtype::Fp8E4m3;
    if can_be_raw { &[StoredKeys::Rotated, StoredKeys::Raw] } else { &[StoredKeys::Rotated] }
}
