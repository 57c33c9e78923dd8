//! The CPU backend: the KV store, and the kernels that write and read it.
//!
//! Reading order: [`CpuAttention`] (this file), `store` (where keys and values live), `append` (writing them), `deviation`
//! (comparing them), `item`
//! (one work item), `unit` (its inner kernel), `fold` (how units become a result), `element` (stored types),
//! `dispatch` (instruction sets). For comparison: `raw` (keys rotated when they are read), `reencode` (copies for another
//! position).

mod append;
mod deviation;
mod dispatch;
mod element;
mod fold;
mod item;
mod raw;
mod reencode;
mod store;
mod unit;

use std::ops::Range;

use half::{bf16, f16};
use lazy_attn_types::StoredKeys;
use rayon::prelude::*;

pub use dispatch::CpuIsa;
pub(crate) use dispatch::Kernel;
pub use store::{KvDtype, KvLayout, KvStore};

use self::{
    append::{NewTokens, write_blocks},
    element::Element,
    fold::{Weight, record_elements},
    item::{Call, ItemTask},
    raw::PlaceAngles,
    reencode::Reencode,
};
use crate::{
    error::AttnError,
    isa::Isa,
    plan::Plan,
    reencode::BlockCopy,
    rope::{MAX_ROTARY_DIM, RopeTable},
};

/// What a model decides about attention.
#[derive(Debug, Clone, PartialEq)]
pub struct AttnParams {
    /// Query heads: a multiple of the store's KV heads.
    pub num_q_heads: u32,
    /// Rotation of queries and keys.
    pub rope: RopeTable,
    /// Factor of the scores, usually `1 / sqrt(head_dim)`, times the square of the attention factor under yarn.
    pub softmax_scale: f32,
}

/// Attention on the CPU: writes and reads a [`KvStore`] as a [`Plan`] says, on the current rayon pool.
#[derive(Debug)]
pub struct CpuAttention {
    params: AttnParams,
    isa: CpuIsa,
    /// `[kv_head, slot, group_size, head_dim + 2]`; kept from call to call.
    partials: Vec<f32>,
    place_angles: PlaceAngles,
}

/// Output elements below which merging stays on one thread.
const MIN_PARALLEL_OUTPUT: usize = 1 << 14;

impl CpuAttention {
    /// Attention with the fastest instruction set of this machine.
    #[must_use]
    pub fn new(params: AttnParams) -> CpuAttention {
        CpuAttention::with_isa(params, CpuIsa::detect())
    }

    /// Attention with the instruction set `isa`.
    #[must_use]
    pub fn with_isa(params: AttnParams, isa: CpuIsa) -> CpuAttention {
        CpuAttention { params, isa, partials: Vec::new(), place_angles: PlaceAngles::default() }
    }

    /// What the model decides.
    #[must_use]
    pub fn params(&self) -> &AttnParams {
        &self.params
    }

    /// The instruction set in use.
    #[must_use]
    pub fn isa(&self) -> CpuIsa {
        self.isa
    }

    /// Writes the keys and values of every token of the step to the slots the plan gives them. A key is rotated to its
    /// segment-local position, in f32, and rounded once.
    ///
    /// `k`, `v`: `[num_tokens, num_kv_heads * head_dim]`, `k` **not** rotated.
    ///
    /// # Errors
    /// [`AttnError::Mismatch`] if a size disagrees with the plan or the store.
    pub fn append(
        &self,
        store: &mut KvStore,
        layer: u32,
        plan: &Plan,
        k: &[f32],
        v: &[f32],
    ) -> Result<(), AttnError> {
        let layout = *store.layout();
        self.check(&layout, layer, plan)?;
        let elements = plan.num_tokens() as usize * (layout.num_kv_heads * layout.head_dim) as usize;
        AttnError::check_size("length of k", k.len(), elements)?;
        AttnError::check_size("length of v", v.len(), elements)?;
        let (rope, stored_keys, isa) = (&self.params.rope, plan.stored_keys(), self.isa);
        let new = NewTokens { layout: &layout, rope, keys: k, values: v, stored_keys, isa };
        match layout.dtype {
            KvDtype::F32 => write_blocks::<f32>(new, plan.writes(), store.layer_mut(layer), 0),
            KvDtype::F16 => write_blocks::<f16>(new, plan.writes(), store.layer_mut(layer), 0),
            KvDtype::Bf16 => write_blocks::<bf16>(new, plan.writes(), store.layer_mut(layer), 0),
            KvDtype::Fp8E4m3 => return Err(store::refused_width()),
        }
        Ok(())
    }

