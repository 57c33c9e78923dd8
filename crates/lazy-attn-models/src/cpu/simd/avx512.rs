//! AVX-512 with VNNI: thirty-two registers of sixteen lanes, and four byte products per lane in one instruction.
//!
//! Every intrinsic here needs `dispatch::run_avx512`'s features and nothing else. [`Avx512`] is named in that function
//! only, which `CpuIsa` enters only where the features were detected: that is the argument of each `SAFETY` below.
#![allow(unsafe_code)]
#![allow(clippy::multiple_unsafe_ops_per_block, reason = "one argument covers every intrinsic of a method")]

use std::arch::x86_64::*;

use super::{CODE_BYTES, Isa, LANES};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512;

impl Isa for Avx512 {
    const TILE_ROWS: usize = 8;

    type Floats = __m512;
    type Ints = __m512i;
    type Codes = __m512i;

    #[inline(always)]
    fn splat(value: f32) -> __m512 {
        // SAFETY: the features are there (module).
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(values: &[f32; LANES]) -> __m512 {
        // SAFETY: the features are there (module); the array holds the 64 bytes, and alignment does not matter.
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }

    #[inline(always)]
    fn load_bf16(values: &[u16; LANES]) -> __m512 {
        // SAFETY: the features are there (module); the array holds the 32 bytes, and alignment does not matter.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(values.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }

    #[inline(always)]
    fn load_f16(values: &[u16; LANES]) -> __m512 {
        // SAFETY: the features are there (module); the array holds the 32 bytes, and alignment does not matter.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(values.as_ptr().cast())) }
    }

    #[inline(always)]
    fn to_array(values: __m512) -> [f32; LANES] {
        let mut array = [0.0; LANES];
        // SAFETY: the features are there (module); the array holds the 64 bytes, and alignment does not matter.
        unsafe { _mm512_storeu_ps(array.as_mut_ptr(), values) };
        array
    }

    #[inline(always)]
    fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the features are there (module).
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the features are there (module).
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn splat_int(value: i32) -> __m512i {
        // SAFETY: the features are there (module).
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    fn to_floats(values: __m512i) -> __m512 {
        // SAFETY: the features are there (module).
        unsafe { _mm512_cvtepi32_ps(values) }
    }

    #[inline(always)]
    fn load_codes(codes: &[u8; CODE_BYTES]) -> __m512i {
        // SAFETY: the features are there (module); the array holds the 64 bytes, and alignment does not matter.
        unsafe { _mm512_loadu_si512(codes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn low_nibbles(codes: __m512i) -> __m512i {
        // SAFETY: the features are there (module).
        unsafe { _mm512_and_si512(codes, _mm512_set1_epi8(15)) }
    }

    #[inline(always)]
    fn high_nibbles(codes: __m512i) -> __m512i {
        // SAFETY: the features are there (module).
        unsafe { _mm512_and_si512(_mm512_srli_epi16::<4>(codes), _mm512_set1_epi8(15)) }
    }

    #[inline(always)]
    fn dot_nibbles(sum: __m512i, codes: __m512i, acts: u32) -> __m512i {
        Self::dot_bytes(sum, codes, acts)
    }

    #[inline(always)]
    fn dot_bytes(sum: __m512i, codes: __m512i, acts: u32) -> __m512i {
        // SAFETY: the features are there (module).
        unsafe { _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(acts.cast_signed())) }
    }
}
