//! Norms, activations and gathers on a device. Launching is unsafe: every length and alignment is checked here.
#![allow(unsafe_code)]

use cudarc::driver::{DevicePtr, DevicePtrMut};
use lazy_attn_sys::abi::{DeviceAddress, LaGather, LaNorm, LaQkvNorm, LaSiluMul};
use lazy_attn_sys::{ElementType, Launch, LaunchParams};

use super::attention::{CudaDevice, kernel_error};
use crate::error::AttnError;

/// Rows of equal width, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowShape {
    /// Rows.
    pub num_rows: u32,
    /// Elements of a row; a multiple of 8.
    pub width: u32,
}

impl RowShape {
    pub(super) fn num_elements(self) -> usize {
        self.num_rows as usize * self.width as usize
    }

    fn check(self) -> Result<(), AttnError> {
        if self.width > 0 && self.width.is_multiple_of(8) {
            return Ok(());
        }
        let (value, rule) = (u64::from(self.width), "the CUDA kernels take multiples of 8");
        Err(AttnError::Unsupported { what: "width", value, rule })
    }
}

/// A norm.
#[derive(Debug)]
pub struct Norm<'a, Memory> {
    /// `[width]`.
    pub weight: &'a Memory,
    /// Added to the mean of squares.
    pub eps: f32,
}

/// What happens to packed rows of queries, keys and values before they are rotated.
#[derive(Debug)]
pub struct QkvNorm<'a, Memory> {
    /// Query heads.
    pub num_q_heads: u32,
    /// Heads of keys, and of values.
    pub num_kv_heads: u32,
    /// Elements of a head: 64 or 128.
    pub head_dim: u32,
    /// `[(num_q_heads + 2 * num_kv_heads) * head_dim]`, added first.
    pub bias: Option<&'a Memory>,
    /// `[head_dim]` each: of queries and of keys.
    pub weights: Option<(&'a Memory, &'a Memory)>,
    /// Added to the mean of squares.
    pub eps: f32,
}

impl CudaDevice {
    /// The address of `memory`, which must hold `elements`.
    pub(super) fn read<T>(
        &self,
        what: &'static str,
        memory: &impl DevicePtr<T>,
        elements: usize,
    ) -> Result<DeviceAddress, AttnError> {
        AttnError::check_size(what, memory.len(), elements)?;
        aligned(what, memory.device_ptr(self.stream()).0)
    }

    /// The same, to be written.
    pub(super) fn write<T>(
        &self,
        what: &'static str,
        memory: &mut impl DevicePtrMut<T>,
        elements: usize,
    ) -> Result<DeviceAddress, AttnError> {
        AttnError::check_size(what, memory.len(), elements)?;
        aligned(what, memory.device_ptr_mut(self.stream()).0)
    }

    /// Launches with addresses from [`CudaDevice::read`] and [`CudaDevice::write`].
    fn launch(&self, which: Launch, params: &impl LaunchParams) -> Result<(), AttnError> {
        // SAFETY: the callers in this module pass addresses of memory that they borrow, of this context, aligned, and as
        // long as the parameters say; the borrows outlive the launch in stream order, and ids are checked by the kernel.
        unsafe { self.kernels().launch(self.stream(), which, params) }
            .map_err(kernel_error("launching a kernel"))
    }

    /// `residual += x`, and `out` is its RMS norm; the mean is in `f32`, of the rounded sum.
    ///
    /// `x`, `residual`, `out`: `[num_rows, width]` of `element`.
    ///
    /// # Errors
    /// [`AttnError::Mismatch`] or [`AttnError::Unsupported`] if a size disagrees, [`AttnError::Device`] if the launch
    /// fails.
    pub fn add_rms_norm<M: DevicePtr<u16>>(
        &self,
        (element, shape): (ElementType, RowShape),
        x: &M,
        residual: &mut impl DevicePtrMut<u16>,
        norm: &Norm<'_, M>,
        out: &mut impl DevicePtrMut<u16>,
    ) -> Result<(), AttnError> {
        let residual = self.write("length of residual", residual, shape.num_elements())?;
        self.norm((element, shape), x, residual, norm, out)
    }

    /// `out` is the RMS norm of `x`.
    ///
    /// # Errors
    /// As for [`CudaDevice::add_rms_norm`].
    pub fn rms_norm<M: DevicePtr<u16>>(
        &self,
        (element, shape): (ElementType, RowShape),
        x: &M,
        norm: &Norm<'_, M>,
        out: &mut impl DevicePtrMut<u16>,
    ) -> Result<(), AttnError> {
        self.norm((element, shape), x, DeviceAddress(0), norm, out)
    }

