//! What the kernels need of an instruction set: sixteen floats at a time in the two inner loops, and the choice between
//! a fused multiply-add and two operations everywhere else.
//!
//! All of it is `#[inline(always)]` and compiled once per instruction set, by being inlined into the functions of
//! `cpu::dispatch`. Loops over plain slices are left to LLVM; only the accumulators of the inner loops are spelled out as
//! vectors, because LLVM takes arrays of sixteen floats apart there.

#[cfg(target_arch = "x86_64")]
mod x86;

use half::{bf16, f16};

#[cfg(target_arch = "x86_64")]
pub(crate) use self::x86::{Avx2, Avx512};

/// Floats per vector: one AVX-512 register, two AVX2 registers.
pub(crate) const LANES: usize = 16;

/// An instruction set, as far as the kernels care.
pub(crate) trait Isa: Copy + Send + Sync + 'static {
    /// Whether a fused multiply-add is one instruction; elsewhere it would be a call into libm.
    const FMA: bool;
    /// Most query rows per tile: as many as leave the accumulators in registers.
    const MAX_ROWS: usize;
    /// Vectors of the output a tile of up to four rows accumulates at once.
    const PANEL: usize;

    /// Sixteen floats.
    type Vector: Copy;

    fn splat(value: f32) -> Self::Vector;
    fn load(values: &[f32; LANES]) -> Self::Vector;
    fn load_f16(values: &[f16; LANES]) -> Self::Vector;
    fn load_bf16(values: &[bf16; LANES]) -> Self::Vector;
    fn store(vector: Self::Vector, out: &mut [f32; LANES]);
    fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The larger of each lane; `a` where `b` is a NaN.
    fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c` per lane, like [`Isa::mul_add`].
    fn mul_add_v(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;

    /// Asks for the cache line of `value`; nothing where the instruction set has no such request.
    #[inline(always)]
    fn prefetch<T>(_value: &T) {}

    /// `a * b + c`, fused where that is an instruction.
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        if Self::FMA { a.mul_add(b, c) } else { a * b + c }
    }
}

/// Whatever the build target guarantees.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

impl Isa for Portable {
    const FMA: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
    const MAX_ROWS: usize = 4;
    const PANEL: usize = 1;

    type Vector = [f32; LANES];

    #[inline(always)]
    fn splat(value: f32) -> [f32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn load(values: &[f32; LANES]) -> [f32; LANES] {
        *values
    }

    #[inline(always)]
    fn load_f16(values: &[f16; LANES]) -> [f32; LANES] {
        values.map(widen_f16)
    }

    #[inline(always)]
    fn load_bf16(values: &[bf16; LANES]) -> [f32; LANES] {
        values.map(|value| f32::from_bits(u32::from(value.to_bits()) << 16))
    }

    #[inline(always)]
    fn store(vector: [f32; LANES], out: &mut [f32; LANES]) {
        *out = vector;
    }

    #[inline(always)]
    fn add(a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|lane| a[lane] + b[lane])
    }

    #[inline(always)]
    fn max(a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|lane| larger(a[lane], b[lane]))
    }

    #[inline(always)]
    fn mul_add_v(a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|lane| Self::mul_add(a[lane], b[lane], c[lane]))
    }
}

/// To f32 without a branch or a table. Exact for finite values, subnormals included; infinities and NaNs are never
/// stored.
#[inline(always)]
pub(crate) fn widen_f16(value: f16) -> f32 {
    const TWO_POW_112: f32 = f32::from_bits((127 + 112) << 23);
    let bits = u32::from(value.to_bits());
    let magnitude = f32::from_bits((bits & 0x7FFF) << 13) * TWO_POW_112;
    f32::from_bits(magnitude.to_bits() | ((bits & 0x8000) << 16))
}

/// `values[at..at + LANES]` as an array; `fallback` where the slice is too short, which no caller lets happen.
#[inline(always)]
pub(crate) fn window<'a, T>(values: &'a [T], at: usize, fallback: &'a [T; LANES]) -> &'a [T; LANES] {
    values.get(at..).and_then(|tail| tail.first_chunk()).unwrap_or(fallback)
}

/// Largest lane.
#[inline(always)]
pub(crate) fn reduce_max<I: Isa>(vector: I::Vector) -> f32 {
    reduce::<I>(vector, larger)
}

/// Sum of the lanes, as a tree: the same order whatever produced them.
#[inline(always)]
pub(crate) fn reduce_sum<I: Isa>(vector: I::Vector) -> f32 {
    reduce::<I>(vector, |a, b| a + b)
}

#[inline(always)]
fn reduce<I: Isa>(vector: I::Vector, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut out = [0.0; LANES];
    I::store(vector, &mut out);
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            out[lane] = f(out[lane], out[lane + width]);
        }
    }
    out[0]
}

/// One comparison and a select; `f32::max` also orders NaNs, which costs two more instructions per vector.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// `2^x` for `x <= 0`, within 2e-7 of the true value, relatively; exactly 1 at 0, and 0 below -126.
///
/// A NaN stays a NaN, so that a broken key or query is seen in the result.
#[inline(always)]
pub(crate) fn exp2<I: Isa>(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
    const MAGIC: f32 = 12_582_912.0;
    let shifted = x + MAGIC;
    let exponent = shifted.to_bits().wrapping_sub(MAGIC.to_bits());
    let fraction = x - (shifted - MAGIC);
    // Minimax coefficients of the Cephes library for 2^f - 1 over f, |f| <= 1/2.
    let mut poly = 1.535_336_2e-4;
    poly = I::mul_add(poly, fraction, 1.339_887_4e-3);
    poly = I::mul_add(poly, fraction, 9.618_437e-3);
    poly = I::mul_add(poly, fraction, 5.550_332_5e-2);
    poly = I::mul_add(poly, fraction, 2.402_264_8e-1);
    poly = I::mul_add(poly, fraction, std::f32::consts::LN_2);
    let mantissa = I::mul_add(poly, fraction, 1.0);
    let value = mantissa * f32::from_bits(exponent.wrapping_add(127) << 23);
    if x < -126.0 { 0.0 } else { value }
}

/// Cosine and sine of `turn / 2^32` of a full turn, absolute error below 1e-6.
#[inline(always)]
pub(crate) fn cos_sin<I: Isa>(turn: u32) -> (f32, f32) {
    const RADIANS: f32 = (std::f64::consts::TAU / 4_294_967_296.0) as f32;
    // The nearest quarter turn, and what is left: at most an eighth of a turn either way.
    let quarter = turn.wrapping_add(1 << 29) >> 30;
    let rest = turn.wrapping_sub(quarter << 30) as i32;
    let x = rest as f32 * RADIANS;
    let square = x * x;
    // Minimax coefficients of the Cephes library on |x| <= pi/4.
    let mut sin = I::mul_add(square, -1.951_529_6e-4, 8.332_161e-3);
    sin = I::mul_add(sin, square, -1.666_665_5e-1);
    sin = I::mul_add(sin * square, x, x);
    let mut cos = I::mul_add(square, 2.443_315_7e-5, -1.388_731_6e-3);
    cos = I::mul_add(cos, square, 4.166_664_6e-2);
    cos = I::mul_add(cos, square, -0.5);
    cos = I::mul_add(cos, square, 1.0);
    let (c, s) = if quarter & 1 == 0 { (cos, sin) } else { (sin, cos) };
    let cos_sign = (quarter.wrapping_add(1) & 2) << 30;
    let sin_sign = (quarter & 2) << 30;
    (f32::from_bits(c.to_bits() ^ cos_sign), f32::from_bits(s.to_bits() ^ sin_sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exp2_is_close<I: Isa>() {
        for step in 0..=126_000 {
            let x = -(step as f32) / 1000.0;
            let want = f64::from(x).exp2();
            let error = (f64::from(exp2::<I>(x)) - want).abs() / want;
            assert!(error < 2e-7, "2^{x}: relative error {error}");
        }
    }

    #[test]
    fn powers_of_two_are_within_their_stated_error() {
        exp2_is_close::<Portable>();
        exp2_is_close::<Avx512>();
    }

    #[test]
    fn powers_of_two_are_exact_where_the_fold_needs_it() {
        assert_eq!(exp2::<Avx512>(0.0).to_bits(), 1.0f32.to_bits());
        assert_eq!(exp2::<Avx512>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp2::<Avx512>(-126.5), 0.0);
        assert!(exp2::<Avx512>(f32::NAN).is_nan());
    }

    #[test]
    fn cosine_and_sine_are_within_their_stated_error_all_around() {
        for turn in (0..=u32::MAX).step_by(65_537 * 3) {
            let angle = f64::from(turn) / 4_294_967_296.0 * std::f64::consts::TAU;
            let (cos, sin) = cos_sin::<Portable>(turn);
            assert!((f64::from(cos) - angle.cos()).abs() < 1e-6, "cos at {turn}");
            assert!((f64::from(sin) - angle.sin()).abs() < 1e-6, "sin at {turn}");
        }
    }

    fn vectors_agree_with_scalars<I: Isa>() {
        let a: [f32; LANES] = std::array::from_fn(|lane| lane as f32 - 7.5);
        let b: [f32; LANES] = std::array::from_fn(|lane| 3.25 - lane as f32);
        let mut out = [0.0; LANES];
        I::store(I::mul_add_v(I::load(&a), I::load(&b), I::splat(0.5)), &mut out);
        assert_eq!(out, std::array::from_fn(|lane| a[lane] * b[lane] + 0.5));
        I::store(I::add(I::load(&a), I::load(&b)), &mut out);
        assert_eq!(out, std::array::from_fn(|lane| a[lane] + b[lane]));
        I::store(I::max(I::load(&a), I::load(&b)), &mut out);
        assert_eq!(out, std::array::from_fn(|lane| a[lane].max(b[lane])));
        I::store(I::max(I::load(&a), I::splat(f32::NAN)), &mut out);
        assert_eq!(out, a, "a NaN in the second argument loses");
        assert_eq!(out.map(f16::from_f32).map(f16::to_f32), a, "halves hold these values");
        I::store(I::load_f16(&a.map(f16::from_f32)), &mut out);
        assert_eq!(out, a);
        I::store(I::load_bf16(&a.map(bf16::from_f32)), &mut out);
        assert_eq!(out, a);
        assert_eq!(reduce_max::<I>(I::load(&a)), 7.5);
        assert_eq!(reduce_sum::<I>(I::load(&a)), 0.0);
    }

    struct Check;

    impl crate::cpu::Kernel for Check {
        #[inline(always)]
        fn run<I: Isa>(self) {
            vectors_agree_with_scalars::<I>();
        }
    }

    #[test]
    fn vectors_agree_with_scalars_on_every_instruction_set() {
        for isa in crate::CpuIsa::available() {
            isa.run(Check);
        }
    }
}
