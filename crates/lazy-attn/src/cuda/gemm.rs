//! Products of activations and weights: a few rows by our own kernel, the rest by cuBLASLt. The library is driven by raw
//! handles; what it reads and writes is checked here.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::{CudaSlice, CudaViewMut, DevicePtr, DevicePtrMut};
use lazy_attn_sys::abi::DeviceAddress;
use lazy_attn_sys::{ElementType, SkinnyOutput};

use super::attention::{CudaDevice, device_error};
use super::elementwise::RowShape;
use super::skinny::Operands;
use crate::error::AttnError;

/// What cuBLASLt may use for partial sums; NVIDIA's advice for its largest devices.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Shapes whose algorithms are remembered. A step has about five, for each number of rows.
const MAX_SHAPES: usize = 4096;

/// Sizes of a product `y[m, n] = x[m, k] w[n, k]^T`, all row-major, summed in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GemmShape {
    /// Rows of `x` and `y`.
    pub m: usize,
    /// Rows of `w`: output features.
    pub n: usize,
    /// Columns of `x` and `w`: input features.
    pub k: usize,
}

/// Who multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Products {
    /// Our own kernel where it is known to be faster, else cuBLASLt.
    #[default]
    Fastest,
    /// cuBLASLt always: for comparison.
    Library,
}

/// Products on a device's stream: our kernel for a few rows; else cuBLASLt, with one handle, one workspace, and the algorithm of
/// each shape, chosen once.
///
/// A product allocates nothing on the device and waits for nothing, and may be captured in a graph. Our kernel may read `w` while
/// what was launched before runs: `w` must have been written before the last wait for the device.
#[derive(Debug)]
pub struct Gemm {
    device: Arc<CudaDevice>,
    products: Products,
    handle: Handle,
    workspace: CudaSlice<u8>,
    algorithms: HashMap<Key, Product>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    shape: GemmShape,
    element: ElementType,
    output: Output,
}

/// What elements of `y` are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Output {
    /// Those of `x` and `w`.
    Same,
    F32,
}

impl Gemm {
    /// Opens cuBLASLt.
    ///
    /// # Errors
    /// [`AttnError::Device`] if the library is not installed or refuses, or the device has no room for its workspace.
    pub fn new(device: &Arc<CudaDevice>, products: Products) -> Result<Gemm, AttnError> {
        // SAFETY: the call only opens the library by its usual names and closes it again.
        if !unsafe { sys::is_culib_present() } {
            let reason = "libcublasLt was not found; install the CUDA 13 libraries".to_owned();
            return Err(AttnError::Device { action: "opening cuBLASLt", reason });
        }
        let context = device.stream().context();
        context.bind_to_thread().map_err(device_error("choosing a context"))?;
        let handle = Handle(lt::create_handle().map_err(failed("opening cuBLASLt"))?);
        let workspace = device.stream().alloc_zeros(WORKSPACE_BYTES);
        let workspace = workspace.map_err(device_error("allocating the workspace of cuBLASLt"))?;
        Ok(Gemm { device: Arc::clone(device), products, handle, workspace, algorithms: HashMap::new() })
    }

    /// Whether a product of `shape` goes to our own kernel.
    fn is_own(&self, shape: GemmShape) -> bool {
        self.products == Products::Fastest && self.device.prefers_skinny(shape)
    }

    /// `y = x w^T` in elements of `element`.
    ///
    /// `x`: `[m, k]`; `w`: `[n, k]`; `y`: `[m, n]`.
    ///
    /// # Errors
    /// [`AttnError::Mismatch`] if a length disagrees, [`AttnError::Device`] if there is no algorithm for the shape or the
    /// launch fails.
    pub fn run(
        &mut self,
        element: ElementType,
        shape: GemmShape,
        x: &impl DevicePtr<u16>,
        w: &impl DevicePtr<u16>,
        y: &mut impl DevicePtrMut<u16>,
    ) -> Result<(), AttnError> {
        AttnError::check_size("length of y", y.len(), shape.m * shape.n)?;
        let device = Arc::clone(&self.device);
        let (y, _written) = y.device_ptr_mut(device.stream());
        if self.is_own(shape) {
            let y = DeviceAddress(y);
            return device.skinny((element, SkinnyOutput::Same), shape, Operands { x, w, y });
        }
        self.launch(Key { shape, element, output: Output::Same }, x, w, y)
    }

