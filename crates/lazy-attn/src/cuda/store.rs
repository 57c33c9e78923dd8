//! Keys and values in device memory.

use cudarc::driver::{CudaSlice, DevicePtr};
use lazy_attn_sys::abi::{DeviceAddress, KvDtype as DeviceDtype, LaKv};
use lazy_attn_sys::{BlockLayout, KernelShape};

use super::attention::{CudaDevice, device_error};
use crate::cpu::{KvDtype, KvLayout};
use crate::error::AttnError;

/// Keys and values of every layer: `[layer][keys, values][block][kv_head]`, each block as [`BlockLayout`] says.
///
/// 8-bit elements ([`KvDtype::Fp8E4m3`]) have beside them a scale for each `[layer][keys, values][block][kv_head]`: a power of two
/// that `append` chooses, and raises when a later token of the block needs it. What is stored is `element * scale`.
#[derive(Debug)]
pub struct CudaKvStore {
    layout: KvLayout,
    shape: KernelShape,
    memory: CudaSlice<u8>,
    /// Empty with 16-bit elements.
    scales: CudaSlice<f32>,
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
        let is_8_bit = layout.dtype == KvDtype::Fp8E4m3;
        let make = if is_8_bit { BlockLayout::of_8_bit } else { BlockLayout::new };
        let block = make(layout.block_size.get(), layout.head_dim)
            .map_err(|error| AttnError::Device { action: "laying out blocks", reason: error.to_string() })?;
        let half_blocks = layout.num_blocks as usize * layout.num_kv_heads as usize;
        let half_bytes = half_blocks * block.num_bytes() as usize;
        let halves = 2 * layout.num_layers as usize;
        let failed = || device_error("allocating the KV store; use fewer blocks");
        let stream = device.stream();
        let num_scales = if is_8_bit { halves * half_blocks } else { 0 };
        Ok(CudaKvStore {
            layout,
            shape,
            memory: stream.alloc_zeros::<u8>(halves * half_bytes).map_err(failed())?,
            scales: stream.alloc_zeros::<f32>(num_scales.max(1)).map_err(failed())?,
            half_bytes,
        })
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

    /// The scales of 8-bit elements, which go with [`CudaKvStore::memory_mut`]; one that means nothing with 16-bit elements.
    pub fn scales_mut(&mut self) -> &mut CudaSlice<f32> {
        &mut self.scales
    }

    /// Scales of the keys and of the values of a layer; null with 16-bit elements.
    fn layer_scales(&self, device: &CudaDevice, layer: u32) -> [DeviceAddress; 2] {
        if self.layout.dtype != KvDtype::Fp8E4m3 {
            return [DeviceAddress::default(); 2];
        }
        let (base, _sync) = self.scales.device_ptr(device.stream());
        let half = u64::from(self.layout.num_blocks) * u64::from(self.layout.num_kv_heads) * 4;
        [0, 1].map(|index| DeviceAddress(base + (2 * u64::from(layer) + index) * half))
    }

    /// Bytes from the keys of one layer to those of the next, and scales alike.
    pub(super) fn layer_strides(&self) -> [i64; 2] {
        let half_scales = i64::from(self.layout.num_blocks) * i64::from(self.layout.num_kv_heads);
        [2 * self.half_bytes as i64, 2 * half_scales]
    }

    /// Layer `layer` as kernels see it.
    pub(super) fn layer(&self, device: &CudaDevice, layer: u32) -> LaKv {
        let (base, _sync) = self.memory.device_ptr(device.stream());
        let k = base + 2 * (layer as usize * self.half_bytes) as u64;
        let block_stride = self.half_bytes / self.layout.num_blocks as usize;
        let [k_scale, v_scale] = self.layer_scales(device, layer);
        LaKv {
            k: DeviceAddress(k),
            v: DeviceAddress(k + self.half_bytes as u64),
            block_stride: block_stride as i64,
            k_scale,
            v_scale,
            dtype: self.shape.dtype as u32,
            block_size: self.layout.block_size.get(),
            num_kv_heads: self.layout.num_kv_heads,
            head_dim: self.layout.head_dim,
        }
    }
}

/// The kernels for `layout`.
fn kernel_shape(layout: &KvLayout) -> Result<KernelShape, AttnError> {
    let dtype = match layout.dtype {
        KvDtype::Bf16 => DeviceDtype::Bf16,
        KvDtype::F16 => DeviceDtype::F16,
        KvDtype::Fp8E4m3 => DeviceDtype::Fp8E4m3,
        KvDtype::F32 => {
            let rule = "the CUDA kernels take 16 or 8";
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

#[cfg(test)]
mod tests {
    use lazy_attn_types::BlockSize;

    use super::*;

    const LAYOUT: KvLayout = KvLayout {
        num_layers: 1,
        num_blocks: 2,
        block_size: BlockSize::DEFAULT,
        num_kv_heads: 2,
        head_dim: 128,
        dtype: KvDtype::Bf16,
    };

    fn refused(layout: KvLayout, text: &str) {
        assert_eq!(kernel_shape(&layout).unwrap_err().to_string(), text);
    }

    #[test]
    fn stores_without_kernels_are_refused_with_what_there_is() {
        assert!(kernel_shape(&LAYOUT).is_ok());
        for head_dim in [0, 16, 32, 80, 96, 112, 256] {
            let layout = KvLayout { head_dim, ..LAYOUT };
            refused(layout, &format!("head_dim is {head_dim}, but the CUDA kernels take 64 or 128"));
        }
        for tokens in [1, 2, 4, 8, 128, 256] {
            let block_size = BlockSize::new(tokens).unwrap();
            let layout = KvLayout { block_size, ..LAYOUT };
            refused(layout, &format!("block_size is {tokens}, but the CUDA kernels take 16, 32 or 64"));
        }
        let wide = KvLayout { dtype: KvDtype::F32, ..LAYOUT };
        refused(wide, "bits of a KV element is 32, but the CUDA kernels take 16 or 8");
        let headless = KvLayout { num_kv_heads: 0, ..LAYOUT };
        refused(headless, "num_kv_heads is 0, but it must be at least 1");
    }
}
