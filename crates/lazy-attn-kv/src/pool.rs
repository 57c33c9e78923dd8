//! Blocks and the leases that own them.

use std::sync::Arc;

use lazy_attn_types::BlockId;

/// Owns its blocks until it is given back with [`BlockPool::release`]; dropping it loses them.
#[derive(Debug)]
#[must_use = "a dropped lease loses its blocks; give it back with `BlockPool::release`"]
pub struct BlockLease {
    blocks: Arc<[BlockId]>,
}

impl BlockLease {
    /// The blocks, in the order in which they hold a segment. Cloning the list names the blocks, it does not own them.
    #[must_use]
    pub fn blocks(&self) -> &Arc<[BlockId]> {
        &self.blocks
    }

    /// How many blocks it owns.
    #[must_use]
    pub fn num_blocks(&self) -> u32 {
        // A lease is cut from a pool of `u32` blocks.
        self.blocks.len() as u32
    }
}

/// A fixed number of equal blocks, each free or owned by exactly one lease.
#[derive(Debug)]
pub struct BlockPool {
    free: Vec<BlockId>,
    is_free: Vec<bool>,
}

impl BlockPool {
    /// A pool of `num_blocks` free blocks with ids `0..num_blocks`.
    #[must_use]
    pub fn new(num_blocks: u32) -> BlockPool {
        // The lowest id is handed out first, which keeps plans readable.
        BlockPool {
            free: (0..num_blocks).rev().map(BlockId).collect(),
            is_free: vec![true; num_blocks as usize],
        }
    }

    /// Blocks of the pool, free or not.
    #[must_use]
    pub fn num_blocks(&self) -> u32 {
        self.is_free.len() as u32
    }

    /// Blocks nobody owns.
    #[must_use]
    pub fn num_free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Whether nobody owns `block`.
    #[must_use]
    pub fn is_free(&self, block: BlockId) -> bool {
        self.is_free[block.0 as usize]
    }

    /// Takes `num_blocks` blocks, or none if fewer are free.
    pub fn lease(&mut self, num_blocks: u32) -> Option<BlockLease> {
        let kept = self.free.len().checked_sub(num_blocks as usize)?;
        let blocks: Arc<[BlockId]> = self.free.drain(kept..).rev().collect();
        for block in blocks.iter() {
            self.is_free[block.0 as usize] = false;
        }
        Some(BlockLease { blocks })
    }

    /// Adds `num_blocks` blocks to the end of `lease`, or none if fewer are free; tells which.
    #[must_use]
    pub fn extend(&mut self, lease: &mut BlockLease, num_blocks: u32) -> bool {
        let Some(more) = self.lease(num_blocks) else { return false };
        lease.blocks = lease.blocks.iter().chain(more.blocks.iter()).copied().collect();
        true
    }

    /// Takes the blocks of `lease` back.
    ///
    /// # Panics
    /// If a block is free already: a lease of another pool.
    pub fn release(&mut self, lease: BlockLease) {
        for block in lease.blocks.iter().rev() {
            let is_free = &mut self.is_free[block.0 as usize];
            assert!(
                !*is_free,
                "block {} is released twice: a lease goes back to the pool it came from",
                block.0
            );
            *is_free = true;
            self.free.push(*block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_holds_distinct_blocks_and_gives_them_back() {
        let mut pool = BlockPool::new(4);
        let a = pool.lease(3).unwrap();
        assert_eq!(a.blocks().as_ref(), [BlockId(0), BlockId(1), BlockId(2)]);
        assert!(pool.is_free(BlockId(3)) && !pool.is_free(BlockId(0)));
        pool.release(a);
        assert_eq!(pool.num_free(), 4);
    }

    #[test]
    fn a_lease_larger_than_the_rest_takes_nothing() {
        let mut pool = BlockPool::new(4);
        assert!(pool.lease(5).is_none());
        assert_eq!(pool.num_free(), 4);
        assert_eq!(pool.lease(4).unwrap().num_blocks(), 4);
        assert!(pool.lease(1).is_none());
        assert_eq!(pool.lease(0).unwrap().num_blocks(), 0);
    }

    #[test]
    fn a_lease_grows_at_its_end_or_not_at_all() {
        let mut pool = BlockPool::new(4);
        let mut a = pool.lease(1).unwrap();
        let b = pool.lease(1).unwrap();
        assert!(!pool.extend(&mut a, 3) && a.num_blocks() == 1 && pool.num_free() == 2);
        assert!(pool.extend(&mut a, 2));
        assert_eq!(a.blocks().as_ref(), [BlockId(0), BlockId(2), BlockId(3)]);
        pool.release(a);
        pool.release(b);
        assert_eq!(pool.num_free(), 4);
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn a_lease_of_another_pool_is_refused() {
        let lease = BlockPool::new(1).lease(1).unwrap();
        BlockPool::new(1).release(lease);
    }
}
