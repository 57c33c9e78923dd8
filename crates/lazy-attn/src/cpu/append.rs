//! Writing keys and values: a key is rotated once, to its segment-local position, and never touched again; keys that are
//! stored raw are turned by no angle.

use lazy_attn_types::StoredKeys;

use super::{
    dispatch::{CpuIsa, Kernel},
    element::Element,
    store::KvLayout,
};
use crate::{
    isa::Isa,
    plan::BlockWrite,
    rope::{Angles, MAX_ROTARY_DIM, RopeTable},
};

/// Keys and values of a step in one layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewTokens<'a> {
    pub(super) layout: &'a KvLayout,
    pub(super) rope: &'a RopeTable,
    /// `[num_tokens, num_kv_heads * head_dim]`, not rotated.
    pub(super) keys: &'a [f32],
    /// `[num_tokens, num_kv_heads * head_dim]`
    pub(super) values: &'a [f32],
    pub(super) stored_keys: StoredKeys,
    pub(super) isa: CpuIsa,
}

/// Writes below which a second thread costs more than it saves.
const MIN_PARALLEL_WRITES: usize = 8;

/// Does all `writes`, ascending by block; `memory` begins at block `first_block` of the layer.
pub(super) fn write_blocks<E: Element>(
    new: NewTokens<'_>,
    writes: &[BlockWrite],
    memory: &mut [E],
    first_block: u32,
) {
    let block_elements = new.layout.block_elements();
    if writes.len() < MIN_PARALLEL_WRITES {
        for write in writes {
            let at = (write.block.0 - first_block) as usize * block_elements;
            let block = &mut memory[at..at + block_elements];
            new.isa.run(BlockWriter { new, write: *write, block });
        }
        return;
    }
    // Cut between two blocks, so that each half has its own memory even if several writes fill one block.
    let mut middle = writes.len() / 2;
    while middle < writes.len() && writes[middle].block == writes[middle - 1].block {
        middle += 1;
    }
    if middle == writes.len() {
        for few in writes.chunks(MIN_PARALLEL_WRITES - 1) {
            write_blocks(new, few, memory, first_block);
        }
        return;
    }
    let (left, right) = writes.split_at(middle);
    let boundary = right[0].block.0;
    let (left_memory, right_memory) = memory.split_at_mut((boundary - first_block) as usize * block_elements);
    rayon::join(
        || write_blocks(new, left, left_memory, first_block),
        || write_blocks(new, right, right_memory, boundary),
    );
}

struct BlockWriter<'a, E> {
    new: NewTokens<'a>,
    write: BlockWrite,
    /// `[num_kv_heads, 2, head_dim * block_size]`
    block: &'a mut [E],
}

impl<E: Element> Kernel for BlockWriter<'_, E> {
    #[inline(always)]
    fn run<I: Isa>(self) {
        let layout = self.new.layout;
        let (head_dim, block_size) = (layout.head_dim as usize, layout.block_size.get() as usize);
        let token_elements = layout.num_kv_heads as usize * head_dim;
        let mut angles = Angles::ZERO;
        for index in 0..self.write.num_tokens {
            if self.new.stored_keys == StoredKeys::Rotated {
                self.new.rope.angles::<I>(self.write.rotation + index as i32, &mut angles);
            }
            let slot = (self.write.first_slot + index) as usize;
            let at = (self.write.first_token + index) as usize * token_elements;
            let keys = self.new.keys[at..at + token_elements].chunks_exact(head_dim);
            let values = self.new.values[at..at + token_elements].chunks_exact(head_dim);
            let heads = self.block.chunks_exact_mut(layout.head_elements());
            for ((key, value), head) in keys.zip(values).zip(heads) {
                let (head_keys, head_values) = head.split_at_mut(head_dim * block_size);
                let mut rotated = [0.0; MAX_ROTARY_DIM];
                let rotated = &mut rotated[..head_dim];
                self.new.rope.rotate::<I>(&angles, 1.0, key, rotated);
                // Rounded row by row, so that it vectorises; the transposed stores do not.
                let mut narrow = [E::narrow(0.0); MAX_ROTARY_DIM];
                narrow_row(rotated, &mut narrow);
                for (dim, &element) in narrow[..head_dim].iter().enumerate() {
                    head_keys[dim * block_size + slot] = element;
                }
                narrow_row(value, &mut head_values[slot * head_dim..]);
            }
        }
    }
}

#[inline(always)]
fn narrow_row<E: Element>(row: &[f32], out: &mut [E]) {
    for (out, &value) in out.iter_mut().zip(row) {
        *out = E::narrow(value);
    }
}
