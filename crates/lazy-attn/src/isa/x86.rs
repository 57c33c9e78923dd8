//! Vectors of AVX2 and AVX-512.
//!
//! Each operation is one or two intrinsics. They are unsafe only because the build target does not guarantee the
//! instructions; [`Avx2`] and [`Avx512`] are used as type arguments in `cpu::dispatch` alone, behind their detection.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Isa, LANES};

/// AVX2, FMA and F16C: sixteen registers of eight floats.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2;
/// AVX-512: thirty-two registers of sixteen floats.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512;

/// Calls an intrinsic on values.
macro_rules! intrinsic {
    ($name:ident $(::<$imm:literal>)? ($($argument:expr),*)) => {{
        // SAFETY: `cpu::dispatch` has detected this instruction set before it names the type whose method this is.
        unsafe { $name $(::<$imm>)? ($($argument),*) }
    }};
}

/// Calls an intrinsic that reads or writes `$array`, whole and unaligned.
macro_rules! access {
    ($name:ident $(::<$imm:ident>)? ($pointer:expr $(, $value:expr)?)) => {{
        // SAFETY: as above; and the pointer comes from a reference to an array of at least the bytes accessed, which the
        // unaligned form of the instruction takes at any address.
        unsafe { $name $(::<$imm>)? ($pointer $(, $value)?) }
    }};
}

#[inline(always)]
fn prefetch<T>(value: &T) {
    // Into the second level: what is asked for is used a unit later, and a unit of values may fill the first.
    access!(_mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(value).cast()));
}

impl Isa for Avx512 {
    const FMA: bool = true;
    const MAX_ROWS: usize = 8;
    const PANEL: usize = 4;

    type Vector = __m512;

    #[inline(always)]
    fn prefetch<T>(value: &T) {
        prefetch(value);
    }

    #[inline(always)]
    fn splat(value: f32) -> __m512 {
        intrinsic!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    fn load(values: &[f32; LANES]) -> __m512 {
        access!(_mm512_loadu_ps(values.as_ptr()))
    }

    #[inline(always)]
    fn load_f16(values: &[f16; LANES]) -> __m512 {
        let halves = access!(_mm256_loadu_si256(values.as_ptr().cast()));
        intrinsic!(_mm512_cvtph_ps(halves))
    }

    #[inline(always)]
    fn load_bf16(values: &[bf16; LANES]) -> __m512 {
        let halves = access!(_mm256_loadu_si256(values.as_ptr().cast()));
        let wide = intrinsic!(_mm512_cvtepu16_epi32(halves));
        let shifted = intrinsic!(_mm512_slli_epi32::<16>(wide));
        intrinsic!(_mm512_castsi512_ps(shifted))
    }

    #[inline(always)]
    fn store(vector: __m512, out: &mut [f32; LANES]) {
        access!(_mm512_storeu_ps(out.as_mut_ptr(), vector));
    }

    #[inline(always)]
    fn add(a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn max(a: __m512, b: __m512) -> __m512 {
        // The instruction gives its second operand where either is a NaN.
        intrinsic!(_mm512_max_ps(b, a))
    }

    #[inline(always)]
    fn mul_add_v(a: __m512, b: __m512, c: __m512) -> __m512 {
        intrinsic!(_mm512_fmadd_ps(a, b, c))
    }
}

impl Isa for Avx2 {
    const FMA: bool = true;
    const MAX_ROWS: usize = 4;
    const PANEL: usize = 1;

    type Vector = [__m256; 2];

    #[inline(always)]
    fn prefetch<T>(value: &T) {
        prefetch(value);
    }

    #[inline(always)]
    fn splat(value: f32) -> [__m256; 2] {
        [intrinsic!(_mm256_set1_ps(value)); 2]
    }

    #[inline(always)]
    fn load(values: &[f32; LANES]) -> [__m256; 2] {
        let [low, high] = halves(values);
        [access!(_mm256_loadu_ps(low.as_ptr())), access!(_mm256_loadu_ps(high.as_ptr()))]
    }

    #[inline(always)]
    fn load_f16(values: &[f16; LANES]) -> [__m256; 2] {
        halves(values).map(|half| {
            let half = access!(_mm_loadu_si128(half.as_ptr().cast()));
            intrinsic!(_mm256_cvtph_ps(half))
        })
    }

    #[inline(always)]
    fn load_bf16(values: &[bf16; LANES]) -> [__m256; 2] {
        halves(values).map(|half| {
            let half = access!(_mm_loadu_si128(half.as_ptr().cast()));
            let wide = intrinsic!(_mm256_cvtepu16_epi32(half));
            let shifted = intrinsic!(_mm256_slli_epi32::<16>(wide));
            intrinsic!(_mm256_castsi256_ps(shifted))
        })
    }

    #[inline(always)]
    fn store(vector: [__m256; 2], out: &mut [f32; LANES]) {
        let (low, high) = out.split_at_mut(LANES / 2);
        access!(_mm256_storeu_ps(low.as_mut_ptr(), vector[0]));
        access!(_mm256_storeu_ps(high.as_mut_ptr(), vector[1]));
    }

    #[inline(always)]
    fn add(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        [intrinsic!(_mm256_add_ps(a[0], b[0])), intrinsic!(_mm256_add_ps(a[1], b[1]))]
    }

    #[inline(always)]
    fn max(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        [intrinsic!(_mm256_max_ps(b[0], a[0])), intrinsic!(_mm256_max_ps(b[1], a[1]))]
    }

    #[inline(always)]
    fn mul_add_v(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        [intrinsic!(_mm256_fmadd_ps(a[0], b[0], c[0])), intrinsic!(_mm256_fmadd_ps(a[1], b[1], c[1]))]
    }
}

/// Two halves of eight.
#[inline(always)]
fn halves<T>(values: &[T; LANES]) -> [&[T; LANES / 2]; 2] {
    let (halves, _) = values.as_chunks();
    [&halves[0], &halves[1]]
}
