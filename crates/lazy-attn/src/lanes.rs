//! Sixteen floats at a time.
//!
//! Everything here is `#[inline(always)]` safe code on fixed-size arrays. It is compiled once per instruction set by
//! inlining it into the functions of `cpu::dispatch`, where LLVM turns each loop over [`LANES`] into vector
//! instructions. [`Isa`] carries the few choices that differ between instruction sets.

// Loops over an index keep several arrays in lockstep, which is what the vectoriser looks for.
#![allow(clippy::needless_range_loop)]

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

    /// `a * b + c`, fused where that is an instruction.
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        if Self::FMA { a.mul_add(b, c) } else { a * b + c }
    }
}

/// Whatever the build target guarantees.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;
/// AVX2 and FMA: sixteen registers of eight floats.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2;
/// AVX-512: thirty-two registers of sixteen floats.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512;

impl Isa for Portable {
    const FMA: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
    const MAX_ROWS: usize = 4;
    const PANEL: usize = 1;
}

impl Isa for Avx2 {
    const FMA: bool = true;
    const MAX_ROWS: usize = 4;
    const PANEL: usize = 1;
}

impl Isa for Avx512 {
    const FMA: bool = true;
    const MAX_ROWS: usize = 8;
    const PANEL: usize = 4;
}

/// A vector.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(align(64))]
pub(crate) struct Lanes(pub(crate) [f32; LANES]);

impl Lanes {
    pub(crate) const ZERO: Lanes = Lanes([0.0; LANES]);

    #[inline(always)]
    pub(crate) fn splat(value: f32) -> Lanes {
        Lanes([value; LANES])
    }

    /// `values[at..at + LANES]`; zeros where the slice is too short, which no caller lets happen.
    #[inline(always)]
    pub(crate) fn load(values: &[f32], at: usize) -> Lanes {
        Lanes(*window(values, at, &[0.0; LANES]))
    }

    #[inline(always)]
    pub(crate) fn store(self, values: &mut [f32], at: usize) {
        values[at..at + LANES].copy_from_slice(&self.0);
    }

    #[inline(always)]
    pub(crate) fn map(self, f: impl Fn(f32) -> f32) -> Lanes {
        let mut out = self;
        for value in &mut out.0 {
            *value = f(*value);
        }
        out
    }

    /// `self * b + c` per lane.
    #[inline(always)]
    pub(crate) fn mul_add<I: Isa>(self, b: Lanes, c: Lanes) -> Lanes {
        let mut out = c;
        for lane in 0..LANES {
            out.0[lane] = I::mul_add(self.0[lane], b.0[lane], c.0[lane]);
        }
        out
    }

    #[inline(always)]
    pub(crate) fn add(self, other: Lanes) -> Lanes {
        let mut out = self;
        for lane in 0..LANES {
            out.0[lane] += other.0[lane];
        }
        out
    }

    /// The larger of each lane; a NaN in `other` loses.
    #[inline(always)]
    pub(crate) fn max(self, other: Lanes) -> Lanes {
        let mut out = self;
        for lane in 0..LANES {
            out.0[lane] = larger(out.0[lane], other.0[lane]);
        }
        out
    }

    /// Keeps lanes whose index from `first` on lies in `begin..end`; the others become minus infinity.
    #[inline(always)]
    pub(crate) fn mask_outside(self, first: u32, begin: u32, end: u32) -> Lanes {
        let mut out = self;
        for lane in 0..LANES {
            // One unsigned comparison: what lies before `begin` wraps around to a huge index.
            let index = first.wrapping_add(lane as u32).wrapping_sub(begin);
            out.0[lane] = if index < end.wrapping_sub(begin) { out.0[lane] } else { f32::NEG_INFINITY };
        }
        out
    }

    /// Largest lane.
    #[inline(always)]
    pub(crate) fn reduce_max(self) -> f32 {
        self.reduce(larger)
    }

    /// Sum of the lanes, as a tree: the same order whatever produced them.
    #[inline(always)]
    pub(crate) fn reduce_sum(self) -> f32 {
        self.reduce(|a, b| a + b)
    }

    #[inline(always)]
    fn reduce(self, f: impl Fn(f32, f32) -> f32) -> f32 {
        let mut out = self.0;
        for width in [8, 4, 2, 1] {
            for lane in 0..width {
                out[lane] = f(out[lane], out[lane + width]);
            }
        }
        out[0]
    }
}

/// `values[at..at + LANES]` as an array; `fallback` where the slice is too short, which no caller lets happen.
#[inline(always)]
pub(crate) fn window<'a, T>(values: &'a [T], at: usize, fallback: &'a [T; LANES]) -> &'a [T; LANES] {
    values.get(at..).and_then(|tail| tail.first_chunk()).unwrap_or(fallback)
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

    #[test]
    fn a_mask_keeps_exactly_its_range() {
        let kept = Lanes::splat(1.0).mask_outside(32, 34, 40);
        let indices: Vec<usize> = (0..LANES).filter(|&lane| kept.0[lane] == 1.0).collect();
        assert_eq!(indices, [2, 3, 4, 5, 6, 7]);
    }
}
