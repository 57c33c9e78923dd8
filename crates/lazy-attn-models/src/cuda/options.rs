//! How a model is run on a device, and how much of it the KV store takes.

use lazy_attn::cuda::{DeviceMemory, Products};
use lazy_attn::{AttnError, KvDtype, KvLayout};
use lazy_attn_types::BlockSize;

use crate::weights::HalfDtype;

/// How a model is run on a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CudaOptions {
    /// Element type of weights and activations; `None` takes that of the files if it has 16 bits, else bf16.
    pub dtype: Option<HalfDtype>,
    /// Element type of keys and values; `None` takes that of the activations. The only other one is [`KvDtype::Fp8E4m3`],
    /// beside bf16: half the memory and nearly twice the speed of reading it, four significant bits.
    pub kv_dtype: Option<KvDtype>,
    /// How large the KV store is.
    pub kv_budget: CudaKvBudget,
    /// Tokens per KV block: 16, 32 or 64.
    pub block_size: BlockSize,
    /// Most tokens one step may run; activations are allocated for them.
    pub max_step_tokens: u32,
    /// Rows whose logits are held at once. A step may have more; they are then computed in turns.
    pub max_logit_rows: u32,
    /// Whether decode steps are captured and replayed as graphs.
    pub graphs: bool,
    /// Who multiplies matrices.
    pub products: Products,
}

impl Default for CudaOptions {
    fn default() -> CudaOptions {
        CudaOptions {
            dtype: None,
            kv_dtype: None,
            kv_budget: CudaKvBudget::Fraction(0.9),
            block_size: BlockSize::DEFAULT,
            max_step_tokens: 8192,
            max_logit_rows: 256,
            graphs: true,
            products: Products::Fastest,
        }
    }
}

impl CudaOptions {
    /// Element type of keys and values beside activations of `dtype`.
    pub(super) fn kv_dtype(&self, dtype: HalfDtype) -> Result<KvDtype, AttnError> {
        let own = match dtype {
            HalfDtype::Bf16 => KvDtype::Bf16,
            HalfDtype::F16 => KvDtype::F16,
        };
        let wanted = self.kv_dtype.unwrap_or(own);
        if wanted == own || (wanted == KvDtype::Fp8E4m3 && dtype == HalfDtype::Bf16) {
            return Ok(wanted);
        }
        let rule = "on CUDA keys and values have the type of the activations, or 8 bits beside bf16";
        let value = 8 * wanted.size_bytes() as u64;
        Err(AttnError::Unsupported { what: "bits of a KV element", value, rule })
    }
}

/// Size of a KV store on a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CudaKvBudget {
    /// This many blocks.
    Blocks(u32),
    /// As many whole blocks as fit into this many bytes.
    Bytes(u64),
    /// What is left of this part of the device's memory after weights and activations: above 0, at most 1.
    Fraction(f32),
}

impl CudaKvBudget {
    /// Blocks of a store of `layout`, where the device's memory is `memory` with everything else already in it.
    pub(super) fn num_blocks(self, layout: &KvLayout, memory: DeviceMemory) -> Result<u32, AttnError> {
        let block_bytes = layout.bytes_per_token() * u64::from(layout.block_size.get());
        let bytes = match self {
            CudaKvBudget::Blocks(num_blocks) => return Ok(num_blocks),
            CudaKvBudget::Bytes(bytes) => bytes,
            CudaKvBudget::Fraction(fraction) => {
                let used = memory.total - memory.free;
                let allowed = (memory.total as f64 * f64::from(fraction.clamp(0.0, 1.0))).round() as u64;
                allowed.saturating_sub(used)
            }
        };
        let num_blocks = u32::try_from(bytes / block_bytes).unwrap_or(u32::MAX);
        if num_blocks == 0 {
            let reason = format!(
                "one block takes {block_bytes} bytes, and {} of {} are free behind weights and activations",
                memory.free, memory.total
            );
            return Err(AttnError::OutOfMemory { bytes: u128::from(bytes), reason });
        }
        Ok(num_blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: KvLayout = KvLayout {
        num_layers: 2,
        num_blocks: 1,
        block_size: BlockSize::DEFAULT,
        num_kv_heads: 2,
        head_dim: 64,
        dtype: KvDtype::Bf16,
    };
    /// 16 tokens x 2 layers x (K, V) x 2 heads x 64 elements x 2 bytes.
    const BLOCK_BYTES: u64 = 16_384;

    #[test]
    fn a_budget_is_what_is_left_of_its_part_of_the_memory() {
        let memory = DeviceMemory { free: 60 * BLOCK_BYTES, total: 100 * BLOCK_BYTES };
        let blocks = |budget: CudaKvBudget| budget.num_blocks(&LAYOUT, memory);
        assert_eq!(blocks(CudaKvBudget::Fraction(0.9)), Ok(50));
        assert_eq!(blocks(CudaKvBudget::Fraction(1.0)), Ok(60));
        assert_eq!(blocks(CudaKvBudget::Bytes(3 * BLOCK_BYTES + 1)), Ok(3));
        assert_eq!(blocks(CudaKvBudget::Blocks(7)), Ok(7));
    }

    #[test]
    fn keys_have_the_type_of_the_activations_or_eight_bits_beside_bf16() {
        let options = |kv_dtype| CudaOptions { kv_dtype, ..CudaOptions::default() };
        assert_eq!(options(None).kv_dtype(HalfDtype::F16), Ok(KvDtype::F16));
        assert_eq!(options(Some(KvDtype::Fp8E4m3)).kv_dtype(HalfDtype::Bf16), Ok(KvDtype::Fp8E4m3));
        for (kv, dtype) in [
            (KvDtype::Fp8E4m3, HalfDtype::F16),
            (KvDtype::F16, HalfDtype::Bf16),
            (KvDtype::F32, HalfDtype::Bf16),
        ] {
            assert!(options(Some(kv)).kv_dtype(dtype).is_err(), "{kv:?} {dtype:?}");
        }
    }

    #[test]
    fn no_room_for_a_block_is_an_error_with_the_numbers() {
        let memory = DeviceMemory { free: 10, total: 100 };
        let error = CudaKvBudget::Fraction(0.9).num_blocks(&LAYOUT, memory).unwrap_err().to_string();
        assert!(error.contains("one block takes 16384 bytes") && error.contains("10 of 100"), "{error}");
    }
}
