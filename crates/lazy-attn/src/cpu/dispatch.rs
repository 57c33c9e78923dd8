//! Choosing an instruction set at run time. Calling a function compiled for more than the build target guarantees is
//! unsafe; here, and in the vector operations of `isa::x86`, are the only such calls of the CPU path.
#![allow(unsafe_code)]

use std::fmt;

#[cfg(target_arch = "x86_64")]
use crate::isa::{Avx2, Avx512};
use crate::isa::{Isa, Portable};

/// Code that is compiled once per instruction set. `run` and all it calls must be `#[inline(always)]`, or they lose
/// the instructions they are compiled for.
pub(crate) trait Kernel {
    /// Runs with `I`'s instructions.
    fn run<I: Isa>(self);
}

/// An instruction set this machine has. The only ways to get one check that it does.
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
        let available = CpuIsa::available();
        available.last().copied().unwrap_or(CpuIsa(Level::Portable))
    }

    /// Every instruction set of this machine, slowest first.
    #[must_use]
    pub fn available() -> Vec<CpuIsa> {
        let mut found = vec![CpuIsa(Level::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            let has_avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if has_avx2 {
                found.push(CpuIsa(Level::Avx2));
            }
            let has_avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            if has_avx2 && has_avx512 {
                found.push(CpuIsa(Level::Avx512));
            }
        }
        found
    }

    /// Runs `kernel` with the instructions of `self`.
    pub(crate) fn run<K: Kernel>(self, kernel: K) {
        match self.0 {
            Level::Portable => kernel.run::<Portable>(),
            // SAFETY: a `CpuIsa(Level::Avx2)` comes from `available` only, which has detected its three features.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { run_avx2(kernel) },
            // SAFETY: a `CpuIsa(Level::Avx512)` comes from `available` only, which has detected its seven features.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { run_avx512(kernel) },
        }
    }
}

impl fmt::Display for CpuIsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
        })
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<K: Kernel>(kernel: K) {
    kernel.run::<Avx2>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn run_avx512<K: Kernel>(kernel: K) {
    kernel.run::<Avx512>();
}
