//! AVX2, FMA and F16C: a vector is two registers of eight lanes.
//!
//! Every intrinsic here needs `dispatch::run_avx2`'s features and nothing else. [`Avx2`] is named in that function
//! only, which `CpuIsa` enters only where the features were detected: that is the argument of each `SAFETY` below.
#![allow(unsafe_code)]
#![allow(clippy::multiple_unsafe_ops_per_block, reason = "one argument covers every intrinsic of a method")]

use std::arch::x86_64::*;

use super::{CODE_BYTES, Isa, LANES};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2;

/// Both halves of a vector.
#[derive(Clone, Copy)]
pub(crate) struct Pair<T>(T, T);

impl<T: Copy> Pair<T> {
    #[inline(always)]
    fn map<U>(self, mut f: impl FnMut(T) -> U) -> Pair<U> {
        Pair(f(self.0), f(self.1))
    }

    #[inline(always)]
    fn zip<U, V>(self, other: Pair<U>, mut f: impl FnMut(T, U) -> V) -> Pair<V> {
        Pair(f(self.0, other.0), f(self.1, other.1))
    }
}

/// The two halves of sixteen 16-bit values.
#[inline(always)]
fn halves(values: &[u16; LANES]) -> Pair<__m128i> {
    let base = values.as_ptr();
    // SAFETY: the features are there (module); the array holds both 16-byte halves, and alignment does not matter.
    unsafe { Pair(_mm_loadu_si128(base.cast()), _mm_loadu_si128(base.add(8).cast())) }
}

impl Isa for Avx2 {
    const TILE_ROWS: usize = 4;

    type Floats = Pair<__m256>;
    type Ints = Pair<__m256i>;
    type Codes = Pair<__m256i>;

    #[inline(always)]
    fn splat(value: f32) -> Pair<__m256> {
        // SAFETY: the features are there (module).
        let half = unsafe { _mm256_set1_ps(value) };
        Pair(half, half)
    }

    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Pair<__m256> {
        let base = values.as_ptr();
        // SAFETY: the features are there (module); the array holds both 32-byte halves, and alignment does not matter.
        unsafe { Pair(_mm256_loadu_ps(base), _mm256_loadu_ps(base.add(8))) }
    }

    #[inline(always)]
    fn load_bf16(values: &[u16; LANES]) -> Pair<__m256> {
        // SAFETY: the features are there (module).
        halves(values)
            .map(|half| unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half))) })
    }

    #[inline(always)]
    fn load_f16(values: &[u16; LANES]) -> Pair<__m256> {
        // SAFETY: the features are there (module).
        halves(values).map(|half| unsafe { _mm256_cvtph_ps(half) })
    }

    #[inline(always)]
    fn to_array(values: Pair<__m256>) -> [f32; LANES] {
        let mut array = [0.0; LANES];
        let base = array.as_mut_ptr();
        // SAFETY: the features are there (module); the array holds both 32-byte halves, and alignment does not matter.
        unsafe {
            _mm256_storeu_ps(base, values.0);
            _mm256_storeu_ps(base.add(8), values.1);
        }
        array
    }

    #[inline(always)]
    fn mul(a: Pair<__m256>, b: Pair<__m256>) -> Pair<__m256> {
        // SAFETY: the features are there (module).
        a.zip(b, |a, b| unsafe { _mm256_mul_ps(a, b) })
    }

    #[inline(always)]
    fn mul_add(a: Pair<__m256>, b: Pair<__m256>, c: Pair<__m256>) -> Pair<__m256> {
        // SAFETY: the features are there (module).
        unsafe { Pair(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }

    #[inline(always)]
    fn splat_int(value: i32) -> Pair<__m256i> {
        // SAFETY: the features are there (module).
        let half = unsafe { _mm256_set1_epi32(value) };
        Pair(half, half)
    }

    #[inline(always)]
    fn to_floats(values: Pair<__m256i>) -> Pair<__m256> {
        // SAFETY: the features are there (module).
        values.map(|half| unsafe { _mm256_cvtepi32_ps(half) })
    }

    #[inline(always)]
    fn load_codes(codes: &[u8; CODE_BYTES]) -> Pair<__m256i> {
        let base = codes.as_ptr();
        // SAFETY: the features are there (module); the array holds both 32-byte halves, and alignment does not matter.
        unsafe { Pair(_mm256_loadu_si256(base.cast()), _mm256_loadu_si256(base.add(32).cast())) }
    }

    #[inline(always)]
    fn low_nibbles(codes: Pair<__m256i>) -> Pair<__m256i> {
        // SAFETY: the features are there (module).
        codes.map(|half| unsafe { _mm256_and_si256(half, _mm256_set1_epi8(15)) })
    }

    #[inline(always)]
    fn high_nibbles(codes: Pair<__m256i>) -> Pair<__m256i> {
        // SAFETY: the features are there (module).
        codes.map(|half| unsafe { _mm256_and_si256(_mm256_srli_epi16::<4>(half), _mm256_set1_epi8(15)) })
    }

    /// Two products of a nibble and a signed byte stay below 2 * 15 * 128, so the 16-bit sum does not saturate.
    #[inline(always)]
    fn dot_nibbles(sum: Pair<__m256i>, codes: Pair<__m256i>, acts: u32) -> Pair<__m256i> {
        // SAFETY: the features are there (module).
        sum.zip(codes, |sum, codes| unsafe {
            let pairs = _mm256_maddubs_epi16(codes, _mm256_set1_epi32(acts.cast_signed()));
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        })
    }

    /// Two products of a byte and a signed byte would saturate 16 bits, so even and odd bytes are widened first.
    #[inline(always)]
    fn dot_bytes(sum: Pair<__m256i>, codes: Pair<__m256i>, acts: u32) -> Pair<__m256i> {
        // SAFETY: the features are there (module).
        sum.zip(codes, |sum, codes| unsafe {
            let acts = _mm256_set1_epi32(acts.cast_signed());
            let even = _mm256_madd_epi16(
                _mm256_and_si256(codes, _mm256_set1_epi16(255)),
                _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(acts)),
            );
            let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(codes), _mm256_srai_epi16::<8>(acts));
            _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
        })
    }
}
