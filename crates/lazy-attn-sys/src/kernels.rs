//! The CUDA kernels: loading their image, and typed launches. No device memory is allocated or owned here.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use cudarc::driver::sys::{
    CUdevice_attribute as DeviceAttribute, CUfunction_attribute as FunctionAttribute, CUlaunchAttribute,
    CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig, cuLaunchKernelEx,
};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DeviceRepr, DriverError, LaunchConfig};
use cudarc::nvrtc::Ptx;

use crate::abi::{KvDtype, LaAppend, LaAttend, LaMerge};
use crate::comparison::Comparison;
use crate::elementwise::Elementwise;
use crate::skinny::Skinny;
use crate::tile::TileClass;

// SAFETY: plain data without references or padding, passed by value as the header of the kernels declares it.
unsafe impl DeviceRepr for LaAttend {}
// SAFETY: as above.
unsafe impl DeviceRepr for LaMerge {}
// SAFETY: as above.
unsafe impl DeviceRepr for LaAppend {}

/// Stages a ring has barriers for.
const MAX_STAGES: u32 = 12;
/// Merging blocks per multiprocessor.
const MERGE_BLOCKS: u32 = 16;
/// Bytes of shared memory the driver keeps per thread block.
const RESERVED_BYTES: u32 = 1024;
/// Threads of a copying or merging block; `kAppendThreads`, `32 * kMergeWarps`.
const APPEND_THREADS: u32 = 256;
const MERGE_WARPS: u32 = 4;

/// What an instantiation is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelShape {
    /// Element type of keys and values; queries and outputs have the same, or bf16 where it has 8 bits.
    pub dtype: KvDtype,
    /// Elements per head: 64 or 128.
    pub head_dim: u32,
}

impl KernelShape {
    /// Every shape there are kernels for.
    pub const ALL: [KernelShape; 6] = [
        KernelShape { dtype: KvDtype::Bf16, head_dim: 64 },
        KernelShape { dtype: KvDtype::Bf16, head_dim: 128 },
        KernelShape { dtype: KvDtype::F16, head_dim: 64 },
        KernelShape { dtype: KvDtype::F16, head_dim: 128 },
        KernelShape { dtype: KvDtype::Fp8E4m3, head_dim: 64 },
        KernelShape { dtype: KvDtype::Fp8E4m3, head_dim: 128 },
    ];

    /// The shape of kernels that read no keys and values.
    fn of_outputs(self) -> KernelShape {
        match self.dtype {
            KvDtype::Fp8E4m3 => KernelShape { dtype: KvDtype::Bf16, ..self },
            _ => self,
        }
    }

    fn suffix(self) -> String {
        let dtype = match self.dtype {
            KvDtype::Bf16 => "bf16",
            KvDtype::F16 => "f16",
            KvDtype::F32 => "f32",
            KvDtype::Fp8E4m3 => "fp8",
        };
        format!("{dtype}_d{}", self.head_dim)
    }
}

/// Why kernels could not be loaded or launched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The image is not for this device, or is none.
    #[error(
        "the kernel image could not be loaded: {source}; build it with `cargo xtask kernels` for this device"
    )]
    Image {
        /// What the driver said.
        source: DriverError,
    },
    /// The image lacks a kernel.
    #[error("the kernel image has no `{name}`: {source}; it is older than this program, build it again")]
    Missing {
        /// Name of the kernel.
        name: String,
        /// What the driver said.
        source: DriverError,
    },
    /// There is no kernel for a shape.
    #[error(
        "there is no `{kernel}` kernel for {shape:?}; bf16, f16 and fp8 with 64 or 128 elements per head are supported"
    )]
    NoKernel {
        /// Which kernel.
        kernel: &'static str,
        /// The shape asked for.
        shape: KernelShape,
    },
    /// The device has too little shared memory.
    #[error("the device has {available} bytes of shared memory per block, but `{kernel}` needs {needed}")]
    SharedMemory {
        /// Which kernel.
        kernel: String,
        /// Bytes it needs.
        needed: u32,
        /// Bytes there are.
        available: u32,
    },
    /// The driver refused.
    #[error("the CUDA driver failed while {action}: {source}")]
    Driver {
        /// What was asked.
        action: &'static str,
        /// What it answered.
        source: DriverError,
    },
}

