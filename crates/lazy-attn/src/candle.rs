//! Attention over segments on [candle](candle_core) tensors, for models written with candle.
//!
//! [`SegmentAttention`] holds the kernels and the KV store of a model and is shared by its layers. Once per step it
//! takes a [`Plan`]; the [`SegmentStep`] it gives stands where a layer had its rotation, KV cache and softmax:
//!
//! ```
//! use candle_core::{Device, Result, Tensor};
//! use lazy_attn::candle::{SegmentAttention, SegmentStep};
//!
//! /// One layer: `q` `[num_tokens, num_q_heads, head_dim]`, `k` and `v` `[num_tokens, num_kv_heads, head_dim]`, `q` and
//! /// `k` not rotated.
//! fn layer(step: &SegmentStep, layer: u32, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
//!     step.append(layer, k, v)?;
//!     step.attend(layer, q) // the shape of q
//! }
//! # use lazy_attn::{AttnParams, CpuAttention, KvDtype, KvLayout, KvStore, PlanConfig, Planner, RopeTable};
//! # use lazy_attn_types::{BlockSize, StepInput};
//! # fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
//! # let (block_size, num_kv_heads, head_dim, dtype) = (BlockSize::DEFAULT, 2, 16, KvDtype::F32);
//! # let store = KvStore::new(KvLayout { num_layers: 1, num_blocks: 4, block_size, num_kv_heads, head_dim, dtype })?;
//! # let rope = RopeTable::from_inv_freq(&[1.0, 0.1])?;
//! # let kernels = CpuAttention::new(AttnParams { num_q_heads: 2, rope, softmax_scale: 0.25 });
//! # let plan = Planner::new(PlanConfig::cpu(block_size, num_kv_heads, 1))?.plan(&StepInput::default());
//!
//! let attention = SegmentAttention::new(kernels, store);
//! let step = attention.step(plan);
//! # let none = Tensor::from_slice(&[0f32; 0], (0, 2, 16), &Device::Cpu)?;
//! # assert_eq!(layer(&step, 0, &none, &none, &none)?.dims(), [0, 2, 16]);
//! # Ok(())
//! # }
//! ```
//!
//! Tensors are f32 on the CPU; whatever dtype the store has is converted by the kernels. A row-major tensor, or a
//! row-major view into one, is read where it lies; another one is copied first. This is inference: keys and values are
//! stored without their gradients, and a backward pass through [`SegmentStep::attend`] is an error.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use candle_core::{
    CpuStorage, CustomOp1, DType, DeviceLocation, Error, Layout, Result, Shape, Storage, Tensor,
};

use crate::{
    cpu::{CpuAttention, KvLayout, KvStore},
    plan::Plan,
};

/// The kernels and the KV store of one model; clones share them.
#[derive(Debug, Clone)]
pub struct SegmentAttention {
    backend: Arc<Mutex<Backend>>,
    layout: KvLayout,
    num_q_heads: u32,
}

#[derive(Debug)]
struct Backend {
    kernels: CpuAttention,
    store: KvStore,
}

impl SegmentAttention {
    /// Attention with `kernels` over `store`.
    #[must_use]
    pub fn new(kernels: CpuAttention, store: KvStore) -> SegmentAttention {
        let (layout, num_q_heads) = (*store.layout(), kernels.params().num_q_heads);
        SegmentAttention { backend: Arc::new(Mutex::new(Backend { kernels, store })), layout, num_q_heads }
    }

    /// Sizes of the store.
    #[must_use]
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// The step that `plan` describes, for all layers.
    #[must_use]
    pub fn step(&self, plan: impl Into<Arc<Plan>>) -> SegmentStep {
        SegmentStep { attention: self.clone(), plan: plan.into() }
    }

    /// Calls take turns. On a rayon thread a call does not wait for its turn: the call it waits for may have lent it
    /// this very thread, and would then never end.
    fn lock(&self) -> Result<MutexGuard<'_, Backend>> {
        // A panic leaves keys of its own step half written and nothing else, so the lock is good after one.
        if rayon::current_thread_index().is_none() {
            return Ok(self.backend.lock().unwrap_or_else(PoisonError::into_inner));
        }
        match self.backend.try_lock() {
            Ok(backend) => Ok(backend),
            Err(TryLockError::Poisoned(error)) => Ok(error.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Error::msg(
                "segment attention is busy with another call; on rayon threads, run the calls on one store one by one",
            )),
        }
    }
}

/// One step of a [`SegmentAttention`]: what its layers append and attend. Clones are cheap.
#[derive(Debug, Clone)]
pub struct SegmentStep {
    attention: SegmentAttention,
    plan: Arc<Plan>,
}

