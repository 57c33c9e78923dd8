//! How far stored keys are from other stored keys, on a device. Launching is unsafe: every block is checked here.
#![allow(unsafe_code)]

use cudarc::driver::{DevicePtr, DevicePtrMut};
use lazy_attn_sys::abi::{DeviceAddress, KvDtype, LaBlockPair, LaDeviation};
use lazy_attn_sys::{ElementType, Launch};
use lazy_attn_types::{BlockId, BlockPairs};

use super::attention::{CudaDevice, device_error, kernel_error};
use super::store::CudaKvStore;
use crate::deviation::{DeviationSums, check_pairs};
use crate::error::AttnError;

impl CudaDevice {
    /// Sums over the keys of `blocks` in every layer, as [`crate::KvStore::key_deviation`] divides them. Waits for whatever
    /// was launched before.
    ///
    /// # Errors
    /// [`AttnError::Mismatch`] if the lists do not hold the tokens, [`AttnError::Unsupported`] if a block is not in the store,
    /// [`AttnError::Device`] if the device has no room or the launch fails.
    pub fn key_deviation(
        &self,
        store: &CudaKvStore,
        blocks: BlockPairs<'_>,
    ) -> Result<DeviationSums, AttnError> {
        let layout = store.layout();
        check_pairs(blocks, layout)?;
        let (num_layers, num_pairs) = (layout.num_layers, blocks.keys.len() as u32);
        if num_pairs == 0 {
            return Ok(DeviationSums::new(Vec::new(), num_layers));
        }
        if i32::try_from(u64::from(num_pairs) * u64::from(num_layers)).is_err() {
            let (value, rule) = (u64::from(num_pairs), "a launch compares 2^31 of all layers");
            return Err(AttnError::Unsupported { what: "blocks", value, rule });
        }
        let stream = self.stream();
        let pairs = stream.clone_htod(&entries(blocks, layout.block_size.get()));
        let pairs = pairs.map_err(device_error("uploading blocks to compare"))?;
        let sums = stream.alloc_zeros::<f32>(2 * num_pairs as usize * num_layers as usize);
        let mut sums = sums.map_err(device_error("allocating sums"))?;
        let [layer_stride, scale_stride] = store.layer_strides();
        let params = LaDeviation {
            kv: store.layer(self, 0),
            layer_stride,
            scale_stride,
            pairs: DeviceAddress(pairs.device_ptr(stream).0),
            sums: DeviceAddress(sums.device_ptr_mut(stream).0),
            num_pairs,
            num_layers,
        };
        let head_dim = layout.head_dim;
        let which = match store.shape().dtype {
            KvDtype::Fp8E4m3 => Launch::KeyDeviationFp8(head_dim),
            KvDtype::F16 => Launch::KeyDeviation(ElementType::F16, head_dim),
            _ => Launch::KeyDeviation(ElementType::Bf16, head_dim),
        };
        // SAFETY: `check_pairs` found every block inside the store, and `entries` no more slots than a block has; pairs and
        // sums are as long as the parameters say, and all of it outlives the launch in stream order.
        unsafe { self.kernels().launch(stream, which, &params) }.map_err(kernel_error("comparing keys"))?;
        let sums = stream.clone_dtoh(&sums).map_err(device_error("reading sums"))?;
        let sums = sums.chunks_exact(2).map(|pair| [f64::from(pair[0]), f64::from(pair[1])]);
        Ok(DeviationSums::new(sums.collect(), num_layers))
    }
}

/// The blocks, with the tokens in each.
fn entries(blocks: BlockPairs<'_>, block_size: u32) -> Vec<LaBlockPair> {
    let pairs = (0..).zip(blocks.keys.iter().zip(blocks.originals));
    let entry = |(index, (keys, original)): (u32, (&BlockId, &BlockId))| {
        let num_slots = block_size.min(blocks.num_tokens - index * block_size);
        LaBlockPair { keys: keys.0, original: original.0, num_slots, reserved: 0 }
    };
    pairs.map(entry).collect()
}
