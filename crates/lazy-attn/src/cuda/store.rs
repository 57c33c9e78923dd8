//! Keys and values in device memory.

use cudarc::driver::{CudaSlice, DevicePtr};
use lazy_attn_sys::abi::{DeviceAddress, KvDtype as DeviceDtype, LaKv};
use lazy_attn_sys::{BlockLayout, KernelShape};

use super::attention::{CudaDevice, device_error};
use crate::cpu::{KvDtype, KvLayout};
use crate::error::AttnError;

/// Keys and values of every layer: `[layer][keys, values][block][kv_head]`, each block as [`BlockLayout`] says.
#[derive(Debug)]
pub struct CudaKvStore {
    layout: KvLayout,
    shape: KernelShape,
    memory: CudaSlice<u8>,
    /// Bytes of the keys, or the values, of one layer.
    half_bytes: usize,
}

impl CudaKvStore {
    /// Allocates what `layout` asks for; all zeros at first.
    ///
    /// # Errors
    /// [`AttnError::Unsupported`] for a shape without kernels, [`AttnError::Device`] if the device has no room.
    pub fn new(device: &CudaDevice, layout: KvLayout) -> Result<CudaKvStore, AttnError> {
        let shape = kernel_shape(&layout)?;
        let block = BlockLayout::new(layout.block_size.get(), layout.head_dim)
            .map_err(|error| AttnError::Device { action: "laying out blocks", reason: error.to_string() })?;
        let half_bytes =
            layout.num_blocks as usize * layout.num_kv_heads as usize * block.num_bytes() as usize;
        let num_bytes = 2 * layout.num_layers as usize * half_bytes;
        let memory = device
            .stream()
            .alloc_zeros::<u8>(num_bytes)
            .map_err(device_error("allocating the KV store; use fewer blocks"))?;
        Ok(CudaKvStore { layout, shape, memory, half_bytes })
    }

    /// Sizes of the store.
    #[must_use]
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// The kernels that read it.
    #[must_use]
    pub fn shape(&self) -> KernelShape {
        self.shape
    }

    /// All bytes, for tests and for moving blocks.
    pub fn memory_mut(&mut self) -> &mut CudaSlice<u8> {
        &mut self.memory
    }

    /// Layer `layer` as kernels see it.
    pub(super) fn layer(&self, device: &CudaDevice, layer: u32) -> LaKv {
        let (base, _sync) = self.memory.device_ptr(device.stream());
        let k = base + 2 * (layer as usize * self.half_bytes) as u64;
        let block_stride = self.half_bytes / self.layout.num_blocks as usize;
        LaKv {
            k: DeviceAddress(k),
            v: DeviceAddress(k + self.half_bytes as u64),
            block_stride: block_stride as i64,
            dtype: self.shape.dtype as u32,
            block_size: self.layout.block_size.get(),
            num_kv_heads: self.layout.num_kv_heads,
            head_dim: self.layout.head_dim,
            ..LaKv::default()
        }
    }
}

/// The kernels for `layout`.
fn kernel_shape(layout: &KvLayout) -> Result<KernelShape, AttnError> {
    let dtype = match layout.dtype {
        KvDtype::Bf16 => DeviceDtype::Bf16,
        KvDtype::F16 => DeviceDtype::F16,
        KvDtype::F32 => {
            let rule = "the CUDA kernels take 16-bit elements";
            return Err(AttnError::Unsupported { what: "bits of a KV element", value: 32, rule });
        }
    };
    if !matches!(layout.head_dim, 64 | 128) {
        let rule = "the CUDA kernels take 64 or 128";
        return Err(AttnError::Unsupported { what: "head_dim", value: u64::from(layout.head_dim), rule });
    }
    if !matches!(layout.block_size.get(), 16 | 32 | 64) {
        let rule = "the CUDA kernels take 16, 32 or 64";
        let value = u64::from(layout.block_size.get());
        return Err(AttnError::Unsupported { what: "block_size", value, rule });
    }
    for (what, value) in [
        ("num_layers", layout.num_layers),
        ("num_blocks", layout.num_blocks),
        ("num_kv_heads", layout.num_kv_heads),
    ] {
        if value == 0 {
            return Err(AttnError::Unsupported { what, value: 0, rule: "it must be at least 1" });
        }
    }
    Ok(KernelShape { dtype, head_dim: layout.head_dim })
}
