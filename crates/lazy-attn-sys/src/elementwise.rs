//! The kernels around attention: norms, activations, gathers, sampling, copies and comparison of blocks. Each takes one struct of
//! [`crate::abi`]; [`Launch`] says which kernel that is and over how many thread blocks it runs.
#![allow(unsafe_code)]

use std::collections::BTreeMap;

use cudarc::driver::{CudaFunction, CudaStream, DeviceRepr, ValidAsZeroBits};

use crate::abi::{
    KvDtype, LaBlockPair, LaCopy, LaCopyBlocks, LaDeviation, LaGather, LaNorm, LaPenalize, LaQkvNorm,
    LaSample, LaSampling, LaSeen, LaSiluMul,
};
use crate::kernels::{KernelError, KernelShape, Kernels, Start, launch, launch_config};

// SAFETY: plain data without references or padding, passed by value as the header of the kernels declares it.
unsafe impl DeviceRepr for LaNorm {}
// SAFETY: as above.
unsafe impl DeviceRepr for LaSiluMul {}
// SAFETY: as above.
unsafe impl DeviceRepr for LaGather {}
// SAFETY: as above.
unsafe impl DeviceRepr for LaQkvNorm {}
// SAFETY: as above.
unsafe impl DeviceRepr for LaPenalize {}
// SAFETY: as above.
unsafe impl DeviceRepr for LaSample {}
// SAFETY: as above.
unsafe impl DeviceRepr for LaCopyBlocks {}
// SAFETY: as above.
unsafe impl DeviceRepr for LaSampling {}
// SAFETY: numbers only, all of which may be zero.
unsafe impl ValidAsZeroBits for LaSampling {}
// SAFETY: as above.
unsafe impl DeviceRepr for LaSeen {}
// SAFETY: as above.
unsafe impl DeviceRepr for LaCopy {}
// SAFETY: as above.
unsafe impl DeviceRepr for LaDeviation {}
// SAFETY: as above.
unsafe impl DeviceRepr for LaBlockPair {}

/// Threads of a block: `kNormThreads` and the like.
const THREADS: u32 = 256;
/// Threads that take a row of logits; `kRowThreads`.
const ROW_THREADS: u32 = 1024;
/// Thread blocks per multiprocessor of kernels that stride.
const STRIDING_BLOCKS: u32 = 8;
/// Elements of a vector; `kVector`.
const VECTOR: u32 = 8;
/// Thread blocks of a copied block; `kCopyParts`.
const COPY_PARTS: u32 = 2;

/// Element types with kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ElementType {
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
}

impl ElementType {
    pub(crate) fn kv(self) -> KvDtype {
        match self {
            ElementType::Bf16 => KvDtype::Bf16,
            ElementType::F16 => KvDtype::F16,
        }
    }
}

/// A kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Launch {
    /// `la_rms_norm_*`, takes [`LaNorm`].
    Norm(ElementType),
    /// `la_silu_mul_*`, takes [`LaSiluMul`].
    SiluMul(ElementType),
    /// `la_gather`, takes [`LaGather`].
    Gather,
    /// `la_qkv_norm_*`, takes [`LaQkvNorm`]; with the elements of a head.
    QkvNorm(ElementType, u32),
    /// `la_penalize`, takes [`LaPenalize`].
    Penalize,
    /// `la_argmax`, takes [`LaSample`].
    Argmax,
    /// `la_sample`, takes [`LaSample`].
    Sample,
    /// `la_copy_blocks`, takes [`LaCopyBlocks`].
    CopyBlocks,
    /// `la_reencode_*`, takes [`LaCopyBlocks`]; with the elements of a head.
    Reencode(ElementType, u32),
    /// `la_reencode_fp8_*`, takes [`LaCopyBlocks`]; with the elements of a head.
    ReencodeFp8(u32),
    /// `la_key_deviation_*`, takes [`LaDeviation`]; with the elements of a head.
    KeyDeviation(ElementType, u32),
    /// `la_key_deviation_fp8_*`, takes [`LaDeviation`]; with the elements of a head.
    KeyDeviationFp8(u32),
}

