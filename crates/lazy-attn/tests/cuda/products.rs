//! Products of matrices against f64: a few rows by our own kernel, the same by cuBLASLt.

use std::sync::Arc;

use lazy_attn::KvDtype;
use lazy_attn::cuda::{CudaDevice, ElementType, Gemm, GemmShape, Products};

use crate::elementwise::noise;
use crate::gpu::{device, narrow, widen};

const ELEMENTS: [(ElementType, KvDtype); 2] =
    [(ElementType::Bf16, KvDtype::Bf16), (ElementType::F16, KvDtype::F16)];
/// Memory is full of NaNs before a product writes it.
const POISON: u16 = 0xFFFF;

/// Operands in host and device memory.
struct Case {
    device: Arc<CudaDevice>,
    element: ElementType,
    dtype: KvDtype,
    shape: GemmShape,
    x: Vec<u16>,
    w: Vec<u16>,
}

/// A sum of products in f64, and the sum of their sizes.
#[derive(Clone, Copy)]
struct Exact {
    sum: f64,
    size: f64,
}

impl Case {
    /// `w` has `matrices * n` rows.
    fn new((element, dtype): (ElementType, KvDtype), shape: GemmShape, matrices: usize) -> Case {
        let GemmShape { m, n, k } = shape;
        let x = narrow(dtype, &noise(1, 1.0, m * k));
        let w = narrow(dtype, &noise(2, 1.5, matrices * n * k));
        Case { device: device(), element, dtype, shape, x, w }
    }

    /// Half a unit of the element type's last place, of a number of size 1.
    fn unit(&self) -> f64 {
        if self.dtype == KvDtype::F16 { 2f64.powi(-11) } else { 2f64.powi(-8) }
    }

    /// `[m, rows of w]`.
    fn exact(&self) -> Vec<Exact> {
        let k = self.shape.k;
        let (x, w) = (widen(self.dtype, &self.x), widen(self.dtype, &self.w));
        let product = |x: &[f32], w: &[f32]| {
            let terms = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
            terms.fold(Exact { sum: 0.0, size: 0.0 }, |all, term| Exact {
                sum: all.sum + term,
                size: all.size + term.abs(),
            })
        };
        x.chunks_exact(k).flat_map(|x| w.chunks_exact(k).map(move |w| product(x, w))).collect()
    }

    /// How far a sum of `k` products in f32 may be off, in any order: `k` roundings of what has been summed by then.
    fn sum_error(&self, exact: Exact) -> f64 {
        self.shape.k as f64 * 2f64.powi(-24) * exact.size
    }

    fn run(&self, products: Products) -> Vec<u16> {
        let stream = self.device.stream();
        let (x, w) = (stream.clone_htod(&self.x).unwrap(), stream.clone_htod(&self.w).unwrap());
        let mut y = stream.clone_htod(&vec![POISON; self.shape.m * self.shape.n]).unwrap();
        self.device.synchronize().unwrap();
        let mut gemm = Gemm::new(&self.device, products).unwrap();
        gemm.run(self.element, self.shape, &x, &w, &mut y).unwrap();
        stream.clone_dtoh(&y).unwrap()
    }

    fn run_f32(&self, products: Products) -> Vec<f32> {
        let stream = self.device.stream();
        let (x, w) = (stream.clone_htod(&self.x).unwrap(), stream.clone_htod(&self.w).unwrap());
        let mut y = stream.clone_htod(&vec![f32::NAN; self.shape.m * self.shape.n]).unwrap();
        self.device.synchronize().unwrap();
        let mut gemm = Gemm::new(&self.device, products).unwrap();
        gemm.run_f32(self.element, self.shape, &x, &w, &mut y).unwrap();
        stream.clone_dtoh(&y).unwrap()
    }

    fn run_gated(&self, products: Products) -> Vec<u16> {
        let (stream, GemmShape { m, n, .. }) = (self.device.stream(), self.shape);
        let (x, w) = (stream.clone_htod(&self.x).unwrap(), stream.clone_htod(&self.w).unwrap());
        let mut packed = stream.clone_htod(&vec![POISON; m * 2 * n]).unwrap();
        let mut y = stream.clone_htod(&vec![POISON; m * n]).unwrap();
        self.device.synchronize().unwrap();
        let mut gemm = Gemm::new(&self.device, products).unwrap();
        gemm.run_gated(self.element, self.shape, (&x, &w), &mut packed.as_view_mut(), &mut y).unwrap();
        stream.clone_dtoh(&y).unwrap()
    }
}

