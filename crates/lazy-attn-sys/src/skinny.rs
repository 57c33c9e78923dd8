//! Products of a few rows: `la_skinny_*`, which fills its ring with weights while the launch before it still runs.
#![allow(unsafe_code)]

use std::collections::BTreeMap;

use cudarc::driver::{CudaFunction, CudaStream, DeviceRepr};

use crate::abi::LaSkinny;
use crate::elementwise::ElementType;
use crate::kernels::{
    KernelError, KernelShape, Kernels, Limits, Start, launch, launch_config, reserve_shared,
};

// SAFETY: plain data without references or padding, passed by value as the header of the kernels declares it.
unsafe impl DeviceRepr for LaSkinny {}

/// Threads of a block: `kSkinnyThreads`.
const THREADS: u32 = 384;
/// Rows of the matrix in a tile; outputs of a gated one.
const TILE_ROWS: u32 = 16;
const GATED_OUTPUTS: u32 = 8;
/// Columns of a stage: pieces of 2 KB, of which the copy engine starts few enough (docs/kernels/skinny.md).
const STAGE_COLUMNS: u32 = 1024;
/// Bytes between rows of a stage: `kSkinnyRowPad`.
const ROW_PAD: u32 = 64;
/// Most rows of `x`: the columns of one tensor-core product.
const MAX_ROWS: u32 = 8;
/// Shared memory beside the stages: `SkinnyShared`, rounded up to the 1024 bytes to which an image aligns what follows.
const FIXED_BYTES: u32 = 5120;
/// Stages a ring has barriers for: `kSkinnyMaxStages`.
const MAX_STAGES: u32 = 12;

/// What becomes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SkinnyOutput {
    /// Rounded to the type of its operands.
    Same,
    /// Left in `f32`.
    F32,
    /// The matrix is packed, gate first; the gate is activated and multiplied with the rest.
    SiluMul,
}

impl SkinnyOutput {
    const ALL: [SkinnyOutput; 3] = [SkinnyOutput::Same, SkinnyOutput::F32, SkinnyOutput::SiluMul];

    fn tiles(self, n: u32) -> u32 {
        n.div_ceil(if self == SkinnyOutput::SiluMul { GATED_OUTPUTS } else { TILE_ROWS })
    }
}

/// How the ring of a block is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ring {
    num_stages: u32,
    shared_bytes: u32,
}

impl Ring {
    /// A block has a multiprocessor to itself. `None` for too many rows, or without room for two stages.
    fn of(limits: Limits, m: u32) -> Option<Ring> {
        if !(1..=MAX_ROWS).contains(&m) {
            return None;
        }
        let stage_bytes = (TILE_ROWS + m) * (2 * STAGE_COLUMNS + ROW_PAD);
        let room = limits.shared_of_block(1).saturating_sub(FIXED_BYTES);
        let num_stages = (room / stage_bytes).min(MAX_STAGES);
        (num_stages >= 2).then_some(Ring { num_stages, shared_bytes: num_stages * stage_bytes })
    }
}

/// The functions of an image.
#[derive(Debug)]
pub(crate) struct Skinny {
    functions: BTreeMap<(ElementType, SkinnyOutput), CudaFunction>,
    limits: Limits,
}

impl Skinny {
    pub(crate) fn load(
        function: impl Fn(String) -> Result<CudaFunction, KernelError>,
        limits: Limits,
    ) -> Result<Skinny, KernelError> {
        let mut functions = BTreeMap::new();
        for (element, dtype) in [(ElementType::Bf16, "bf16"), (ElementType::F16, "f16")] {
            for (output, kind) in SkinnyOutput::ALL.into_iter().zip(["same", "f32", "silu"]) {
                let function = function(format!("la_skinny_{dtype}_{kind}_m8"))?;
                reserve_shared(&function, limits.shared_of_block(1).saturating_sub(FIXED_BYTES))?;
                functions.insert((element, output), function);
            }
        }
        Ok(Skinny { functions, limits })
    }
}

impl Kernels {
    /// Whether [`Kernels::skinny`] takes `m` rows of a product over `k` columns with `n` outputs on this device, and was seen
    /// to be faster than cuBLASLt there.
    #[must_use]
    pub fn prefers_skinny(&self, m: u32, n: u32, k: u32) -> bool {
        let limits = self.skinny.limits;
        let fits = Ring::of(limits, m).is_some();
        // Measured on Hopper only (docs/kernels/skinny.md).
        limits.has_warpgroups && fits && n.is_multiple_of(8) && k.is_multiple_of(32)
    }

    /// A product of a few rows; [`LaSkinny::stage_columns`] and [`LaSkinny::num_stages`] are chosen here. It may begin to read
    /// `w` while the launches before it run.
    ///
    /// # Safety
    /// Every address of `params` must be that of device memory of this context, as long and as laid out as the ABI says,
    /// aligned to 16 bytes, alive and not used by others until the launch has run; nothing that runs may write `w`.
    ///
    /// # Errors
    /// [`KernelError::NoKernel`] for a number of rows without a kernel, [`KernelError::Driver`] if the launch fails.
    pub unsafe fn skinny(
        &self,
        stream: &CudaStream,
        (element, output): (ElementType, SkinnyOutput),
        params: &LaSkinny,
    ) -> Result<(), KernelError> {
        let limits = self.skinny.limits;
        let kernel = || Some((self.skinny.functions.get(&(element, output))?, Ring::of(limits, params.m)?));
        let shape = KernelShape { dtype: element.kv(), head_dim: 0 };
        let (function, ring) = kernel().ok_or(KernelError::NoKernel { kernel: "skinny", shape })?;
        let grid = output.tiles(params.n).min(limits.num_multiprocessors);
        if grid == 0 {
            return Ok(());
        }
        let params = LaSkinny { stage_columns: STAGE_COLUMNS, num_stages: ring.num_stages, ..*params };
        let config = launch_config(grid, THREADS, ring.shared_bytes);
        // SAFETY: the kernel takes one `LaSkinny` by value; what its addresses need is the caller's promise.
        unsafe { launch(stream, function, &params, config, Start::Early) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stages(shared_per_multiprocessor: u32, m: u32) -> Option<u32> {
        let limits = Limits {
            num_multiprocessors: 10,
            shared_per_multiprocessor: shared_per_multiprocessor * 1024,
            shared_per_block: (shared_per_multiprocessor - 1) * 1024,
            has_warpgroups: true,
        };
        Ring::of(limits, m).map(|ring| ring.num_stages)
    }

    #[test]
    fn a_ring_takes_the_memory_of_a_multiprocessor() {
        for (m, num_stages) in [(0, None), (1, Some(6)), (8, Some(4)), (9, None)] {
            assert_eq!(stages(228, m), num_stages, "{m} rows");
        }
        assert_eq!((stages(100, 1), stages(48, 8)), (Some(2), None));
    }
}