    /// Brings blocks to other positions in every layer, one copy after the other: values as they are, keys rotated and rounded
    /// once more.
    ///
    /// # Errors
    /// [`AttnError::Unsupported`] if the store has fewer blocks, or does not fit the model.
    pub fn reencode(&self, store: &mut KvStore, copies: &[BlockCopy]) -> Result<(), AttnError> {
        let layout = *store.layout();
        self.check_sizes(&layout)?;
        let highest = copies.iter().map(|copy| copy.from.0.max(copy.to.0)).max();
        if let Some(highest) = highest.filter(|&highest| highest >= layout.num_blocks) {
            let (value, rule) = (u64::from(highest), "the store has fewer blocks");
            return Err(AttnError::Unsupported { what: "block id", value, rule });
        }
        let reencode = Reencode { layout: &layout, rope: &self.params.rope, copies, isa: self.isa };
        match layout.dtype {
            KvDtype::F32 => reencode.run::<f32>(store.elements_mut()),
            KvDtype::F16 => reencode.run::<f16>(store.elements_mut()),
            KvDtype::Bf16 => reencode.run::<bf16>(store.elements_mut()),
            KvDtype::Fp8E4m3 => return Err(store::refused_width()),
        }
        Ok(())
    }

    /// Attends every query token of the step to its context.
    ///
    /// `q`, `out`: `[num_tokens, num_q_heads * head_dim]`, `q` **not** rotated. For a key stored at local index `i` of a
    /// segment that starts at `s`, the score of a query at `p` is `<R(p - s) q, R(i) k>`: stored keys are never touched.
    ///
    /// A result does not depend, bit by bit, on what else is in the step, on how the plan divides the work or on the
    /// number of threads, as long as the plan keeps one partial per unit.
    ///
    /// # Errors
    /// [`AttnError::Mismatch`] if a size disagrees with the plan or the store.
    pub fn attend(
        &mut self,
        store: &KvStore,
        layer: u32,
        plan: &Plan,
        q: &[f32],
        out: &mut [f32],
    ) -> Result<(), AttnError> {
        let layout = store.layout();
        self.check(layout, layer, plan)?;
        let elements = plan.num_tokens() as usize * (self.params.num_q_heads * layout.head_dim) as usize;
        AttnError::check_size("length of q", q.len(), elements)?;
        AttnError::check_size("length of out", out.len(), elements)?;
        match layout.dtype {
            KvDtype::F32 => self.attend_as(layout, store.layer::<f32>(layer), plan, q, out),
            KvDtype::F16 => self.attend_as(layout, store.layer::<f16>(layer), plan, q, out),
            KvDtype::Bf16 => self.attend_as(layout, store.layer::<bf16>(layer), plan, q, out),
            KvDtype::Fp8E4m3 => return Err(store::refused_width()),
        }
        Ok(())
    }

    fn check(&self, layout: &KvLayout, layer: u32, plan: &Plan) -> Result<(), AttnError> {
        self.check_sizes(layout)?;
        let block_size = plan.config().block_size.get() as usize;
        AttnError::check_size("block size of the plan", block_size, layout.block_size.get() as usize)?;
        let unsupported = |what, value, rule| Err(AttnError::Unsupported { what, value, rule });
        if layer >= layout.num_layers {
            return unsupported("layer", u64::from(layer), "the store has fewer layers");
        }
        if plan.num_blocks_min() > layout.num_blocks {
            return unsupported(
                "highest block id + 1",
                u64::from(plan.num_blocks_min()),
                "the store has fewer blocks",
            );
        }
        Ok(())
    }

    /// That the model is one whose keys and values the store can hold.
    fn check_sizes(&self, layout: &KvLayout) -> Result<(), AttnError> {
        let unsupported = |what, value, rule| Err(AttnError::Unsupported { what, value, rule });
        if self.params.num_q_heads == 0 || !self.params.num_q_heads.is_multiple_of(layout.num_kv_heads) {
            let value = u64::from(self.params.num_q_heads);
            return unsupported("num_q_heads", value, "it must be a multiple of the store's KV heads");
        }
        if self.params.rope.rotary_dim() > layout.head_dim as usize {
            let value = self.params.rope.rotary_dim() as u64;
            return unsupported("rotary_dim", value, "it is larger than head_dim");
        }
        Ok(())
    }