/// How an attend kernel is launched on this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttendLaunch {
    /// Thread blocks that run at once on the whole device.
    pub num_blocks: u32,
    /// Stages that fit into their shared memory: [`LaAttend::num_stages`].
    pub num_stages: u32,
    shared_bytes: u32,
    threads: u32,
}

#[derive(Debug)]
struct Attend {
    function: CudaFunction,
    launch: AttendLaunch,
}

/// When a launch may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Once everything before it in the stream has ended.
    AfterAll,
    /// Once every block of the launch before it runs; the kernel itself waits where it has to.
    Early,
}

/// The kernels of an image, loaded into a context.
#[derive(Debug)]
pub struct Kernels {
    attend: BTreeMap<(TileClass, KernelShape), Attend>,
    merge: BTreeMap<KernelShape, CudaFunction>,
    append: BTreeMap<KernelShape, CudaFunction>,
    comparisons: BTreeMap<(Comparison, KernelShape), CudaFunction>,
    pub(crate) elementwise: Elementwise,
    pub(crate) skinny: Skinny,
    num_multiprocessors: u32,
    widest: TileClass,
}

/// Sizes of a device that decide how kernels are launched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) num_multiprocessors: u32,
    pub(crate) shared_per_multiprocessor: u32,
    pub(crate) shared_per_block: u32,
    /// Whether the device runs the code for sm_90a.
    pub(crate) has_warpgroups: bool,
}