    fn norm<M: DevicePtr<u16>>(
        &self,
        (element, shape): (ElementType, RowShape),
        x: &M,
        residual: DeviceAddress,
        norm: &Norm<'_, M>,
        out: &mut impl DevicePtrMut<u16>,
    ) -> Result<(), AttnError> {
        shape.check()?;
        let params = LaNorm {
            x: self.read("length of x", x, shape.num_elements())?,
            residual,
            weight: self.read("length of the norm's weight", norm.weight, shape.width as usize)?,
            out: self.write("length of out", out, shape.num_elements())?,
            num_rows: shape.num_rows,
            width: shape.width,
            eps: norm.eps,
            reserved: 0,
        };
        self.launch(Launch::Norm(element), &params)
    }

    /// `out = silu(gate) * up`.
    ///
    /// `gate_up`: `[num_rows, 2 * width]`, the gate first; `out`: `[num_rows, width]`.
    ///
    /// # Errors
    /// As for [`CudaDevice::add_rms_norm`].
    pub fn silu_mul(
        &self,
        (element, shape): (ElementType, RowShape),
        gate_up: &impl DevicePtr<u16>,
        out: &mut impl DevicePtrMut<u16>,
    ) -> Result<(), AttnError> {
        shape.check()?;
        let params = LaSiluMul {
            gate_up: self.read("length of gate_up", gate_up, 2 * shape.num_elements())?,
            out: self.write("length of out", out, shape.num_elements())?,
            num_rows: shape.num_rows,
            width: shape.width,
        };
        self.launch(Launch::SiluMul(element), &params)
    }

    /// `out[i] = table[ids[i]]`: embeddings, or the last rows of sequences; zeros for an id the table has no row for.
    ///
    /// `table`: `shape`, of any 16-bit type; `ids`: `[num_rows]`; `out`: `[num_rows, width]`.
    ///
    /// # Errors
    /// As for [`CudaDevice::add_rms_norm`].
    pub fn gather(
        &self,
        shape: RowShape,
        table: &impl DevicePtr<u16>,
        ids: &impl DevicePtr<u32>,
        out: &mut impl DevicePtrMut<u16>,
    ) -> Result<(), AttnError> {
        shape.check()?;
        let num_rows = u32::try_from(ids.len()).map_err(|_| AttnError::Unsupported {
            what: "ids",
            value: ids.len() as u64,
            rule: "there may be 2^32 - 1",
        })?;
        let gathered = RowShape { num_rows, width: shape.width };
        let params = LaGather {
            table: self.read("length of the table", table, shape.num_elements())?,
            ids: self.read("ids", ids, ids.len())?,
            out: self.write("length of out", out, gathered.num_elements())?,
            num_rows,
            width: shape.width,
            num_table_rows: shape.num_rows,
            reserved: 0,
        };
        self.launch(Launch::Gather, &params)
    }

    /// Adds a bias, and normalises every query and key head, in place.
    ///
    /// `qkv`: `[num_tokens, (num_q_heads + 2 * num_kv_heads) * head_dim]` of `element`: queries, keys, values.
    ///
    /// # Errors
    /// As for [`CudaDevice::add_rms_norm`].
    pub fn qkv_norm<M: DevicePtr<u16>>(
        &self,
        element: ElementType,
        num_tokens: u32,
        norm: &QkvNorm<'_, M>,
        qkv: &mut impl DevicePtrMut<u16>,
    ) -> Result<(), AttnError> {
        let row = (norm.num_q_heads + 2 * norm.num_kv_heads) as usize * norm.head_dim as usize;
        let read = |what, memory: Option<&M>, elements| {
            memory.map_or(Ok(DeviceAddress(0)), |memory| self.read(what, memory, elements))
        };
        let head_dim = norm.head_dim as usize;
        let params = LaQkvNorm {
            qkv: self.write("length of qkv", qkv, num_tokens as usize * row)?,
            bias: read("length of the bias", norm.bias, row)?,
            q_weight: read("length of the query norm's weight", norm.weights.map(|(q, _)| q), head_dim)?,
            k_weight: read("length of the key norm's weight", norm.weights.map(|(_, k)| k), head_dim)?,
            num_tokens,
            num_q_heads: norm.num_q_heads,
            num_kv_heads: norm.num_kv_heads,
            eps: norm.eps,
        };
        self.launch(Launch::QkvNorm(element, norm.head_dim), &params)
    }
}

fn aligned(what: &'static str, address: u64) -> Result<DeviceAddress, AttnError> {
    if address.is_multiple_of(16) {
        return Ok(DeviceAddress(address));
    }
    Err(AttnError::Unsupported { what, value: address, rule: "its address must be a multiple of 16" })
}
