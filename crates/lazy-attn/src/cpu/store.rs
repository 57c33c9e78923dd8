//! Where keys and values live.
//!
//! One allocation: `[layer][block][kv_head]`, and per head the keys of the block, `[head_dim][block_size]`, then its
//! values, `[block_size][head_dim]`. Keys lie dimension by dimension so that sixteen keys fill a vector and a score
//! needs no sum across lanes; values lie token by token for the same reason.

use half::{bf16, f16};
use lazy_attn_types::BlockSize;
use memmap2::{Advice, MmapMut};

use super::element::Element;
use crate::{error::AttnError, rope::MAX_ROTARY_DIM};

/// Element type of stored keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvDtype {
    /// 32-bit float: exact.
    F32,
    /// IEEE half: 11 significant bits; values saturate at +-65504, and a NaN is stored as such a value.
    F16,
    /// bfloat16: 8 significant bits, the range of f32.
    Bf16,
    /// 8-bit float, 4 significant bits, with a power of two as the scale of each (block, KV head): CUDA stores only.
    Fp8E4m3,
}

impl KvDtype {
    /// Bytes per element, without scales.
    #[must_use]
    pub fn size_bytes(self) -> usize {
        match self {
            KvDtype::F32 => 4,
            KvDtype::F16 | KvDtype::Bf16 => 2,
            KvDtype::Fp8E4m3 => 1,
        }
    }
}

/// Sizes of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvLayout {
    /// Layers of the model.
    pub num_layers: u32,
    /// Blocks; ids are `0..num_blocks`.
    pub num_blocks: u32,
    /// Tokens per block.
    pub block_size: BlockSize,
    /// Key/value heads.
    pub num_kv_heads: u32,
    /// Elements per head: a multiple of 16 up to 256.
    pub head_dim: u32,
    /// Element type.
    pub dtype: KvDtype,
}

impl KvLayout {
    /// Bytes of one token: 2 x layers x KV heads x head_dim x element size. Scales of 8-bit elements, 8 bytes for each block,
    /// layer and KV head, are not counted.
    #[must_use]
    pub fn bytes_per_token(&self) -> u64 {
        2 * u64::from(self.num_layers)
            * u64::from(self.num_kv_heads)
            * u64::from(self.head_dim)
            * self.dtype.size_bytes() as u64
    }

    /// Bytes of the whole store.
    #[must_use]
    pub fn bytes(&self) -> u128 {
        u128::from(self.bytes_per_token()) * u128::from(self.num_blocks) * u128::from(self.block_size.get())
    }

    fn validate(&self) -> Result<(), AttnError> {
        if self.dtype == KvDtype::Fp8E4m3 {
            return Err(refused_width());
        }
        let head_dim = self.head_dim;
        if !head_dim.is_multiple_of(16) || head_dim == 0 || head_dim as usize > MAX_ROTARY_DIM {
            let rule = "the kernels take multiples of 16 up to 256";
            return Err(AttnError::Unsupported { what: "head_dim", value: u64::from(head_dim), rule });
        }
        let counts = [
            ("num_layers", self.num_layers),
            ("num_blocks", self.num_blocks),
            ("num_kv_heads", self.num_kv_heads),
        ];
        for (what, value) in counts {
            if value == 0 {
                return Err(AttnError::Unsupported { what, value: 0, rule: "it must be at least 1" });
            }
        }
        Ok(())
    }

    /// Elements of one head of one block: keys and values.
    pub(super) fn head_elements(&self) -> usize {
        2 * self.head_dim as usize * self.block_size.get() as usize
    }

    /// Elements of one block in one layer.
    pub(super) fn block_elements(&self) -> usize {
        self.head_elements() * self.num_kv_heads as usize
    }
}

/// Why the CPU kernels take no 8-bit elements.
pub(super) fn refused_width() -> AttnError {
    let rule = "the CPU kernels take 16 or 32; use f16 or bf16";
    AttnError::Unsupported { what: "bits of a KV element", value: 8, rule }
}

/// Keys and values of every layer, block by block. All zeros at first, and memory is taken when it is first written.
#[derive(Debug)]
pub struct KvStore {
    layout: KvLayout,
    memory: MmapMut,
}