    /// The same with `y` in f32, not rounded to `element`: logits.
    ///
    /// # Errors
    /// As for [`Gemm::run`].
    pub fn run_f32(
        &mut self,
        element: ElementType,
        shape: GemmShape,
        x: &impl DevicePtr<u16>,
        w: &impl DevicePtr<u16>,
        y: &mut impl DevicePtrMut<f32>,
    ) -> Result<(), AttnError> {
        AttnError::check_size("length of y", y.len(), shape.m * shape.n)?;
        let device = Arc::clone(&self.device);
        let (y, _written) = y.device_ptr_mut(device.stream());
        if self.is_own(shape) {
            let y = DeviceAddress(y);
            return device.skinny((element, SkinnyOutput::F32), shape, Operands { x, w, y });
        }
        self.launch(Key { shape, element, output: Output::F32 }, x, w, y)
    }

    /// `y = silu(x gate^T) * (x up^T)`, with the bits of a product and [`CudaDevice::silu_mul`] behind it.
    ///
    /// `x`: `[m, k]`; `w`: `[2 n, k]`, the gate first; `packed`: `[m, 2 n]`, which may be written; `y`: `[m, n]`.
    ///
    /// # Errors
    /// As for [`Gemm::run`].
    pub fn run_gated(
        &mut self,
        element: ElementType,
        shape: GemmShape,
        (x, w): (&impl DevicePtr<u16>, &impl DevicePtr<u16>),
        packed: &mut CudaViewMut<'_, u16>,
        y: &mut impl DevicePtrMut<u16>,
    ) -> Result<(), AttnError> {
        let GemmShape { m, n, .. } = shape;
        let device = Arc::clone(&self.device);
        if self.is_own(shape) {
            let y = device.write("length of y", y, m * n)?;
            return device.skinny((element, SkinnyOutput::SiluMul), shape, Operands { x, w, y });
        }
        self.run(element, GemmShape { n: 2 * n, ..shape }, x, w, packed)?;
        device.silu_mul((element, RowShape { num_rows: m as u32, width: n as u32 }), packed, y)
    }

    /// `y`: the address of memory that the caller borrows, as long as the key says.
    fn launch(
        &mut self,
        key: Key,
        x: &impl DevicePtr<u16>,
        w: &impl DevicePtr<u16>,
        y: u64,
    ) -> Result<(), AttnError> {
        let GemmShape { m, n, k } = key.shape;
        AttnError::check_size("length of x", x.len(), m * k)?;
        AttnError::check_size("length of w", w.len(), n * k)?;
        if m * n * k == 0 {
            return Ok(());
        }
        let stream = self.device.stream();
        stream.context().bind_to_thread().map_err(device_error("choosing a context"))?;
        if !self.algorithms.contains_key(&key) {
            if self.algorithms.len() >= MAX_SHAPES {
                self.algorithms.clear();
            }
            self.algorithms.insert(key, Product::new(&self.handle, key)?);
        }
        let product = &self.algorithms[&key];
        let (x, _x_read) = x.device_ptr(stream);
        let (w, _w_read) = w.device_ptr(stream);
        let (workspace, _used) = self.workspace.device_ptr(stream);
        let (one, zero) = (1f32, 0f32);
        // SAFETY: the descriptors live in `product`; lengths were checked against them above; the scalars are read before the
        // call returns; all device memory lives in this context, and the borrows outlive the launch in stream order, which is
        // also what lets one workspace serve every product.
        unsafe {
            lt::matmul(
                self.handle.0,
                product.description.0,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                w as *const _,
                product.w.0,
                x as *const _,
                product.x.0,
                y as *const _,
                product.y.0,
                y as *mut _,
                product.y.0,
                &raw const product.algorithm,
                workspace as *mut _,
                WORKSPACE_BYTES,
                stream.cu_stream().cast(),
            )
        }
        .map_err(failed("multiplying matrices"))
    }
}

