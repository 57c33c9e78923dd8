//! A device that is timed by its own events.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, sys::CUevent_flags};
use lazy_attn::cuda::CudaDevice;

/// Larger than any L2 cache.
const FLUSH_BYTES: usize = 256 << 20;
const REPETITIONS: usize = 40;

pub(crate) struct Bench {
    pub(crate) device: Arc<CudaDevice>,
    flush: CudaSlice<u8>,
}

impl Bench {
    /// The first device, with the kernels from the file that `LAZY_ATTN_KERNELS` names.
    pub(crate) fn new() -> Bench {
        let path = std::env::var("LAZY_ATTN_KERNELS").unwrap();
        let device = Arc::new(CudaDevice::new(0, std::fs::read(path).unwrap()).unwrap());
        let flush = device.stream().alloc_zeros::<u8>(FLUSH_BYTES).unwrap();
        Bench { device, flush }
    }

    /// Median milliseconds of `work`, the L2 cache flushed in between.
    pub(crate) fn time(&mut self, mut work: impl FnMut(&CudaDevice)) -> f64 {
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
}
