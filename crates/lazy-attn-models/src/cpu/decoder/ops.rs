//! What a layer does between its products, row by row; the order of every sum is fixed.

use rayon::prelude::*;

use crate::cpu::simd::{CpuIsa, Isa, Kernel, LANES, exp_nonpositive, reduce_sum};

/// Elements below which a pass stays on one thread.
const MIN_PARALLEL_ELEMENTS: usize = 1 << 15;
/// Elements a task of a parallel pass takes at least.
const TASK_ELEMENTS: usize = 1 << 13;

/// Weights of an RMSNorm.
#[derive(Debug)]
pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    pub(super) eps: f32,
}

impl Norm {
    /// `out = norm(x)` for every row.
    pub(super) fn rows(&self, isa: CpuIsa, x: &[f32], out: &mut [f32]) {
        let width = self.weight.len();
        for_rows(width, out, |first, out| {
            isa.run(NormRows { norm: self, x: &x[first..first + out.len()], out });
        });
    }

    /// `x = norm(x)` for every row.
    pub(super) fn in_place(&self, isa: CpuIsa, x: &mut [f32]) {
        for_rows(self.weight.len(), x, |_, x| isa.run(NormInPlace { norm: self, x }));
    }

    /// One over the root of the mean square of `row`.
    #[inline(always)]
    fn inverse_rms(&self, row: &[f32]) -> f32 {
        let (vectors, rest) = row.as_chunks::<LANES>();
        let mut squares = [0.0f32; LANES];
        for vector in vectors {
            for lane in 0..LANES {
                squares[lane] = vector[lane].mul_add(vector[lane], squares[lane]);
            }
        }
        for (square, x) in squares.iter_mut().zip(rest) {
            *square = x.mul_add(*x, *square);
        }
        1.0 / (reduce_sum(squares) / row.len() as f32 + self.eps).sqrt()
    }
}

/// `x += delta`, element by element.
pub(super) fn add(isa: CpuIsa, x: &mut [f32], delta: &[f32]) {
    for_rows(1, x, |first, x| isa.run(Add { x, delta: &delta[first..] }));
}

/// `gate = silu(gate) * up`, element by element.
pub(super) fn silu_mul(isa: CpuIsa, gate: &mut [f32], up: &[f32]) {
    for_rows(1, gate, |first, gate| isa.run(SiluMul { gate, up: &up[first..] }));
}

/// Runs `task(first element, elements)` over whole rows of `out`, in parallel where it pays.
fn for_rows(width: usize, out: &mut [f32], task: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() < MIN_PARALLEL_ELEMENTS {
        return task(0, out);
    }
    let size = TASK_ELEMENTS.next_multiple_of(width);
    out.par_chunks_mut(size).enumerate().for_each(|(index, out)| task(index * size, out));
}

struct NormRows<'a> {
    norm: &'a Norm,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for NormRows<'_> {
    #[inline(always)]
    fn run<I: Isa>(self) {
        let width = self.norm.weight.len();
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let inverse = self.norm.inverse_rms(x);
            for ((out, x), weight) in out.iter_mut().zip(x).zip(&self.norm.weight) {
                *out = x * inverse * weight;
            }
        }
    }
}

struct NormInPlace<'a> {
    norm: &'a Norm,
    x: &'a mut [f32],
}

impl Kernel for NormInPlace<'_> {
    #[inline(always)]
    fn run<I: Isa>(self) {
        for row in self.x.chunks_exact_mut(self.norm.weight.len()) {
            let inverse = self.norm.inverse_rms(row);
            for (x, weight) in row.iter_mut().zip(&self.norm.weight) {
                *x = *x * inverse * weight;
            }
        }
    }
}

struct Add<'a> {
    x: &'a mut [f32],
    delta: &'a [f32],
}

impl Kernel for Add<'_> {
    #[inline(always)]
    fn run<I: Isa>(self) {
        for (x, delta) in self.x.iter_mut().zip(self.delta) {
            *x += delta;
        }
    }
}

struct SiluMul<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for SiluMul<'_> {
    #[inline(always)]
    fn run<I: Isa>(self) {
        for (gate, up) in self.gate.iter_mut().zip(self.up) {
            *gate = silu(*gate) * up;
        }
    }
}

/// `x / (1 + e^-x)`; the exponent is never positive, so nothing overflows.
#[inline(always)]
fn silu(x: f32) -> f32 {
    let decay = exp_nonpositive(-x.abs());
    let numerator = if x < 0.0 { x * decay } else { x };
    numerator / (1.0 + decay)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect()
    }

    #[test]
    fn silu_is_the_formula_and_neither_overflows_nor_hides_a_nan() {
        for step in -12_000..12_000 {
            let x = step as f32 / 100.0;
            let want = f64::from(x) / (1.0 + (-f64::from(x)).exp());
            // The exponential is good to 3e-7, and three roundings follow.
            assert!((f64::from(silu(x)) - want).abs() <= 6e-7 * want.abs() + 1e-35, "silu({x})");
        }
        assert_eq!((silu(f32::MAX), silu(f32::MIN)), (f32::MAX, 0.0));
        assert!(silu(f32::NAN).is_nan());
    }

    #[test]
    fn a_norm_is_the_formula_whatever_the_width() {
        for width in [1, 15, 16, 17, 576] {
            let norm = Norm { weight: values(width).iter().map(|w| w + 9.0).collect(), eps: 1e-5 };
            let x = values(3 * width);
            let mut out = vec![0.0; x.len()];
            norm.rows(CpuIsa::detect(), &x, &mut out);
            for (x, out) in x.chunks_exact(width).zip(out.chunks_exact(width)) {
                let square = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / width as f64;
                for ((x, got), weight) in x.iter().zip(out).zip(&norm.weight) {
                    let want = f64::from(*x) / (square + 1e-5).sqrt() * f64::from(*weight);
                    // A sum of `width` squares in 16 lanes, a root, a division and two products.
                    let tolerance = (width as f64 / 32.0 + 6.0) * f64::from(f32::EPSILON) * want.abs();
                    assert!((f64::from(*got) - want).abs() <= tolerance, "{got} is not {want}");
                }
            }
        }
    }

    #[test]
    fn passes_over_many_rows_and_over_one_give_the_same_bits_on_every_instruction_set() {
        let norm = Norm { weight: values(576), eps: 1e-5 };
        let (x, up) = (values(100 * 576), values(100 * 576));
        let mut want: Option<Vec<f32>> = None;
        for isa in CpuIsa::available() {
            let mut out = vec![0.0; x.len()];
            norm.rows(isa, &x, &mut out);
            silu_mul(isa, &mut out, &up);
            add(isa, &mut out, &x);
            norm.in_place(isa, &mut out);
            let mut rows = vec![0.0; x.len()];
            for (at, row) in rows.chunks_exact_mut(576).enumerate() {
                let at = at * 576..(at + 1) * 576;
                norm.rows(isa, &x[at.clone()], row);
                silu_mul(isa, row, &up[at.clone()]);
                add(isa, row, &x[at]);
                norm.in_place(isa, row);
            }
            assert_eq!(out, rows, "{isa}");
            assert_eq!(&out, want.get_or_insert_with(|| out.clone()), "{isa}");
        }
    }
}