impl Launch {
    fn all() -> Vec<Launch> {
        let mut all =
            vec![Launch::Gather, Launch::Penalize, Launch::Argmax, Launch::Sample, Launch::CopyBlocks];
        for element in [ElementType::Bf16, ElementType::F16] {
            all.extend([Launch::Norm(element), Launch::SiluMul(element)]);
            for head_dim in [64, 128] {
                all.extend([Launch::QkvNorm(element, head_dim), Launch::Reencode(element, head_dim)]);
                all.push(Launch::KeyDeviation(element, head_dim));
            }
        }
        all.extend([64, 128].map(Launch::ReencodeFp8));
        all.extend([64, 128].map(Launch::KeyDeviationFp8));
        all
    }

    /// Whether it waits on the device for the launch before it, so that it may be launched while that runs.
    fn start(self) -> Start {
        if matches!(self, Launch::Norm(_) | Launch::SiluMul(_)) { Start::Early } else { Start::AfterAll }
    }

    fn threads(self) -> u32 {
        if matches!(self, Launch::Argmax | Launch::Sample) { ROW_THREADS } else { THREADS }
    }

    fn name(self) -> String {
        let dtype = |element| match element {
            ElementType::Bf16 => "bf16",
            ElementType::F16 => "f16",
        };
        match self {
            Launch::Norm(element) => format!("la_rms_norm_{}", dtype(element)),
            Launch::SiluMul(element) => format!("la_silu_mul_{}", dtype(element)),
            Launch::Gather => "la_gather".to_owned(),
            Launch::QkvNorm(element, head_dim) => format!("la_qkv_norm_{}_d{head_dim}", dtype(element)),
            Launch::Penalize => "la_penalize".to_owned(),
            Launch::Argmax => "la_argmax".to_owned(),
            Launch::Sample => "la_sample".to_owned(),
            Launch::CopyBlocks => "la_copy_blocks".to_owned(),
            Launch::Reencode(element, head_dim) => format!("la_reencode_{}_d{head_dim}", dtype(element)),
            Launch::ReencodeFp8(head_dim) => format!("la_reencode_fp8_d{head_dim}"),
            Launch::KeyDeviation(element, head_dim) => {
                format!("la_key_deviation_{}_d{head_dim}", dtype(element))
            }
            Launch::KeyDeviationFp8(head_dim) => format!("la_key_deviation_fp8_d{head_dim}"),
        }
    }
}

/// The functions of an image.
#[derive(Debug)]
pub(crate) struct Elementwise {
    functions: BTreeMap<Launch, CudaFunction>,
    num_multiprocessors: u32,
}

impl Elementwise {
    pub(crate) fn load(
        function: impl Fn(String) -> Result<CudaFunction, KernelError>,
        num_multiprocessors: u32,
    ) -> Result<Elementwise, KernelError> {
        let load = |launch: Launch| Ok((launch, function(launch.name())?));
        let functions = Launch::all().into_iter().map(load).collect::<Result<_, _>>()?;
        Ok(Elementwise { functions, num_multiprocessors })
    }

    fn function(&self, launch: Launch) -> Result<&CudaFunction, KernelError> {
        self.functions.get(&launch).ok_or_else(|| {
            let (kernel, dtype, head_dim) = match launch {
                Launch::Reencode(element, head_dim) => ("reencode", element.kv(), head_dim),
                Launch::ReencodeFp8(head_dim) => ("reencode", KvDtype::Fp8E4m3, head_dim),
                Launch::KeyDeviation(element, head_dim) => ("key_deviation", element.kv(), head_dim),
                Launch::KeyDeviationFp8(head_dim) => ("key_deviation", KvDtype::Fp8E4m3, head_dim),
                Launch::QkvNorm(element, head_dim) => ("qkv_norm", element.kv(), head_dim),
                _ => ("elementwise", KvDtype::Bf16, 0),
            };
            KernelError::NoKernel { kernel, shape: KernelShape { dtype, head_dim } }
        })
    }

    /// Enough thread blocks for `num_vectors` vectors, or as many as the device runs well.
    fn striding(&self, num_vectors: u64) -> u32 {
        let most = u64::from(STRIDING_BLOCKS * self.num_multiprocessors);
        num_vectors.div_ceil(u64::from(THREADS)).min(most) as u32
    }
}