fn assert_close(got: f64, want: f64, most: f64, at: &str) {
    let difference = (got - want).abs();
    assert!(difference <= most, "{at}: {got} is not {want} within {most}");
}

/// Shapes with tiles that are not full, stages that are not, one block and many, and those of an 8B model.
fn shapes(m: usize) -> impl Iterator<Item = GemmShape> {
    [(8, 32), (24, 288), (200, 1056), (576, 576), (6144, 4096), (512, 14_336)]
        .into_iter()
        .map(move |(n, k)| GemmShape { m, n, k })
}

fn check(element: (ElementType, KvDtype), shape: GemmShape, products: Products) {
    let case = Case::new(element, shape, 1);
    let exact = case.exact();
    let got = widen(case.dtype, &case.run(products));
    assert_eq!(got.len(), exact.len());
    for (index, (got, want)) in got.iter().zip(&exact).enumerate() {
        let most = case.unit() * want.sum.abs() + 2.0 * case.sum_error(*want);
        assert_close(f64::from(*got), want.sum, most, &format!("{shape:?} {element:?} element {index}"));
    }
    for (index, (got, want)) in case.run_f32(products).iter().zip(&exact).enumerate() {
        let at = format!("{shape:?} {element:?} in f32, element {index}");
        assert_close(f64::from(*got), want.sum, case.sum_error(*want), &at);
    }
}

#[test]
fn products_are_those_of_f64() {
    for element in ELEMENTS {
        for m in [1, 2, 5, 8, 16] {
            shapes(m).for_each(|shape| check(element, shape, Products::Fastest));
        }
        shapes(3).for_each(|shape| check(element, shape, Products::Library));
    }
}

#[test]
fn a_few_rows_for_the_sanitizer() {
    for m in [1, 3, 8] {
        check(ELEMENTS[0], GemmShape { m, n: 40, k: 544 }, Products::Fastest);
    }
}

/// The gate and the rest are rounded before they are multiplied, as they are without the fused kernel.
#[test]
fn a_gated_product_is_that_of_its_parts() {
    for element in ELEMENTS {
        for m in [1, 4, 8] {
            for shape in shapes(m) {
                let case = Case::new(element, shape, 2);
                let exact = case.exact();
                let (n, unit) = (shape.n, case.unit());
                let got = widen(case.dtype, &case.run_gated(Products::Fastest));
                for (index, got) in got.iter().enumerate() {
                    let (row, column) = (index / n, index % n);
                    let (gate, up) = (exact[row * 2 * n + column], exact[row * 2 * n + n + column]);
                    let silu = |x: f64| x / (1.0 + (-x).exp());
                    let want = silu(gate.sum) * up.sum;
                    // The slope of silu is at most 1.1; `__expf` is right to a few units of f32.
                    let off = |exact: Exact| unit * exact.sum.abs() + case.sum_error(exact);
                    let (gate_off, up_off) = (1.1 * off(gate), off(up));
                    let most = (unit + 100.0 * 2f64.powi(-24)) * want.abs()
                        + (1.0 + unit)
                            * (gate_off * up.sum.abs() + silu(gate.sum).abs() * up_off + gate_off * up_off)
                        + 2f64.powi(-24);
                    assert_close(
                        f64::from(*got),
                        want,
                        most,
                        &format!("{shape:?} {element:?} element {index}"),
                    );
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_whatever_stands_beside_it() {
    for element in ELEMENTS {
        let shape = GemmShape { m: 8, n: 1032, k: 4096 };
        let all = Case::new(element, shape, 1);
        let want = all.run(Products::Fastest);
        for m in 1..8 {
            let x = all.x[..m * shape.k].to_vec();
            let (shape, w) = (GemmShape { m, ..shape }, all.w.clone());
            let few = Case { device: device(), element: all.element, dtype: all.dtype, shape, x, w };
            for _ in 0..3 {
                assert!(few.run(Products::Fastest) == want[..m * shape.n], "{m} rows {element:?}");
            }
        }
    }
}
