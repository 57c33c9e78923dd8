//! Sampling on a device. Launching is unsafe: every length is checked here, what lies in device memory by the kernels.
#![allow(unsafe_code)]

use cudarc::driver::{DevicePtr, DevicePtrMut};
use lazy_attn_sys::Launch;
use lazy_attn_sys::abi::{DeviceAddress, LaPenalize, LaSample, LaSampling, LaSeen};

use super::attention::{CudaDevice, kernel_error};
use crate::error::AttnError;

/// Logits of a row at most: sums of their weights have to fit into 63 bits.
const MAX_VOCAB_SIZE: u32 = 1 << 19;

/// Rows of logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogitShape {
    /// Rows.
    pub num_rows: u32,
    /// Logits of a row: 2^19 at most.
    pub vocab_size: u32,
}

impl LogitShape {
    fn num_logits(self) -> usize {
        self.num_rows as usize * self.vocab_size as usize
    }

    fn check(self) -> Result<(), AttnError> {
        if (1..=MAX_VOCAB_SIZE).contains(&self.vocab_size) {
            return Ok(());
        }
        let value = u64::from(self.vocab_size);
        Err(AttnError::Unsupported { what: "vocab_size", value, rule: "sampling takes 1 to 2^19 logits" })
    }
}

impl CudaDevice {
    /// Applies penalties and bias to `logits`, in the order and with the bits of the CPU sampler.
    ///
    /// `logits`: `[num_rows, vocab_size]`; `rows`: `[num_rows]`; `seen`: no token twice in a row, others are skipped.
    ///
    /// # Errors
    /// [`AttnError::Mismatch`] or [`AttnError::Unsupported`] if a size disagrees, [`AttnError::Device`] if the launch
    /// fails.
    pub fn penalize(
        &self,
        shape: LogitShape,
        rows: &impl DevicePtr<LaSampling>,
        seen: &impl DevicePtr<LaSeen>,
        logits: &mut impl DevicePtrMut<f32>,
    ) -> Result<(), AttnError> {
        shape.check()?;
        let num_seen = u32::try_from(seen.len()).map_err(|_| AttnError::Unsupported {
            what: "seen tokens",
            value: seen.len() as u64,
            rule: "there may be 2^32 - 1",
        })?;
        let params = LaPenalize {
            logits: self.write("length of logits", logits, shape.num_logits())?,
            rows: self.read("sampling rows", rows, shape.num_rows as usize)?,
            seen: self.read("seen tokens", seen, seen.len())?,
            num_rows: shape.num_rows,
            vocab_size: shape.vocab_size,
            num_seen,
            reserved: 0,
        };
        // SAFETY: lengths were checked above, and the kernel checks the rows and tokens of `seen`; the borrows outlive the
        // launch in stream order.
        unsafe { self.kernels().launch(self.stream(), Launch::Penalize, &params) }
            .map_err(kernel_error("applying penalties"))
    }

    /// The most likely token of every row, the lowest of equal ones.
    ///
    /// `logits`: `[num_rows, vocab_size]`; `tokens`: `[num_rows]`, or [`NOT_FINITE`](lazy_attn_sys::abi::NOT_FINITE) or
    /// [`NOTHING_ALLOWED`](lazy_attn_sys::abi::NOTHING_ALLOWED).
    ///
    /// # Errors
    /// As for [`CudaDevice::penalize`].
    pub fn argmax(
        &self,
        shape: LogitShape,
        logits: &impl DevicePtr<f32>,
        tokens: &mut impl DevicePtrMut<u32>,
    ) -> Result<(), AttnError> {
        self.choose(Launch::Argmax, shape, DeviceAddress(0), logits, tokens)
    }

    /// A token of every row, drawn as its entry of `rows` says; the draw is that of the CPU sampler.
    ///
    /// `logits` and `tokens` as for [`CudaDevice::argmax`]; `rows`: `[num_rows]`, their penalties already applied.
    ///
    /// # Errors
    /// As for [`CudaDevice::penalize`].
    pub fn sample(
        &self,
        shape: LogitShape,
        rows: &impl DevicePtr<LaSampling>,
        logits: &impl DevicePtr<f32>,
        tokens: &mut impl DevicePtrMut<u32>,
    ) -> Result<(), AttnError> {
        let rows = self.read("sampling rows", rows, shape.num_rows as usize)?;
        self.choose(Launch::Sample, shape, rows, logits, tokens)
    }

    fn choose(
        &self,
        which: Launch,
        shape: LogitShape,
        rows: DeviceAddress,
        logits: &impl DevicePtr<f32>,
        tokens: &mut impl DevicePtrMut<u32>,
    ) -> Result<(), AttnError> {
        shape.check()?;
        let params = LaSample {
            logits: self.read("length of logits", logits, shape.num_logits())?,
            rows,
            tokens: self.write("length of tokens", tokens, shape.num_rows as usize)?,
            num_rows: shape.num_rows,
            vocab_size: shape.vocab_size,
        };
        // SAFETY: lengths were checked above; the borrows outlive the launch in stream order.
        unsafe { self.kernels().launch(self.stream(), which, &params) }
            .map_err(kernel_error("choosing tokens"))
    }
}
