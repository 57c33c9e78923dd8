//! The CUDA executor: weights, KV store and steps behind the contract of `lazy_attn_types::exec`.

use std::collections::VecDeque;
use std::sync::Arc;

use lazy_attn::cuda::{CudaAttention, CudaDevice, CudaKvStore, DevicePlan, PinnedRing, PlanBounds};
use lazy_attn::{AttnError, KvDtype, KvLayout, PlanConfig, Planner, Schedule, Workers};
use lazy_attn_types::exec::Capability;
use lazy_attn_types::{ExecError, Executor, ExecutorInfo, Fingerprint, StepInput, StepOutput};

use super::decoder::{Decoder, Wanted, padded_rows};
use super::graphs::{Action, Graphs, Key};
use super::outputs::{Drawing, Outputs, Pending, STEPS_IN_FLIGHT};
use super::{CudaOptions, weights::Weights};
use crate::weights::{HalfDtype, HalfReader, Shard, TensorDtype};
use crate::{ModelError, ModelParts, Progress};

/// Copies of ids that may be under way.
const COPIES_IN_FLIGHT: usize = 2;
/// Logits are computed for at least so many rows at once: entries of a batch then begin at multiples of 16 bytes.
const MIN_LOGIT_ROWS: u32 = 4;
/// Partials there is room for at first; room grows when a step needs more.
const FIRST_SLOTS: usize = 1024;

/// Runs steps on a device.
#[derive(Debug)]
pub struct CudaExecutor {
    device: Arc<CudaDevice>,
    info: ExecutorInfo,
    decoder: Decoder,
    store: CudaKvStore,
    attention: CudaAttention,
    planner: Planner,
    workers: Workers,
    plan: DevicePlan,
    ids: PinnedRing<u32>,
    rows: PinnedRing<u32>,
    outputs: Outputs,
    graphs: Option<Graphs>,
    logit_rows: usize,
    /// Steps that were submitted and not waited for; `None` for one without tokens.
    submitted: VecDeque<Option<Pending>>,
    /// Rows of output of the last step: what the next one may carry.
    last_rows: usize,
}

/// A step, prepared.
struct Step {
    wanted: Wanted,
    drawing: Drawing,
    /// Rows of output.
    num_outputs: usize,
}

impl CudaExecutor {
    /// Copies the weights of `model` to `device` and reserves its KV store; the model's files are not needed afterwards.
    ///
    /// # Errors
    /// [`ModelError`] of the source; [`ModelError::Attention`] for sizes the kernels do not take, or if weights, activations
    /// or KV store do not fit into the device's memory.
    pub fn new(
        device: &Arc<CudaDevice>,
        model: ModelParts<'_>,
        options: &CudaOptions,
        progress: &dyn Progress,
    ) -> Result<CudaExecutor, ModelError> {
        let config = model.config;
        let dtype = options.dtype.map_or_else(|| stored_dtype(&model), Ok)?;
        progress.begin("weights", model.tensors.total_bytes());
        let reader = HalfReader { source: model.tensors, dtype, progress };
        let weights = Weights::load(device, config, reader, Shard::WHOLE)?;
        device.synchronize()?;
        progress.finish();

        let max_tokens = options.max_step_tokens as usize;
        let logit_rows = padded_rows(
            (options.max_logit_rows.max(MIN_LOGIT_ROWS) as usize).min(max_tokens.next_multiple_of(4)),
        );
        let decoder = Decoder::new(device, config, weights, dtype, [max_tokens, logit_rows])?;
        let (max_rows, vocab) = (padded_rows(max_tokens), decoder.sizes().vocab);
        let outputs = Outputs::new(device, max_rows, vocab)?;
        let plan = DevicePlan::new(device, first_bounds(max_tokens))?;
        let mut layout = KvLayout {
            num_layers: config.num_layers as u32,
            num_blocks: 1,
            block_size: options.block_size,
            num_kv_heads: config.num_kv_heads as u32,
            head_dim: config.head_dim as u32,
            dtype: kv_dtype(dtype),
        };
        layout.num_blocks = options.kv_budget.num_blocks(&layout, device.memory()?)?;
        let store = CudaKvStore::new(device, layout)?;
        let group_size = (config.num_q_heads / config.num_kv_heads) as u32;
        let plan_config = PlanConfig {
            window: config.sliding_window.and_then(std::num::NonZeroU32::new),
            ..PlanConfig::cuda(layout.block_size, device.max_item_tokens(group_size))
        };
        let info = ExecutorInfo {
            vocab_size: vocab as u32,
            num_blocks: layout.num_blocks,
            block_size: layout.block_size,
            kv_bytes_per_token: layout.bytes_per_token(),
            max_step_tokens: options.max_step_tokens,
            max_context_tokens: config.max_context_tokens as u32,
            fingerprint: fingerprint(&model, dtype),
            capability: Capability::Overlaps,
        };
        Ok(CudaExecutor {
            attention: decoder.attention(&store, plan.max_slots())?,
            workers: device.workers(&store, decoder.params())?,
            planner: Planner::new(plan_config)?,
            ids: PinnedRing::new(device, COPIES_IN_FLIGHT, max_rows)?,
            rows: PinnedRing::new(device, COPIES_IN_FLIGHT, max_rows)?,
            graphs: options.graphs.then(|| Graphs::new(device)),
            device: Arc::clone(device),
            info,
            decoder,
            store,
            plan,
            outputs,
            logit_rows,
            submitted: VecDeque::new(),
            last_rows: 0,
        })
    }

