//! Sums over devices that share a model, by NCCL. Its handles may move between threads, and take 16-bit elements under their
//! own type, neither of which the binding knows.
#![allow(unsafe_code)]

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaViewMut};
use cudarc::nccl::result::NcclError;
use cudarc::nccl::safe::{Comm, NcclType, ReduceOp};
use cudarc::nccl::sys;
use half::{bf16, f16};
use lazy_attn_sys::ElementType;

use super::attention::{CudaDevice, device_error};
use crate::error::AttnError;

/// One of several devices that add up what each has computed. All of them must call the same sums in the same order, each from
/// a thread of its own: a sum may wait for the others before it returns.
pub struct Collective(Comm);

// SAFETY: a communicator is memory of the library, not bound to a thread; NCCL asks that one is not used from two threads at
// once, which `&mut self` of the sums rules out.
unsafe impl Send for Collective {}

impl std::fmt::Debug for Collective {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collective").field("rank", &self.rank()).field("world", &self.world()).finish()
    }
}

impl Collective {
    /// Connects `devices`, each of another ordinal; the first is rank 0.
    ///
    /// # Errors
    /// [`AttnError::Device`] if NCCL is not installed, or cannot connect them.
    pub fn connect(devices: &[Arc<CudaDevice>]) -> Result<Vec<Collective>, AttnError> {
        // SAFETY: the call only opens the library by its usual names and closes it again.
        if !unsafe { sys::is_culib_present() } {
            let reason = "libnccl was not found; install NCCL 2 or use one device".to_owned();
            return Err(AttnError::Device { action: "opening NCCL", reason });
        }
        let streams: Vec<Arc<CudaStream>> =
            devices.iter().map(|device| Arc::clone(device.stream())).collect();
        let comms = Comm::from_devices(streams).map_err(failed("connecting devices"))?;
        Ok(comms.into_iter().map(Collective).collect())
    }

    /// Which device it is, from 0.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.0.rank()
    }

    /// How many devices there are.
    #[must_use]
    pub fn world(&self) -> usize {
        self.0.world_size()
    }

    /// Replaces `memory` on every device by the sum of all, in elements of `element`.
    ///
    /// # Errors
    /// [`AttnError::Device`] if NCCL fails.
    pub fn sum(&mut self, element: ElementType, memory: &mut CudaViewMut<'_, u16>) -> Result<(), AttnError> {
        match element {
            ElementType::Bf16 => self.sum_as::<bf16>(memory),
            ElementType::F16 => self.sum_as::<f16>(memory),
        }
    }

    fn sum_as<T: NcclType>(&mut self, memory: &mut CudaViewMut<'_, u16>) -> Result<(), AttnError> {
        let len = memory.len();
        // SAFETY: both types have 16 bits, and any bits are one of either.
        let Some(mut elements) = (unsafe { memory.transmute_mut::<T>(len) }) else { return Ok(()) };
        self.all_reduce(&mut elements)
    }

    /// The same for `f32`.
    ///
    /// # Errors
    /// As for [`Collective::sum`].
    pub fn sum_f32(&mut self, memory: &mut CudaViewMut<'_, f32>) -> Result<(), AttnError> {
        self.all_reduce(memory)
    }

    fn all_reduce<T: NcclType>(&mut self, memory: &mut CudaViewMut<'_, T>) -> Result<(), AttnError> {
        self.0.context().bind_to_thread().map_err(device_error("choosing a context"))?;
        self.0.all_reduce_in_place(memory, &ReduceOp::Sum).map_err(failed("summing over devices"))?;
        Ok(())
    }
}

fn failed(action: &'static str) -> impl Fn(NcclError) -> AttnError {
    move |error| AttnError::Device { action, reason: format!("NCCL: {error:?}") }
}