impl KvStore {
    /// Reserves the memory `layout` asks for.
    ///
    /// # Errors
    /// [`AttnError::Unsupported`] for a head_dim or dtype the kernels do not take or a count of zero,
    /// [`AttnError::OutOfMemory`] if the system refuses the reservation.
    pub fn new(layout: KvLayout) -> Result<KvStore, AttnError> {
        layout.validate()?;
        let bytes = layout.bytes();
        let refused = |reason: String| AttnError::OutOfMemory { bytes, reason };
        let num_bytes = isize::try_from(bytes).map_err(|_| refused("it exceeds the address space".into()))?;
        let memory = MmapMut::map_anon(num_bytes as usize).map_err(|error| refused(error.to_string()))?;
        #[cfg(target_os = "linux")]
        {
            // Huge pages spare the page walks of scattered blocks. Advice only: without it everything still works.
            let _ = memory.advise(Advice::HugePage);
        }
        Ok(KvStore { layout, memory })
    }

    /// The sizes.
    #[must_use]
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Sets every key and value to `value`, as far as the dtype can hold it; tests poison unwritten slots with NaN.
    pub fn fill(&mut self, value: f32) {
        match self.layout.dtype {
            KvDtype::F32 => self.elements_mut().fill(value),
            KvDtype::F16 => self.elements_mut().fill(f16::narrow(value)),
            KvDtype::Bf16 => self.elements_mut().fill(bf16::narrow(value)),
            KvDtype::Fp8E4m3 => {} // no store has it
        }
    }

    /// `[num_blocks, num_kv_heads, 2, head_dim * block_size]`
    pub(super) fn layer<E: Element>(&self, layer: u32) -> &[E] {
        let elements: &[E] = bytemuck::cast_slice(&self.memory);
        &elements[self.layer_range(layer)]
    }

    /// `[num_blocks, num_kv_heads, 2, head_dim * block_size]`
    pub(super) fn layer_mut<E: Element>(&mut self, layer: u32) -> &mut [E] {
        let range = self.layer_range(layer);
        &mut self.elements_mut()[range]
    }

    /// All layers: `[num_layers, num_blocks, num_kv_heads, 2, head_dim * block_size]`
    pub(super) fn elements_mut<E: Element>(&mut self) -> &mut [E] {
        bytemuck::cast_slice_mut(&mut self.memory)
    }

    fn layer_range(&self, layer: u32) -> std::ops::Range<usize> {
        let size = self.layout.block_elements() * self.layout.num_blocks as usize;
        layer as usize * size..(layer as usize + 1) * size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: KvLayout = KvLayout {
        num_layers: 3,
        num_blocks: 5,
        block_size: BlockSize::DEFAULT,
        num_kv_heads: 2,
        head_dim: 64,
        dtype: KvDtype::Bf16,
    };

    #[test]
    fn a_token_takes_exactly_its_keys_and_values() {
        assert_eq!(LAYOUT.bytes_per_token(), 2 * 3 * 2 * 64 * 2);
        assert_eq!(KvStore::new(LAYOUT).unwrap().memory.len() as u64, LAYOUT.bytes_per_token() * 5 * 16);
    }

    #[test]
    fn a_store_larger_than_memory_is_an_error() {
        let huge = KvLayout { num_layers: 1 << 12, num_blocks: u32::MAX, num_kv_heads: 1 << 10, ..LAYOUT };
        assert!(matches!(KvStore::new(huge), Err(AttnError::OutOfMemory { .. })));
        let beyond = KvLayout { num_layers: u32::MAX, num_blocks: u32::MAX, num_kv_heads: 1 << 20, ..LAYOUT };
        assert!(matches!(KvStore::new(beyond), Err(AttnError::OutOfMemory { .. })));
    }

    #[test]
    fn sizes_the_kernels_do_not_take_are_refused() {
        for head_dim in [0, 8, 65, 272] {
            assert!(matches!(
                KvStore::new(KvLayout { head_dim, ..LAYOUT }),
                Err(AttnError::Unsupported { what: "head_dim", .. })
            ));
        }
        assert!(KvStore::new(KvLayout { num_blocks: 0, ..LAYOUT }).is_err());
        let refused = KvStore::new(KvLayout { dtype: KvDtype::Fp8E4m3, ..LAYOUT }).unwrap_err().to_string();
        assert!(refused.contains("is 8") && refused.contains("use f16"), "{refused}");
    }
}
