//! Launches that are captured once and replayed. The raw handles of a graph may move between threads, which the binding does
//! not know.
#![allow(unsafe_code)]

use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

use super::attention::{CudaDevice, device_error};
use crate::error::AttnError;

/// Launches in the order in which they were captured, with the addresses and sizes they had then.
pub struct CapturedGraph(CudaGraph);

// SAFETY: graphs are memory of the driver, not bound to a thread; the driver asks that one is not used from two threads at
// once, which `&mut self` of `replay` rules out.
unsafe impl Send for CapturedGraph {}

impl std::fmt::Debug for CapturedGraph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CapturedGraph").finish_non_exhaustive()
    }
}

impl CapturedGraph {
    /// Runs the launches again, in stream order. The memory they use must still be there: whoever captured them keeps it.
    ///
    /// # Errors
    /// [`AttnError::Device`] if the launch fails.
    pub fn replay(&mut self) -> Result<(), AttnError> {
        self.0.launch().map_err(device_error("replaying a graph"))
    }
}

impl CudaDevice {
    /// Captures what `launches` launches on this device's stream; nothing runs.
    ///
    /// # Errors
    /// That of `launches`; [`AttnError::Device`] if something in it cannot be captured, such as a wait.
    pub fn capture(
        &self,
        launches: impl FnOnce() -> Result<(), AttnError>,
    ) -> Result<CapturedGraph, AttnError> {
        let stream = self.stream();
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(device_error("capturing a graph"))?;
        let launched = launches();
        // The capture has to end before an error is told, or the stream stays in it.
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).map_err(device_error("capturing a graph"));
        launched?;
        let nothing = || AttnError::Device { action: "capturing a graph", reason: "it is empty".to_owned() };
        graph?.map(CapturedGraph).ok_or_else(nothing)
    }
}
