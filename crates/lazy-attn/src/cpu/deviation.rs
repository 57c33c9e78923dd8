//! How far stored keys are from other stored keys.

use half::{bf16, f16};
use lazy_attn_types::{BlockId, BlockPairs};

use super::{
    element::Element,
    store::{KvDtype, KvStore, refused_width},
};
use crate::deviation::{DeviationSums, check_pairs};
use crate::error::AttnError;

impl KvStore {
    /// How far the keys of each block are from those of its original: the mean over layers of `|k - k'|^2 / |k'|^2`, both
    /// summed over the block's tokens and KV heads.
    ///
    /// # Errors
    /// [`AttnError::Mismatch`] if the lists do not hold the tokens, [`AttnError::Unsupported`] if a block is not in the store.
    pub fn key_deviation(&self, blocks: BlockPairs<'_>) -> Result<Vec<f32>, AttnError> {
        check_pairs(blocks, self.layout())?;
        let sums = match self.layout().dtype {
            KvDtype::F32 => self.deviation_as::<f32>(blocks),
            KvDtype::F16 => self.deviation_as::<f16>(blocks),
            KvDtype::Bf16 => self.deviation_as::<bf16>(blocks),
            KvDtype::Fp8E4m3 => return Err(refused_width()),
        };
        Ok(DeviationSums::new(sums, self.layout().num_layers).means())
    }

    /// `[num_blocks, num_layers]`
    fn deviation_as<E: Element>(&self, blocks: BlockPairs<'_>) -> Vec<[f64; 2]> {
        let (layout, block_size) = (self.layout(), self.layout().block_size.get());
        let of_block = |(entry, (&keys, &original)): (u32, (&BlockId, &BlockId))| {
            // Slots behind the last token may hold anything.
            let num_slots = block_size.min(blocks.num_tokens - entry * block_size);
            (0..layout.num_layers).map(move |layer| {
                let layer = self.layer::<E>(layer);
                let [keys, original] = [keys, original].map(|block| {
                    &layer[block.0 as usize * layout.block_elements()..][..layout.block_elements()]
                });
                let sizes = [layout.head_elements(), block_size as usize, num_slots as usize];
                distance_and_length(keys, original, sizes)
            })
        };
        (0..).zip(blocks.keys.iter().zip(blocks.originals)).flat_map(of_block).collect()
    }
}

/// `|k - k'|^2` and `|k'|^2` over the first `num_slots` slots of one block: per head `head_elements` elements, the first half of
/// which are keys, `[head_dim][block_size]`.
fn distance_and_length<E: Element>(
    keys: &[E],
    original: &[E],
    [head_elements, block_size, num_slots]: [usize; 3],
) -> [f64; 2] {
    let (mut distance, mut length) = (0.0, 0.0);
    for (keys, original) in keys.chunks_exact(head_elements).zip(original.chunks_exact(head_elements)) {
        let (keys, original) = (&keys[..head_elements / 2], &original[..head_elements / 2]);
        for (keys, original) in keys.chunks_exact(block_size).zip(original.chunks_exact(block_size)) {
            for (key, original) in keys.iter().zip(original).take(num_slots) {
                let (key, original) = (f64::from(key.widen()), f64::from(original.widen()));
                distance += (key - original).powi(2);
                length += original * original;
            }
        }
    }
    [distance, length]
}