    fn attend_as<E: Element>(
        &mut self,
        layout: &KvLayout,
        layer: &[E],
        plan: &Plan,
        q: &[f32],
        out: &mut [f32],
    ) {
        let num_kv_heads = layout.num_kv_heads as usize;
        if plan.stored_keys() == StoredKeys::Raw {
            self.grow_angles(plan);
        }
        let call = Call {
            plan,
            rope: &self.params.rope,
            place_angles: &self.place_angles,
            q,
            layer,
            scale: self.params.softmax_scale * std::f32::consts::LOG2_E,
            num_kv_heads,
            group_size: self.params.num_q_heads as usize / num_kv_heads,
            head_dim: layout.head_dim as usize,
        };
        let num_elements = num_kv_heads * plan.num_slots() as usize * call.slot_elements();
        if self.partials.len() < num_elements {
            self.partials.resize(num_elements, 0.0);
        }
        let partials = &mut self.partials[..num_elements];
        run_tasks(&call, self.isa, 0..num_kv_heads * plan.items().len(), partials);
        let merge = |token: usize, out: &mut [f32]| {
            self.isa.run(MergeToken { call: &call, token, partials: &self.partials, out });
        };
        let token_elements = call.group_size * num_kv_heads * call.head_dim;
        if out.len() < MIN_PARALLEL_OUTPUT {
            out.chunks_exact_mut(token_elements).enumerate().for_each(|(token, out)| merge(token, out));
        } else {
            out.par_chunks_exact_mut(token_elements).enumerate().for_each(|(token, out)| merge(token, out));
        }
    }
}

impl CpuAttention {
    fn grow_angles(&mut self, plan: &Plan) {
        let num_places = plan.items().iter().flat_map(|item| plan.parts_of(item)).map(|part| part.keys.end);
        let num_places = num_places.max().unwrap_or(0) as usize;
        let CpuAttention { params, isa, place_angles, .. } = self;
        isa.run(GrowAngles { angles: place_angles, rope: &params.rope, num_places });
    }
}

/// Makes room for the places of a step.
struct GrowAngles<'a> {
    angles: &'a mut PlaceAngles,
    rope: &'a RopeTable,
    num_places: usize,
}

impl Kernel for GrowAngles<'_> {
    #[inline(always)]
    fn run<I: Isa>(self) {
        self.angles.grow::<I>(self.rope, self.num_places);
    }
}

/// Runs the tasks (KV head major, items in the order of their slots); `slots` is the memory of exactly these tasks.
fn run_tasks<E: Element>(call: &Call<'_, E>, isa: CpuIsa, tasks: Range<usize>, slots: &mut [f32]) {
    let items = call.plan.items();
    if tasks.len() <= 1 {
        if let Some(task) = tasks.clone().next() {
            isa.run(ItemTask { call, item: &items[task % items.len()], kv_head: task / items.len(), slots });
        }
        return;
    }
    // Halving makes tasks disjoint without a list of them: nothing is allocated.
    let first_slot = |task: usize| {
        let (kv_head, item) = (task / items.len(), task % items.len());
        kv_head * call.plan.num_slots() as usize + items[item].first_slot as usize
    };
    let middle = tasks.start + tasks.len() / 2;
    let at = (first_slot(middle) - first_slot(tasks.start)) * call.slot_elements();
    let (left, right) = slots.split_at_mut(at);
    rayon::join(
        || run_tasks(call, isa, tasks.start..middle, left),
        || run_tasks(call, isa, middle..tasks.end, right),
    );
}

/// Folds the partials of one query token, in the order of its context, into its output.
struct MergeToken<'a, E> {
    call: &'a Call<'a, E>,
    token: usize,
    /// `[kv_head, slot, group_size, head_dim + 2]`
    partials: &'a [f32],
    /// `[num_q_heads, head_dim]`
    out: &'a mut [f32],
}

impl<E: Element> Kernel for MergeToken<'_, E> {
    #[inline(always)]
    fn run<I: Isa>(self) {
        let call = self.call;
        let record_size = record_elements(call.head_dim);
        let num_slots = call.plan.num_slots() as usize;
        let focused = call.plan.focused_token(self.token);
        let mut focused = focused.map(|focused| (focused, [0.0; MAX_ROTARY_DIM]));
        for (q_head, out) in self.out.chunks_exact_mut(call.head_dim).enumerate() {
            let (kv_head, in_group) = (q_head / call.group_size, q_head % call.group_size);
            let mut weight = Weight::EMPTY;
            for &slot in call.plan.merge_list(self.token) {
                let record = (kv_head * num_slots + slot as usize) * call.group_size + in_group;
                let (unit_out, unit) = Weight::split(&self.partials[record * record_size..][..record_size]);
                match &mut focused {
                    Some((documents, scaled)) if documents.slot == slot => {
                        let scaled = &mut scaled[..call.head_dim];
                        let unit = unit.with_lse_times(documents.focus.scale(), unit_out, scaled);
                        weight.fold::<I>(out, unit, scaled);
                    }
                    _ => weight.fold::<I>(out, unit, unit_out),
                }
            }
            weight.normalise(out);
        }
    }
}