impl Limits {
    fn of(context: &CudaContext) -> Result<Limits, KernelError> {
        let get = |attribute| -> Result<u32, KernelError> {
            let value = context.attribute(attribute).map_err(driver("reading a device's attribute"))?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        let capability = context.compute_capability().map_err(driver("reading a device's attribute"))?;
        Ok(Limits {
            has_warpgroups: capability == (9, 0),
            num_multiprocessors: get(DeviceAttribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_per_multiprocessor: get(
                DeviceAttribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
            )?,
            shared_per_block: get(DeviceAttribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        })
    }

    /// Bytes that each of `blocks` blocks of a multiprocessor may have.
    pub(crate) fn shared_of_block(&self, blocks: u32) -> u32 {
        let bytes = (self.shared_per_multiprocessor / blocks).saturating_sub(RESERVED_BYTES);
        bytes.min(self.shared_per_block)
    }

    /// As many blocks per multiprocessor as wanted, if each then has enough stages; else one.
    fn attend_launch(&self, class: TileClass, shape: KernelShape) -> Result<AttendLaunch, KernelError> {
        let fixed = class.fixed_bytes(shape, self.has_warpgroups);
        let stage_bytes = class.stage_bytes(shape);
        let min_stages = class.min_stages(shape);
        let stages = |blocks: u32| {
            let free = self.shared_of_block(blocks).saturating_sub(fixed);
            (free / stage_bytes).min(MAX_STAGES)
        };
        let wanted = class.blocks_wanted();
        let blocks = if stages(wanted) >= min_stages { wanted } else { 1 };
        let num_stages = stages(blocks);
        if num_stages < min_stages {
            let kernel = format!("la_attend_{}_{}", class.name(), shape.suffix());
            let needed = fixed + min_stages * stage_bytes;
            return Err(KernelError::SharedMemory { kernel, needed, available: self.shared_per_block });
        }
        let shared_bytes = num_stages * stage_bytes + fixed;
        let threads = class.threads(shape, self.has_warpgroups);
        Ok(AttendLaunch { num_blocks: blocks * self.num_multiprocessors, num_stages, shared_bytes, threads })
    }
}

impl Kernels {
    /// Loads `image`, a fat binary of `kernels/`, into `context`.
    ///
    /// # Errors
    /// [`KernelError::Image`] or [`KernelError::Missing`] if the image does not fit, [`KernelError::SharedMemory`] for a
    /// device that is too small, [`KernelError::Driver`] if the driver refuses.
    pub fn load(context: &Arc<CudaContext>, image: Vec<u8>) -> Result<Kernels, KernelError> {
        let limits = Limits::of(context)?;
        let module =
            context.load_module(Ptx::from_binary(image)).map_err(|source| KernelError::Image { source })?;
        let function = |name: String| {
            module.load_function(&name).map_err(|source| KernelError::Missing { name, source })
        };
        let mut kernels = Kernels {
            attend: BTreeMap::new(),
            merge: BTreeMap::new(),
            append: BTreeMap::new(),
            comparisons: BTreeMap::new(),
            elementwise: Elementwise::load(function, limits.num_multiprocessors)?,
            skinny: Skinny::load(function, limits)?,
            num_multiprocessors: limits.num_multiprocessors,
            // The widest tiles need registers that only warpgroups can move.
            widest: if limits.has_warpgroups { TileClass::W128 } else { TileClass::W64 },
        };
        for shape in KernelShape::ALL {
            let suffix = shape.suffix();
            kernels.merge.insert(shape, function(format!("la_merge_{}", shape.of_outputs().suffix()))?);
            kernels.append.insert(shape, function(format!("la_rope_append_{suffix}"))?);
            for class in TileClass::ALL {
                let function = function(format!("la_attend_{}_{suffix}", class.name()))?;
                let launch = limits.attend_launch(class, shape)?;
                reserve_shared(&function, launch.shared_bytes)?;
                kernels.attend.insert((class, shape), Attend { function, launch });
            }
            for (comparison, of) in Comparison::serving(shape) {
                let function = function(format!("la_{}_{}", comparison.name(), of.suffix()))?;
                reserve_shared(&function, limits.attend_launch(TileClass::N16, shape)?.shared_bytes)?;
                kernels.comparisons.insert((comparison, shape), function);
            }
        }
        Ok(kernels)
    }

    /// The widest class that runs on this device.
    #[must_use]
    pub fn widest(&self) -> TileClass {
        self.widest
    }

    /// How the attend kernel of a class and shape is launched.
    ///
    /// # Errors
    /// [`KernelError::NoKernel`] for a shape without kernels.
    pub fn attend_launch(&self, class: TileClass, shape: KernelShape) -> Result<AttendLaunch, KernelError> {
        Ok(self.attend_of(class, shape)?.launch)
    }

    fn attend_of(&self, class: TileClass, shape: KernelShape) -> Result<&Attend, KernelError> {
        self.attend.get(&(class, shape)).ok_or(KernelError::NoKernel { kernel: "attend", shape })
    }

    /// Runs the items of `params` for `num_workers` workers per KV head. With [`Start::Early`] it runs beside the attend
    /// launch before it, which must not write what this one reads.
    ///
    /// # Safety
    /// Every address of `params` must be that of device memory of this context, as long and as laid out as the ABI says,
    /// alive and not written by others until the launch has run; indices stored in it must lie inside their arrays.
    ///
    /// # Errors
    /// [`KernelError::NoKernel`] for a shape without kernels, [`KernelError::Driver`] if the launch fails.
    pub unsafe fn attend(
        &self,
        stream: &CudaStream,
        (class, shape): (TileClass, KernelShape),
        params: &LaAttend,
        num_workers: u32,
        start: Start,
    ) -> Result<(), KernelError> {
        let attend = self.attend_of(class, shape)?;
        let grid = num_workers * params.kv.num_kv_heads;
        if grid == 0 {
            return Ok(());
        }
        let params = LaAttend { num_stages: attend.launch.num_stages, ..*params };
        let config = launch_config(grid, attend.launch.threads, attend.launch.shared_bytes);
        // SAFETY: the kernel takes one `LaAttend` by value; what its addresses need is the caller's promise.
        unsafe { launch(stream, &attend.function, &params, config, start) }
    }

    /// Runs `comparison` over items of [`TileClass::N16`].
    ///
    /// # Safety
    /// As for [`Kernels::attend`].
    ///
    /// # Errors
    /// As for [`Kernels::attend`].
    pub unsafe fn compare(
        &self,
        stream: &CudaStream,
        (comparison, shape): (Comparison, KernelShape),
        params: &LaAttend,
        num_workers: u32,
    ) -> Result<(), KernelError> {
        let none = KernelError::NoKernel { kernel: comparison.name(), shape };
        let function = self.comparisons.get(&(comparison, shape)).ok_or(none)?;
        let launched = self.attend_launch(TileClass::N16, shape)?;
        let grid = num_workers * params.kv.num_kv_heads;
        if grid == 0 {
            return Ok(());
        }
        let params = LaAttend { num_stages: launched.num_stages - comparison.stages_less(), ..*params };
        let config = launch_config(grid, launched.threads, launched.shared_bytes);
        // SAFETY: the kernel takes one `LaAttend` by value; what its addresses need is the caller's promise.
        unsafe { launch(stream, function, &params, config, Start::AfterAll) }
    }

    /// Merges partials into the output of at most `max_tokens` tokens, behind attend launches.
    ///
    /// # Safety
    /// As for [`Kernels::attend`].
    ///
    /// # Errors
    /// As for [`Kernels::attend`].
    pub unsafe fn merge(
        &self,
        stream: &CudaStream,
        shape: KernelShape,
        params: &LaMerge,
        max_tokens: u32,
    ) -> Result<(), KernelError> {
        let function = self.merge.get(&shape).ok_or(KernelError::NoKernel { kernel: "merge", shape })?;
        let rows = u64::from(max_tokens) * u64::from(params.num_q_heads);
        let enough = u64::from(MERGE_BLOCKS * self.num_multiprocessors);
        let grid = rows.min(enough) as u32;
        if grid == 0 {
            return Ok(());
        }
        // SAFETY: the kernel takes one `LaMerge` by value; what its addresses need is the caller's promise.
        unsafe { launch(stream, function, params, launch_config(grid, 32 * MERGE_WARPS, 0), Start::Early) }
    }

    /// Stores keys and values of at most `max_writes` tokens.
    ///
    /// # Safety
    /// As for [`Kernels::attend`]; blocks and slots must lie inside the store.
    ///
    /// # Errors
    /// As for [`Kernels::attend`].
    pub unsafe fn rope_append(
        &self,
        stream: &CudaStream,
        shape: KernelShape,
        params: &LaAppend,
        max_writes: u32,
    ) -> Result<(), KernelError> {
        let function =
            self.append.get(&shape).ok_or(KernelError::NoKernel { kernel: "rope_append", shape })?;
        let head_threads = if shape.dtype == KvDtype::Fp8E4m3 { 32 } else { shape.head_dim / 16 };
        let threads = u64::from(max_writes) * u64::from(params.kv.num_kv_heads * head_threads);
        let enough = u64::from(8 * self.num_multiprocessors);
        let grid = threads.div_ceil(u64::from(APPEND_THREADS)).min(enough) as u32;
        if grid == 0 {
            return Ok(());
        }
        // SAFETY: the kernel takes one `LaAppend` by value; what its addresses need is the caller's promise.
        unsafe { launch(stream, function, params, launch_config(grid, APPEND_THREADS, 0), Start::Early) }
    }
}

pub(crate) fn reserve_shared(function: &CudaFunction, bytes: u32) -> Result<(), KernelError> {
    let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
    function.set_attribute(attribute, bytes).map_err(driver("reserving shared memory"))
}

pub(crate) fn launch_config(grid: u32, threads: u32, shared_mem_bytes: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (grid, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes }
}

/// # Safety
/// `function` must take one `P` by value, and `P` must be valid for it.
pub(crate) unsafe fn launch<P: DeviceRepr>(
    stream: &CudaStream,
    function: &CudaFunction,
    params: &P,
    config: LaunchConfig,
    start: Start,
) -> Result<(), KernelError> {
    stream.context().bind_to_thread().map_err(driver("choosing a context"))?;
    let attribute = match start {
        Start::AfterAll => None,
        Start::Early => Some(early_start()),
    };
    let mut attributes: Vec<CUlaunchAttribute> = attribute.into_iter().collect();
    let config = CUlaunchConfig {
        gridDimX: config.grid_dim.0,
        gridDimY: config.grid_dim.1,
        gridDimZ: config.grid_dim.2,
        blockDimX: config.block_dim.0,
        blockDimY: config.block_dim.1,
        blockDimZ: config.block_dim.2,
        sharedMemBytes: config.shared_mem_bytes,
        hStream: stream.cu_stream(),
        attrs: attributes.as_mut_ptr(),
        numAttrs: attributes.len() as u32,
    };
    let mut arguments = [std::ptr::from_ref(params).cast_mut().cast()];
    let function = function.cu_function();
    // SAFETY: the driver copies the argument and the attributes before it returns; the rest is the caller's promise.
    let result = unsafe { cuLaunchKernelEx(&config, function, arguments.as_mut_ptr(), std::ptr::null_mut()) };
    result.result().map_err(driver("launching a kernel"))
}

fn early_start() -> CUlaunchAttribute {
    CUlaunchAttribute {
        id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
    }
}

fn driver(action: &'static str) -> impl Fn(DriverError) -> KernelError {
    move |source| KernelError::Driver { action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch_on(per_multiprocessor: u32, per_block: u32) -> AttendLaunch {
        let limits = Limits {
            num_multiprocessors: 10,
            shared_per_multiprocessor: per_multiprocessor * 1024,
            shared_per_block: per_block * 1024,
            has_warpgroups: true,
        };
        limits.attend_launch(TileClass::N16, KernelShape { dtype: KvDtype::Bf16, head_dim: 128 }).unwrap()
    }

    #[test]
    fn two_blocks_share_a_large_multiprocessor_and_one_fills_a_small_one() {
        let large = launch_on(228, 227);
        assert_eq!((large.num_blocks, large.num_stages), (20, 6));
        let middle = launch_on(164, 163);
        assert_eq!((middle.num_blocks, middle.num_stages), (20, 4));
        let small = launch_on(100, 99);
        assert_eq!((small.num_blocks, small.num_stages), (10, 5));
    }

    #[test]
    fn eight_bit_tiles_fit_every_device_with_machine_code() {
        for (per_multiprocessor, has_warpgroups) in [(228, true), (164, false), (100, false)] {
            let limits = Limits {
                num_multiprocessors: 10,
                shared_per_multiprocessor: per_multiprocessor * 1024,
                shared_per_block: (per_multiprocessor - 1) * 1024,
                has_warpgroups,
            };
            for (class, head_dim) in TileClass::ALL.into_iter().flat_map(|class| [(class, 64), (class, 128)])
            {
                let shape = KernelShape { dtype: KvDtype::Fp8E4m3, head_dim };
                let launch = limits.attend_launch(class, shape).unwrap();
                assert!(launch.shared_bytes <= limits.shared_per_block, "{class:?} {head_dim} {launch:?}");
            }
        }
    }

    #[test]
    fn a_device_without_room_for_the_stages_is_refused() {
        let limits = Limits {
            num_multiprocessors: 1,
            shared_per_multiprocessor: 65536,
            shared_per_block: 65536,
            has_warpgroups: false,
        };
        let shape = KernelShape { dtype: KvDtype::Bf16, head_dim: 128 };
        let error = limits.attend_launch(TileClass::N16, shape).unwrap_err();
        assert!(error.to_string().contains("la_attend_n16_bf16_d128"), "{error}");
    }
}
