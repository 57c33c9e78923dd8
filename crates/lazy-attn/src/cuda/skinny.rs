//! Products of a few rows by our own kernel, which reads weights while the launch before it still runs. Launching is unsafe:
//! every length and alignment is checked here.
#![allow(unsafe_code)]

use cudarc::driver::DevicePtr;
use lazy_attn_sys::abi::{DeviceAddress, LaSkinny};
use lazy_attn_sys::{ElementType, SkinnyOutput};

use super::attention::{CudaDevice, kernel_error};
use super::gemm::GemmShape;
use crate::error::AttnError;

/// The operands of a product.
pub(super) struct Operands<'a, X, W> {
    /// `[m, k]`
    pub(super) x: &'a X,
    /// `[n, k]`, or `[2 n, k]` of a gated product.
    pub(super) w: &'a W,
    /// `[m, n]`, memory that the caller borrows.
    pub(super) y: DeviceAddress,
}

impl CudaDevice {
    /// Whether the kernel takes a product of `shape` and is the faster way to it on this device.
    pub(super) fn prefers_skinny(&self, shape: GemmShape) -> bool {
        let [Ok(m), Ok(n), Ok(k)] = [shape.m, shape.n, shape.k].map(u32::try_from) else { return false };
        self.kernels().prefers_skinny(m, n, k)
    }

    /// A product of a shape that [`CudaDevice::prefers_skinny`] accepts.
    pub(super) fn skinny(
        &self,
        (element, output): (ElementType, SkinnyOutput),
        shape: GemmShape,
        operands: Operands<'_, impl DevicePtr<u16>, impl DevicePtr<u16>>,
    ) -> Result<(), AttnError> {
        let GemmShape { m, n, k } = shape;
        let rows = if output == SkinnyOutput::SiluMul { 2 * n } else { n };
        let params = LaSkinny {
            x: self.read("length of x", operands.x, m * k)?,
            w: self.read("length of w", operands.w, rows * k)?,
            out: operands.y,
            m: m as u32,
            n: n as u32,
            k: k as u32,
            ..LaSkinny::default()
        };
        // SAFETY: lengths and alignment were checked above, those of `y` by the caller; all of it lives in this context, and the
        // borrows outlive the launch in stream order. Weights are written by copies that ended before the first step.
        unsafe { self.kernels().skinny(self.stream(), (element, output), &params) }
            .map_err(kernel_error("multiplying a few rows"))
    }
}