impl SegmentStep {
    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Writes the keys and values of every token of the step, as [`CpuAttention::append`] does.
    ///
    /// `k`, `v`: `[num_tokens, num_kv_heads, head_dim]` or `[num_tokens, num_kv_heads * head_dim]`, f32, on the CPU; `k`
    /// **not** rotated. They are read, not kept.
    ///
    /// # Errors
    /// [`Error::UnexpectedDType`] and [`Error::UnexpectedShape`]; [`Error::Msg`] for another device, and if the store is
    /// busy on a rayon thread; otherwise the [`AttnError`](crate::AttnError) of the kernels, wrapped.
    pub fn append(&self, layer: u32, k: &Tensor, v: &Tensor) -> Result<()> {
        let num_kv_heads = self.attention.layout.num_kv_heads;
        let (k, v) = (self.checked("k", k, num_kv_heads)?, self.checked("v", v, num_kv_heads)?);
        let ((k_storage, k_layout), (v_storage, v_layout)) = (k.storage_and_layout(), v.storage_and_layout());
        let k = row_major(on_cpu(&k_storage)?, k_layout)?;
        let v = row_major(on_cpu(&v_storage)?, v_layout)?;
        let mut backend = self.attention.lock()?;
        let Backend { kernels, store } = &mut *backend;
        kernels.append(store, layer, &self.plan, k, v).map_err(Error::wrap)
    }

    /// Attends every query token of the step to its context, as [`CpuAttention::attend`] does and with the same bits.
    ///
    /// `q`: `[num_tokens, num_q_heads, head_dim]` or `[num_tokens, num_q_heads * head_dim]`, f32, on the CPU, **not**
    /// rotated. Returns the shape of `q`. The keys and values of the step in this layer have to be appended before.
    ///
    /// # Errors
    /// The same as those of [`append`](SegmentStep::append).
    pub fn attend(&self, layer: u32, q: &Tensor) -> Result<Tensor> {
        let q = self.checked("q", q, self.attention.num_q_heads)?;
        // Not the variant without backward: it would cut the graph silently where an error is due.
        q.apply_op1(Attend { step: self.clone(), layer })
    }

    /// `tensor`, row-major, if it holds `num_heads` heads per token of the step.
    fn checked(&self, name: &str, tensor: &Tensor, num_heads: u32) -> Result<Tensor> {
        if !tensor.device().is_cpu() {
            return Err(not_on_cpu(tensor.device().location()));
        }
        if tensor.dtype() != DType::F32 {
            let msg = "segment attention takes f32 tensors: convert with `to_dtype`";
            return Err(Error::UnexpectedDType { msg, expected: DType::F32, got: tensor.dtype() }.bt());
        }
        let num_tokens = self.plan.num_tokens() as usize;
        let (num_heads, head_dim) = (num_heads as usize, self.attention.layout.head_dim as usize);
        let dims = tensor.dims();
        if dims != [num_tokens, num_heads, head_dim] && dims != [num_tokens, num_heads * head_dim] {
            let msg = format!("{name} is [num_tokens, num_heads, head_dim], the last two may be one");
            let expected = Shape::from((num_tokens, num_heads, head_dim));
            return Err(Error::UnexpectedShape { msg, expected, got: tensor.shape().clone() }.bt());
        }
        tensor.contiguous()
    }
}

/// [`SegmentStep::attend`] as candle sees it.
struct Attend {
    step: SegmentStep,
    layer: u32,
}

impl CustomOp1 for Attend {
    fn name(&self) -> &'static str {
        "segment-attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let q = row_major(storage, layout)?;
        let mut out = vec![0.0; q.len()]; // the shape of q
        let mut backend = self.step.attention.lock()?;
        let Backend { kernels, store } = &mut *backend;
        kernels.attend(store, self.layer, &self.step.plan, q, &mut out).map_err(Error::wrap)?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

fn on_cpu(storage: &Storage) -> Result<&CpuStorage> {
    match storage {
        Storage::Cpu(storage) => Ok(storage),
        other => Err(not_on_cpu(other.device().location())),
    }
}

fn not_on_cpu(location: DeviceLocation) -> Error {
    let hint = "move it with `to_device`";
    Error::msg(format!("segment attention runs on the CPU, but a tensor is on {location:?}: {hint}"))
}

/// The elements of a row-major tensor, where they lie.
fn row_major<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let not_row_major = || Error::RequiresContiguous { op: "segment-attention" }.bt();
    let (begin, end) = layout.contiguous_offsets().ok_or_else(not_row_major)?;
    Ok(&storage.as_slice::<f32>()?[begin..end])
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use lazy_attn_types::{BlockSize, StepInput};

    use super::*;
    use crate::{AttnParams, KvDtype, PlanConfig, Planner, RopeTable};

    #[test]
    fn a_call_on_a_rayon_thread_never_waits_for_another() {
        let (block_size, dtype) = (BlockSize::DEFAULT, KvDtype::F32);
        let layout =
            KvLayout { num_layers: 1, num_blocks: 1, block_size, num_kv_heads: 1, head_dim: 16, dtype };
        let rope = RopeTable::from_inv_freq(&[]).unwrap();
        let kernels = CpuAttention::new(AttnParams { num_q_heads: 1, rope, softmax_scale: 1.0 });
        let attention = SegmentAttention::new(kernels, KvStore::new(layout).unwrap());
        let planner = Planner::new(PlanConfig::cpu(block_size, 1, 1)).unwrap();
        let step = attention.step(planner.plan(&StepInput::default()));
        let none = Tensor::from_slice(&[0f32; 0], (0, 16), &Device::Cpu).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();

        let guard = attention.lock().unwrap();
        let busy = pool.install(|| step.attend(0, &none)).unwrap_err();
        assert!(busy.to_string().contains("busy"), "{busy}");
        drop(guard);
        pool.install(|| step.attend(0, &none)).unwrap();
    }
}