/// Parameters of a kernel, and the thread blocks that take them.
pub trait LaunchParams: DeviceRepr {
    /// Whether `which` takes these parameters.
    fn are_for(&self, which: Launch) -> bool;

    /// What the thread blocks of `which` share.
    fn work(&self, which: Launch) -> Work;
}

/// How work is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// So many thread blocks.
    Blocks(u32),
    /// So many vectors of 8 elements, strided over.
    Vectors(u64),
}

fn vectors(rows: u32, width: u32) -> Work {
    Work::Vectors(u64::from(rows) * u64::from(width / VECTOR))
}

impl LaunchParams for LaNorm {
    fn are_for(&self, which: Launch) -> bool {
        matches!(which, Launch::Norm(_))
    }

    fn work(&self, _which: Launch) -> Work {
        Work::Blocks(self.num_rows)
    }
}

impl LaunchParams for LaSiluMul {
    fn are_for(&self, which: Launch) -> bool {
        matches!(which, Launch::SiluMul(_))
    }

    fn work(&self, _which: Launch) -> Work {
        vectors(self.num_rows, self.width)
    }
}

impl LaunchParams for LaGather {
    fn are_for(&self, which: Launch) -> bool {
        which == Launch::Gather
    }

    fn work(&self, _which: Launch) -> Work {
        vectors(self.num_rows, self.width)
    }
}

impl LaunchParams for LaQkvNorm {
    fn are_for(&self, which: Launch) -> bool {
        matches!(which, Launch::QkvNorm(..))
    }

    fn work(&self, which: Launch) -> Work {
        let head_dim = if let Launch::QkvNorm(_, head_dim) = which { head_dim } else { 0 };
        vectors(self.num_tokens, (self.num_q_heads + 2 * self.num_kv_heads) * head_dim)
    }
}

impl LaunchParams for LaPenalize {
    fn are_for(&self, which: Launch) -> bool {
        which == Launch::Penalize
    }

    fn work(&self, _which: Launch) -> Work {
        Work::Blocks(self.num_seen.div_ceil(THREADS))
    }
}

impl LaunchParams for LaSample {
    fn are_for(&self, which: Launch) -> bool {
        matches!(which, Launch::Argmax | Launch::Sample)
    }

    fn work(&self, _which: Launch) -> Work {
        Work::Blocks(self.num_rows)
    }
}

impl LaunchParams for LaCopyBlocks {
    fn are_for(&self, which: Launch) -> bool {
        matches!(which, Launch::CopyBlocks | Launch::Reencode(..) | Launch::ReencodeFp8(_))
    }

    fn work(&self, which: Launch) -> Work {
        let halves = if which == Launch::CopyBlocks { 2 } else { 1 };
        Work::Blocks(halves * COPY_PARTS * self.num_copies)
    }
}

impl LaunchParams for LaDeviation {
    fn are_for(&self, which: Launch) -> bool {
        matches!(which, Launch::KeyDeviation(..) | Launch::KeyDeviationFp8(_))
    }

    fn work(&self, _which: Launch) -> Work {
        Work::Blocks(self.num_pairs * self.num_layers)
    }
}

impl Kernels {
    /// Launches `which` with `params`; nothing if there is no work.
    ///
    /// # Safety
    /// Every address of `params` must be that of device memory of this context, as long and as laid out as the ABI says,
    /// aligned to 16 bytes, alive and not used by others until the launch has run.
    ///
    /// # Errors
    /// [`KernelError::NoKernel`] for a shape without kernels, [`KernelError::Driver`] if the launch fails.
    ///
    /// # Panics
    /// If `which` takes other parameters.
    pub unsafe fn launch<P: LaunchParams>(
        &self,
        stream: &CudaStream,
        which: Launch,
        params: &P,
    ) -> Result<(), KernelError> {
        assert!(params.are_for(which), "{which:?} takes other parameters");
        let function = self.elementwise.function(which)?;
        let grid = match params.work(which) {
            Work::Blocks(blocks) => blocks,
            Work::Vectors(vectors) => self.elementwise.striding(vectors),
        };
        if grid == 0 {
            return Ok(());
        }
        let config = launch_config(grid, which.threads(), 0);
        // SAFETY: the kernel takes these parameters, as was asserted; the rest is the caller's promise.
        unsafe { launch(stream, function, params, config, which.start()) }
    }
}
