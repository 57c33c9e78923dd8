//! The CUDA executor: weights, KV store and steps behind the contract of `lazy_attn_types::exec`.

use std::collections::VecDeque;
use std::sync::Arc;

use lazy_attn::cuda::{
    BlockCopies, CudaAttention, CudaDevice, CudaKvStore, CudaRope, DevicePlan, PinnedRing, PlanBounds,
};
use lazy_attn::reencode::{independent, reencoded_blocks};
use lazy_attn::{AttnError, DeviationSums, Planner, Schedule, Workers};
use lazy_attn_types::{
    BlockPairs, ExecError, Executor, ExecutorInfo, SegmentView, StepInput, StepOutput, StoredKeys,
};

use super::decoder::{Decoder, Part, Wanted, padded_rows};
use super::graphs::{Action, Graphs, Key};
use super::outputs::{Drawing, Outputs, Pending, STEPS_IN_FLIGHT};
use super::{CudaOptions, prepare::Prepared};
use crate::weights::Shard;
use crate::{ModelError, ModelParts, Progress};

/// Runs steps on a device.
#[derive(Debug)]
pub struct CudaExecutor {
    pub(super) device: Arc<CudaDevice>,
    pub(super) info: ExecutorInfo,
    pub(super) decoder: Decoder,
    pub(super) store: CudaKvStore,
    pub(super) attention: CudaAttention,
    pub(super) planner: Planner,
    pub(super) raw_planner: Planner,
    /// What re-encoding rotates by; none if nothing rotates.
    pub(super) rope: Option<CudaRope>,
    pub(super) workers: Workers,
    pub(super) plan: DevicePlan,
    pub(super) ids: PinnedRing<u32>,
    pub(super) rows: PinnedRing<u32>,
    pub(super) outputs: Outputs,
    pub(super) graphs: Option<Graphs>,
    pub(super) logit_rows: usize,
    /// Steps that were submitted and not waited for; `None` for one without tokens.
    pub(super) submitted: VecDeque<Option<Pending>>,
    /// Rows of output of the last step: what the next one may carry.
    pub(super) last_rows: usize,
}

/// A step, prepared.
struct Step {
    wanted: Wanted,
    drawing: Drawing,
    /// Rows of output.
    num_outputs: usize,
    stored_keys: StoredKeys,
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
        let part = Part { shard: Shard::WHOLE, collective: None };
        let prepared = Prepared::new(device, model, options, progress, part)?;
        let num_blocks = prepared.num_blocks();
        prepared.finish(num_blocks)
    }

    /// Bytes of weights that a step of one token reads.
    #[must_use]
    pub fn weight_bytes_per_step(&self) -> u64 {
        self.decoder.weight_bytes_per_step()
    }

    /// Launches a step of a valid `input`, and the copies of its rows.
    fn launch(&mut self, input: &StepInput) -> Result<Pending, AttnError> {
        let planner = match input.stored_keys {
            StoredKeys::Rotated => &self.planner,
            StoredKeys::Raw => &self.raw_planner,
        };
        let plan = planner.plan(input);
        let schedule = Schedule::new(&plan, &self.workers);
        self.make_room(&schedule)?;
        self.attention.store_keys(&self.store, input.stored_keys)?;
        let step = Step {
            wanted: self.send_rows(input)?,
            drawing: Drawing::of(input),
            num_outputs: input.output_tokens.len(),
            stored_keys: input.stored_keys,
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

    /// Launches what `input` wants at other positions, in every layer.
    fn reencode(&mut self, input: &StepInput) -> Result<(), AttnError> {
        let copies = reencoded_blocks(input, self.info.block_size);
        for range in independent(&copies) {
            let copies = BlockCopies::new(&self.device, &copies[range])?;
            for layer in 0..self.store.layout().num_layers {
                match &self.rope {
                    Some(rope) => self.device.reencode_blocks(&mut self.store, layer, &copies, rope)?,
                    None => self.device.copy_blocks(&mut self.store, layer, &copies)?,
                }
            }
        }
        Ok(())
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
        let stored_keys = step.stored_keys;
        let rows = schedule.num_tokens as usize;
        let (Some(graphs), Wanted::All) = (graphs, step.wanted) else { return Ok(false) };
        if padded_rows(rows) > self.logit_rows {
            return Ok(false);
        }
        let Some(bucket) = graphs.bucket(rows, schedule, self.plan.max_slots())? else { return Ok(false) };
        bucket.plan.write_for_graph(device, schedule)?;
        let key = Key { classes: bucket.plan.classes(), drawing: step.drawing, stored_keys };
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

    /// What [`Executor::key_deviation`] divides, over the KV heads that are here.
    pub(super) fn deviation_sums(&self, blocks: BlockPairs<'_>) -> Result<DeviationSums, ExecError> {
        self.device.key_deviation(&self.store, blocks).map_err(|error| self.failed(&error))
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
        let is_moved = |view: &SegmentView| view.origin != view.start;
        if self.planner.config().window.is_some() && input.segments.iter().any(is_moved) {
            let problem = "the kernels mask by where keys are rotated from, and this model has a window";
            return Err(ExecError::InvalidStep(problem.into()));
        }
        if !input.focused.is_empty() {
            return Err(ExecError::InvalidStep("the kernels look at all keys in one way".into()));
        }
        let block_size = self.info.block_size.get();
        if let Some(view) = input.segments.iter().find(|view| !view.first_seen.is_multiple_of(block_size)) {
            let first = view.first_seen;
            let problem =
                format!("a view begins at token {first}, but the kernels show whole blocks of {block_size}");
            return Err(ExecError::InvalidStep(problem));
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

    /// The kernels count the window from where the queries are turned, which for a part of a segment lies before its keys.
    /// Otherwise views begin with a block: the kernels have no bound below but the window.
    fn view_grain(&self) -> Option<u32> {
        self.planner.config().window.is_none().then_some(self.info.block_size.get())
    }

    fn key_deviation(&mut self, blocks: BlockPairs<'_>) -> Result<Vec<f32>, ExecError> {
        self.deviation_sums(blocks).map(|sums| sums.means())
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
        let launched = self.reencode(input).and_then(|()| match input.tokens.is_empty() {
            true => Ok(None),
            false => self.launch(input).map(Some),
        });
        let pending = launched.map_err(|error| self.failed(&error))?;
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
