//! Blocks brought to another position: `K[to] = R(distance) K[from]`, `V[to] = V[from]`.
//!
//! What a stored key that is rotated to its place in its segment makes unnecessary; here for comparison (Block-Attention,
//! arXiv:2409.15355). Each use rounds the keys once more.

use rayon::prelude::*;

use super::dispatch::{CpuIsa, Kernel};
use super::element::Element;
use super::store::KvLayout;
use crate::isa::Isa;
use crate::reencode::BlockCopy;
use crate::rope::{Angles, RopeTable};

/// What all layers share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reencode<'a> {
    pub(super) layout: &'a KvLayout,
    pub(super) rope: &'a RopeTable,
    /// Done one after the other; blocks lie inside the store.
    pub(super) copies: &'a [BlockCopy],
    pub(super) isa: CpuIsa,
}

impl Reencode<'_> {
    /// Does it in every layer of `memory`, `[num_layers, num_blocks, num_kv_heads, 2, head_dim * block_size]`.
    pub(super) fn run<E: Element>(self, memory: &mut [E]) {
        let block_elements = self.layout.block_elements();
        let layer_elements = block_elements * self.layout.num_blocks as usize;
        memory.par_chunks_exact_mut(layer_elements).for_each(|layer| {
            for copy in self.copies {
                let (from, to) = (copy.from.0 as usize * block_elements, copy.to.0 as usize * block_elements);
                if from != to {
                    layer.copy_within(from..from + block_elements, to);
                }
                let block = &mut layer[to..to + block_elements];
                self.isa.run(BlockRotation { reencode: self, distance: copy.distance, block });
            }
        });
    }
}

/// Rotates the keys of a block where they are.
struct BlockRotation<'a, E> {
    reencode: Reencode<'a>,
    distance: i32,
    /// `[num_kv_heads, 2, head_dim * block_size]`
    block: &'a mut [E],
}

impl<E: Element> Kernel for BlockRotation<'_, E> {
    #[inline(always)]
    fn run<I: Isa>(self) {
        let Reencode { layout, rope, .. } = self.reencode;
        let (pairs, block_size) = (rope.rotary_dim() / 2, layout.block_size.get() as usize);
        let mut angles = Angles::ZERO;
        rope.angles::<I>(self.distance, &mut angles);
        for head in self.block.chunks_exact_mut(layout.head_elements()) {
            // [rotary_dim / 2, block_size] twice: pairs are half-split, and the keys of a block turn alike.
            let (lows, rest) = head.split_at_mut(pairs * block_size);
            let rows = lows.chunks_exact_mut(block_size).zip(rest.chunks_exact_mut(block_size));
            for ((low, high), (cos, sin)) in rows.zip(angles.cos.iter().zip(&angles.sin)) {
                for (low, high) in low.iter_mut().zip(high) {
                    let (x, y) = (low.widen(), high.widen());
                    *low = E::narrow(I::mul_add(x, *cos, -(y * sin)));
                    *high = E::narrow(I::mul_add(y, *cos, x * sin));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lazy_attn_types::{BlockId, BlockSize};

    use super::super::{AttnParams, CpuAttention, KvDtype, KvStore};
    use super::*;

    fn copy(from: u32, to: u32, distance: i32) -> BlockCopy {
        BlockCopy { from: BlockId(from), to: BlockId(to), distance }
    }

    #[test]
    fn copies_are_made_one_after_the_other_in_every_layer_and_touch_nothing_else() {
        let layout = KvLayout {
            num_layers: 3,
            num_blocks: 4,
            block_size: BlockSize::DEFAULT,
            num_kv_heads: 2,
            head_dim: 32,
            dtype: KvDtype::F32,
        };
        let rope = RopeTable::from_inv_freq(&[0.5, 0.1]).unwrap();
        let attention = CpuAttention::new(AttnParams { num_q_heads: 2, rope, softmax_scale: 1.0 });
        let mut store = KvStore::new(layout).unwrap();
        let elements: &mut [f32] = store.elements_mut();
        elements.iter_mut().zip(0u16..).for_each(|(element, index)| *element = f32::from(index % 97) - 48.0);
        let before = elements.to_vec();
        // Block 3 comes to block 1 by way of block 2, at its old position again.
        attention.reencode(&mut store, &[copy(3, 2, 9), copy(2, 1, -4), copy(1, 1, -5)]).unwrap();
        let after: &[f32] = store.elements_mut();
        let size = layout.block_elements();
        for layer in 0..3 {
            let at = |block: usize| (layer * 4 + block) * size..(layer * 4 + block + 1) * size;
            assert_eq!((&after[at(0)], &after[at(3)]), (&before[at(0)], &before[at(3)]));
            assert_ne!(&after[at(2)], &before[at(3)]);
            for (&got, &want) in after[at(1)].iter().zip(&before[at(3)]) {
                // Three rotations, each right to 5e-7 of a pair of at most 48 each.
                assert!((got - want).abs() <= 3.0 * 96.0 * 1e-6, "{got} is not {want}");
            }
        }
        assert!(attention.reencode(&mut store, &[copy(0, 4, 1)]).is_err());
    }
}
