//! Choosing an instruction set once, at run time.
#![allow(unsafe_code)]

use std::fmt;

use super::{Isa, portable::Portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

/// Code that is compiled once per instruction set. `run` and all it calls must be `#[inline(always)]`, or they lose
/// the instructions they are compiled for.
pub(crate) trait Kernel {
    /// Runs with `I`'s instructions.
    fn run<I: Isa>(self);
}

/// An instruction set this machine has; the only ways to get one check that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuIsa(Level);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl CpuIsa {
    /// The fastest instruction set of this machine.
    #[must_use]
    pub fn detect() -> CpuIsa {
        CpuIsa::available().last().copied().unwrap_or(CpuIsa(Level::Portable))
    }

    /// Every instruction set of this machine, slowest first.
    #[must_use]
    pub fn available() -> Vec<CpuIsa> {
        [CpuIsa(Level::Portable)].into_iter().chain(vector_levels()).collect()
    }

    /// Rows of activations a micro-kernel of this instruction set handles at once.
    pub(crate) fn tile_rows(self) -> usize {
        match self.0 {
            Level::Portable => Portable::TILE_ROWS,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Avx2::TILE_ROWS,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Avx512::TILE_ROWS,
        }
    }

    /// Runs `kernel` with the instructions of `self`.
    pub(crate) fn run<K: Kernel>(self, kernel: K) {
        match self.0 {
            Level::Portable => kernel.run::<Portable>(),
            // SAFETY: this level comes from `vector_levels` only, which has detected the function's features.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { run_avx2(kernel) },
            // SAFETY: this level comes from `vector_levels` only, which has detected the function's features.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { run_avx512(kernel) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn vector_levels() -> Vec<CpuIsa> {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni");
    let levels = [(avx2, Level::Avx2), (avx2 && avx512, Level::Avx512)];
    levels.into_iter().filter(|level| level.0).map(|level| CpuIsa(level.1)).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn vector_levels() -> Vec<CpuIsa> {
    Vec::new()
}

impl fmt::Display for CpuIsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512-vnni",
        })
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<K: Kernel>(kernel: K) {
    kernel.run::<Avx2>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn run_avx512<K: Kernel>(kernel: K) {
    kernel.run::<Avx512>();
}