fn failed(action: &'static str) -> impl Fn(CublasError) -> AttnError {
    move |error| AttnError::Device { action, reason: format!("cuBLASLt: {error:?}") }
}

/// Descriptors of a product, and how cuBLASLt runs it.
///
/// cuBLASLt counts columns first: what is `[rows, columns]` here is `columns x rows` there, and `y = x w^T` is `y' = w'^T x'`.
#[derive(Debug)]
struct Product {
    description: Description,
    w: MatrixLayout,
    x: MatrixLayout,
    y: MatrixLayout,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

// SAFETY: descriptors are plain memory of the library, not bound to a thread, and only this struct refers to them.
unsafe impl Send for Product {}

impl Product {
    fn new(handle: &Handle, key: Key) -> Result<Product, AttnError> {
        let error = || failed("describing a product");
        let GemmShape { m, n, k } = key.shape;
        let element = match key.element {
            ElementType::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
            ElementType::F16 => sys::cudaDataType_t::CUDA_R_16F,
        };
        let output = match key.output {
            Output::Same => element,
            Output::F32 => sys::cudaDataType_t::CUDA_R_32F,
        };
        let layout = |dtype, rows: usize, columns: usize| {
            lt::create_matrix_layout(dtype, rows as u64, columns as u64, rows as i64)
                .map(MatrixLayout)
                .map_err(error())
        };
        let (w, x, y) = (layout(element, k, n)?, layout(element, k, m)?, layout(output, n, m)?);
        let description = Description::of_w_transposed().map_err(error())?;
        let preference = Preference::new(WORKSPACE_BYTES).map_err(error())?;
        // SAFETY: every handle is alive.
        let best = unsafe {
            lt::get_matmul_algo_heuristic(handle.0, description.0, w.0, x.0, y.0, y.0, preference.0)
        }
        .map_err(failed("choosing an algorithm for a product"))?;
        Ok(Product { description, w, x, y, algorithm: best.algo })
    }
}

#[derive(Debug)]
struct Handle(sys::cublasLtHandle_t);

// SAFETY: cuBLASLt's handles may be used from any thread; `Gemm` uses its own from one at a time.
unsafe impl Send for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is alive, and nothing uses it afterwards. An error leaks it, no more.
        let _ = unsafe { lt::destroy_handle(self.0) };
    }
}

#[derive(Debug)]
struct MatrixLayout(sys::cublasLtMatrixLayout_t);

impl Drop for MatrixLayout {
    fn drop(&mut self) {
        // SAFETY: as for `Handle`.
        let _ = unsafe { lt::destroy_matrix_layout(self.0) };
    }
}

#[derive(Debug)]
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn of_w_transposed() -> Result<Description, CublasError> {
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let description = Description(lt::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F)?);
        let transposed: i32 = 1;
        // SAFETY: the descriptor is alive; the attribute is a 32-bit integer, 1 for a transposed matrix.
        unsafe {
            lt::set_matmul_desc_attribute(
                description.0,
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                (&raw const transposed).cast(),
                size_of_val(&transposed),
            )
        }?;
        Ok(description)
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: as for `Handle`.
        let _ = unsafe { lt::destroy_matmul_desc(self.0) };
    }
}

struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new(workspace_bytes: usize) -> Result<Preference, CublasError> {
        let preference = Preference(lt::create_matmul_pref()?);
        // SAFETY: the preference is alive; the attribute is a 64-bit number of bytes.
        unsafe {
            lt::set_matmul_pref_attribute(
                preference.0,
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const workspace_bytes).cast(),
                size_of_val(&workspace_bytes),
            )
        }?;
        Ok(preference)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: as for `Handle`.
        let _ = unsafe { lt::destroy_matmul_pref(self.0) };
    }
}
