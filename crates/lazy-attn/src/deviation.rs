//! How far stored keys are from other stored keys: what both stores sum, and what becomes of the sums.

use lazy_attn_types::BlockPairs;

use crate::cpu::KvLayout;
use crate::error::AttnError;

/// Sums over the tokens and KV heads of blocks whose keys were compared: those of a store, or of some of its heads.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviationSums {
    /// `[num_blocks, num_layers]` of `|k - k'|^2` and `|k'|^2`.
    sums: Vec<[f64; 2]>,
    num_layers: usize,
}

impl DeviationSums {
    pub(crate) fn new(sums: Vec<[f64; 2]>, num_layers: u32) -> DeviationSums {
        let num_layers = num_layers as usize;
        assert!(
            num_layers > 0 && sums.len().is_multiple_of(num_layers),
            "every block has sums of every layer"
        );
        DeviationSums { sums, num_layers }
    }

    /// Adds the sums of other heads of the same blocks.
    ///
    /// # Errors
    /// [`AttnError::Mismatch`] if they are of other blocks or layers.
    pub fn add(&mut self, other: &DeviationSums) -> Result<(), AttnError> {
        AttnError::check_size("number of layers", other.num_layers, self.num_layers)?;
        AttnError::check_size("number of sums", other.sums.len(), self.sums.len())?;
        for (sums, others) in self.sums.iter_mut().zip(&other.sums) {
            *sums = [sums[0] + others[0], sums[1] + others[1]];
        }
        Ok(())
    }

    /// Of each block the mean over layers of `|k - k'|^2 / |k'|^2`.
    #[must_use]
    pub fn means(&self) -> Vec<f32> {
        let relative = |&[distance, length]: &[f64; 2]| if length > 0.0 { distance / length } else { 0.0 };
        let mean = |layers: &[[f64; 2]]| layers.iter().map(relative).sum::<f64>() / self.num_layers as f64;
        self.sums.chunks_exact(self.num_layers).map(|layers| mean(layers) as f32).collect()
    }
}

/// Checks that the lists hold the tokens, and that a store of `layout` has the blocks.
pub(crate) fn check_pairs(blocks: BlockPairs<'_>, layout: &KvLayout) -> Result<(), AttnError> {
    let num_blocks = layout.block_size.blocks_for(blocks.num_tokens) as usize;
    AttnError::check_size("number of blocks", blocks.keys.len(), num_blocks)?;
    AttnError::check_size("number of original blocks", blocks.originals.len(), num_blocks)?;
    let mut all = blocks.keys.iter().chain(blocks.originals);
    match all.find(|block| block.0 >= layout.num_blocks) {
        None => Ok(()),
        Some(block) => {
            let (value, rule) = (u64::from(block.0), "the store has fewer blocks");
            Err(AttnError::Unsupported { what: "block id", value, rule })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_heads_are_added_before_they_are_divided() {
        let mut sums = DeviationSums::new(vec![[1.0, 2.0], [0.0, 0.0], [3.0, 4.0], [1.0, 1.0]], 2);
        assert_eq!(sums.means(), [0.25, 0.875]);
        sums.add(&DeviationSums::new(vec![[2.0, 4.0], [1.0, 8.0], [0.0, 2.0], [0.0, 0.0]], 2)).unwrap();
        assert_eq!(sums.means(), [0.3125, 0.75]);
        assert!(sums.add(&DeviationSums::new(vec![[0.0; 2]; 4], 4)).is_err());
        assert!(sums.add(&DeviationSums::new(vec![[0.0; 2]; 2], 2)).is_err());
    }
}