    /// Bytes of weights that a step of one token reads.
    #[must_use]
    pub fn weight_bytes_per_step(&self) -> u64 {
        self.decoder.weight_bytes_per_step()
    }

    /// Launches a step of a valid `input`, and the copies of its rows.
    fn launch(&mut self, input: &StepInput) -> Result<Pending, AttnError> {
        let plan = self.planner.plan(input);
        let schedule = Schedule::new(&plan, &self.workers);
        self.make_room(&schedule)?;
        let step = Step {
            wanted: self.send_rows(input)?,
            drawing: Drawing::of(input),
            num_outputs: input.output_tokens.len(),
        };
        let pending = self.outputs.begin(input)?;
        if self.launch_decode(&schedule, &step)? {
            let rows = (0, step.num_outputs);
            self.outputs.read_logits(&pending, &self.decoder.acts.logits, rows, false)?;
        } else {
            self.plan.write(&self.device, &schedule)?;
            self.launch_eager(&step, input.tokens.len(), &pending)?;
        }
        self.outputs.read_tokens(&pending)?;
        Ok(pending)
    }

    /// Sends ids, and which rows are wanted.
    fn send_rows(&mut self, input: &StepInput) -> Result<Wanted, AttnError> {
        let acts = &mut self.decoder.acts;
        let tokens = &input.tokens;
        self.ids.send(&self.device, tokens.len(), &mut acts.ids, |ids| {
            ids.iter_mut().zip(tokens).for_each(|(id, token)| *id = token.0);
            Ok::<(), AttnError>(())
        })?;
        self.outputs.carry(&input.carried, &mut acts.ids)?;
        let wanted = &input.output_tokens;
        if wanted.is_empty() {
            return Ok(Wanted::None);
        }
        let is_all = wanted.len() == tokens.len() && (0..).zip(wanted).all(|(row, &token)| row == token);
        if is_all {
            return Ok(Wanted::All);
        }
        self.rows.send(&self.device, wanted.len(), &mut acts.rows, |rows| {
            rows.copy_from_slice(wanted);
            Ok::<(), AttnError>(())
        })?;
        Ok(Wanted::Some(wanted.len()))
    }

    /// Launches a step whose rows are all wanted through a bucket of graphs; `false` if there is none for it.
    fn launch_decode(&mut self, schedule: &Schedule, step: &Step) -> Result<bool, AttnError> {
        let CudaExecutor { device, decoder, store, attention, outputs, graphs, .. } = self;
        let rows = schedule.num_tokens as usize;
        let (Some(graphs), Wanted::All) = (graphs, step.wanted) else { return Ok(false) };
        if padded_rows(rows) > self.logit_rows {
            return Ok(false);
        }
        let Some(bucket) = graphs.bucket(rows, schedule, self.plan.max_slots())? else { return Ok(false) };
        bucket.plan.write_for_graph(device, schedule)?;
        let key = Key { classes: bucket.plan.classes(), drawing: step.drawing };
        let padded = padded_rows(rows);
        let mut launch = |plan: &DevicePlan| -> Result<(), AttnError> {
            decoder.layers((&mut *store, &mut *attention), plan, padded, Wanted::All)?;
            decoder.finish(padded, Wanted::All)?;
            decoder.logits(0, padded)?;
            outputs.draw(step.drawing, &decoder.acts.logits, 0, padded)
        };
        match bucket.action(key) {
            Action::Launch => launch(&bucket.plan)?,
            Action::Replay(graph) => graph.replay()?,
            Action::Capture => {
                let mut graph = device.capture(|| launch(&bucket.plan))?;
                graph.replay()?;
                bucket.captured(key, graph);
            }
        }
        Ok(true)
    }

    /// Launches a step of any shape.
    fn launch_eager(&mut self, step: &Step, num_tokens: usize, pending: &Pending) -> Result<(), AttnError> {
        let CudaExecutor { decoder, store, attention, plan, outputs, logit_rows, .. } = self;
        decoder.layers((store, attention), plan, padded_rows(num_tokens), step.wanted)?;
        if step.wanted != Wanted::None {
            decoder.finish(padded_rows(step.num_outputs), step.wanted)?;
        }
        for first in (0..step.num_outputs.max(1)).step_by(*logit_rows) {
            let count = (*logit_rows).min(step.num_outputs - first);
            decoder.logits(first, count)?;
            outputs.draw(step.drawing, &decoder.acts.logits, first, count)?;
            let more_follow = first + count < step.num_outputs;
            outputs.read_logits(pending, &decoder.acts.logits, (first, count), more_follow)?;
        }
        Ok(())
    }

    /// Makes the plan and the partials larger if `schedule` needs it: rare, and not in a step that was met before.
    fn make_room(&mut self, schedule: &Schedule) -> Result<(), AttnError> {
        let (has, needs) = (*self.plan.bounds(), PlanBounds::of(schedule));
        let grown = grow(has, needs);
        if grown == has {
            return Ok(());
        }
        self.device.synchronize()?;
        self.plan = DevicePlan::new(&self.device, grown)?;
        if grown.slots > has.slots {
            if let Some(graphs) = &mut self.graphs {
                graphs.clear();
            }
            self.attention = self.decoder.attention(&self.store, grown.slots)?;
        }
        Ok(())
    }

    /// The error of a step; a device that answers nothing any more is lost.
    fn failed(&self, error: &AttnError) -> ExecError {
        match self.device.synchronize() {
            Ok(()) => ExecError::Failed(error.to_string()),
            Err(lost) => ExecError::DeviceLost(lost.to_string()),
        }
    }

    fn check(&self, input: &StepInput) -> Result<(), ExecError> {
        input.validate(&self.info)?;
        if input.tokens.len() > self.info.max_step_tokens as usize {
            let (got, max) = (input.tokens.len(), self.info.max_step_tokens);
            return Err(ExecError::InvalidStep(format!("{got} tokens, but a step runs at most {max}")));
        }
        if let Some(carried) = input.carried.iter().find(|carried| carried.row as usize >= self.last_rows) {
            let (row, rows) = (carried.row, self.last_rows);
            return Err(ExecError::InvalidStep(format!("it carries row {row}, the step before had {rows}")));
        }
        if self.submitted.len() >= STEPS_IN_FLIGHT {
            return Err(ExecError::InvalidStep(format!("{STEPS_IN_FLIGHT} steps are under way already")));
        }
        Ok(())
    }
}

impl Executor for CudaExecutor {
    fn info(&self) -> &ExecutorInfo {
        &self.info
    }

    fn execute(&mut self, input: &StepInput) -> Result<StepOutput, ExecError> {
        if !self.submitted.is_empty() {
            return Err(ExecError::InvalidStep("steps that were submitted have not been waited for".into()));
        }
        self.submit(input)?;
        self.wait()
    }

    fn submit(&mut self, input: &StepInput) -> Result<(), ExecError> {
        self.check(input)?;
        let pending = if input.tokens.is_empty() {
            None
        } else {
            Some(self.launch(input).map_err(|error| self.failed(&error))?)
        };
        self.last_rows = input.output_tokens.len();
        self.submitted.push_back(pending);
        Ok(())
    }

    fn wait(&mut self) -> Result<StepOutput, ExecError> {
        match self.submitted.pop_front() {
            None => Err(ExecError::InvalidStep("nothing was submitted".into())),
            Some(None) => Ok(StepOutput::default()),
            Some(Some(pending)) => self.outputs.wait(&pending).map_err(|error| self.failed(&error)),
        }
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

/// Bounds that hold both, those that grow rounded up so that growing is rare.
fn grow(has: PlanBounds, needs: PlanBounds) -> PlanBounds {
    let larger = |has: usize, needs: usize| if needs > has { needs.next_power_of_two() } else { has };
    PlanBounds {
        tokens: larger(has.tokens, needs.tokens),
        items: larger(has.items, needs.items),
        parts: larger(has.parts, needs.parts),
        rows: larger(has.rows, needs.rows),
        block_ids: larger(has.block_ids, needs.block_ids),
        merge_slots: larger(has.merge_slots, needs.merge_slots),
        slots: larger(has.slots, needs.slots),
    }
}

/// The element type of the files' projections, if it has 16 bits.
fn stored_dtype(model: &ModelParts<'_>) -> Result<HalfDtype, ModelError> {
    let config = model.config;
    let shape = [config.num_q_heads * config.head_dim, config.hidden_size];
    let stored = model.tensors.tensor("model.layers.0.self_attn.q_proj.weight", &shape)?.dtype;
    Ok(if stored == TensorDtype::F16 { HalfDtype::F16 } else { HalfDtype::Bf16 })
}

fn kv_dtype(dtype: HalfDtype) -> KvDtype {
    match dtype {
        HalfDtype::Bf16 => KvDtype::Bf16,
        HalfDtype::F16 => KvDtype::F16,
    }
}

/// Weights are part of it as they are held: another element type makes other keys.
fn fingerprint(model: &ModelParts<'_>, dtype: HalfDtype) -> Fingerprint {
    let own = format!("cuda {dtype:?}");
    let given = model.fingerprint_parts.iter().map(|(label, bytes)| (*label, bytes.as_slice()));
    Fingerprint::of(&given.chain([("weight and kv dtype", own.as_bytes())]).collect::<Vec<_>>())
}
