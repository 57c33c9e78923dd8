//! Where an element of a KV block lies.
//!
//! We own both the writer and the reader of the KV store, so the keys (and, separately, the values) of one block and
//! head are stored as the image that a tensor core reads from shared memory, 128-byte swizzle included. A block is
//! then one contiguous copy, needs no tensor map, and several blocks laid end to end are one operand tile.
//!
//! The block is cut into panels of 8 rows (tokens) by 64 columns (dimensions), 1024 bytes each; a panel row is
//! 128 bytes, eight groups of 16. Row `r` keeps its group `g` at place `g ^ r`, so that eight threads that read the
//! same group of eight rows touch all the banks of shared memory once.

/// Rows of a panel.
const PANEL_ROWS: u32 = 8;
/// Columns of a panel: 128 bytes of 16-bit elements.
const PANEL_COLUMNS: u32 = 64;
/// Elements of a 16-byte group.
const GROUP: u32 = 8;
/// Bytes of an element: the layout is that of bf16 and f16.
const ELEMENT_BYTES: u32 = 2;
/// Bytes of a panel.
const PANEL_BYTES: u32 = PANEL_ROWS * PANEL_COLUMNS * ELEMENT_BYTES;

const _: () = assert!(PANEL_BYTES == 1024, "one period of the 128-byte swizzle");

/// Why a shape has no layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// Rows do not fill panels.
    #[error("a block of {block_size} tokens is not a multiple of 8; use 16, 32 or 64 tokens per block")]
    BlockSize {
        /// Tokens per block.
        block_size: u32,
    },
    /// Columns do not fill panels.
    #[error("a head of {head_dim} elements is not a multiple of 64, which the CUDA layout needs")]
    HeadDim {
        /// Elements per head.
        head_dim: u32,
    },
}

/// The layout of the keys, or the values, of one block and KV head, in 16-bit elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockLayout {
    block_size: u32,
    head_dim: u32,
}

impl BlockLayout {
    /// The layout of `block_size` tokens of `head_dim` elements.
    ///
    /// # Errors
    /// [`LayoutError::BlockSize`] unless `block_size` is a positive multiple of 8; [`LayoutError::HeadDim`] unless
    /// `head_dim` is a positive multiple of 64.
    pub fn new(block_size: u32, head_dim: u32) -> Result<BlockLayout, LayoutError> {
        if block_size == 0 || !block_size.is_multiple_of(PANEL_ROWS) {
            return Err(LayoutError::BlockSize { block_size });
        }
        if head_dim == 0 || !head_dim.is_multiple_of(PANEL_COLUMNS) {
            return Err(LayoutError::HeadDim { head_dim });
        }
        Ok(BlockLayout { block_size, head_dim })
    }

    /// Tokens per block.
    #[must_use]
    pub fn block_size(self) -> u32 {
        self.block_size
    }

    /// Elements per head.
    #[must_use]
    pub fn head_dim(self) -> u32 {
        self.head_dim
    }

    /// Bytes of one block: no element more than its tokens need.
    #[must_use]
    pub fn num_bytes(self) -> u32 {
        self.block_size * self.head_dim * ELEMENT_BYTES
    }

    /// First byte of element `dim` of the token in `slot`.
    ///
    /// ```
    /// let layout = lazy_attn_sys::BlockLayout::new(16, 128)?;
    /// // Token 1 keeps its first 16-byte group at place 1 of its 128-byte row.
    /// assert_eq!(layout.byte(1, 0), 128 + 16);
    /// # Ok::<(), lazy_attn_sys::LayoutError>(())
    /// ```
    ///
    /// # Panics
    /// If `slot` or `dim` lies outside the block.
    #[must_use]
    pub fn byte(self, slot: u32, dim: u32) -> u32 {
        assert!(slot < self.block_size && dim < self.head_dim, "({slot}, {dim}) lies outside {self:?}");
        let panels_per_row = self.head_dim / PANEL_COLUMNS;
        let panel = slot / PANEL_ROWS * panels_per_row + dim / PANEL_COLUMNS;
        let row = slot % PANEL_ROWS;
        let group = dim % PANEL_COLUMNS / GROUP;
        panel * PANEL_BYTES + row * 128 + (group ^ row) * 16 + dim % GROUP * ELEMENT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn layouts() -> impl Iterator<Item = BlockLayout> {
        let shapes = [8, 16, 32, 64].into_iter().flat_map(|rows| [64, 128, 256].map(|dim| (rows, dim)));
        shapes.map(|(block_size, head_dim)| BlockLayout::new(block_size, head_dim).unwrap())
    }

    fn elements(layout: BlockLayout) -> impl Iterator<Item = (u32, u32)> {
        (0..layout.block_size()).flat_map(move |slot| (0..layout.head_dim()).map(move |dim| (slot, dim)))
    }

    /// The tensor core's 128-byte swizzle as its vendor states it, `Swizzle<3, 4, 3>` over bytes: bits 7 to 9 of an
    /// address flip bits 4 to 6.
    fn swizzle_3_4_3(address: u32) -> u32 {
        address ^ ((address >> 3) & 0x70)
    }

    #[test]
    fn every_element_has_its_own_place_and_no_byte_is_left_over() {
        for layout in layouts() {
            let places: BTreeSet<u32> = elements(layout).map(|(slot, dim)| layout.byte(slot, dim)).collect();
            let all: BTreeSet<u32> = (0..layout.num_bytes()).step_by(2).collect();
            assert_eq!(places, all, "{layout:?}");
        }
    }

    #[test]
    fn eight_rows_of_one_group_touch_eight_different_bank_groups() {
        for layout in layouts() {
            for (slot, dim) in elements(layout).filter(|(slot, dim)| slot % 8 == 0 && dim % 8 == 0) {
                let groups: BTreeSet<u32> = (0..8).map(|row| layout.byte(slot + row, dim) / 16 % 8).collect();
                assert_eq!(groups.len(), 8, "{layout:?} at ({slot}, {dim})");
            }
        }
    }

    #[test]
    fn a_block_is_the_swizzled_image_of_its_panels() {
        for layout in layouts() {
            for (slot, dim) in elements(layout) {
                let panel = slot / 8 * (layout.head_dim() / 64) + dim / 64;
                let plain = panel * 1024 + slot % 8 * 128 + dim % 64 * 2;
                assert_eq!(layout.byte(slot, dim), swizzle_3_4_3(plain), "{layout:?} at ({slot}, {dim})");
            }
        }
    }

    #[test]
    fn eight_neighbouring_elements_are_one_aligned_group() {
        for layout in layouts() {
            for (slot, dim) in elements(layout).filter(|(_, dim)| dim % 8 == 0) {
                let first = layout.byte(slot, dim);
                assert_eq!(first % 16, 0);
                assert!((1..8).all(|next| layout.byte(slot, dim + next) == first + 2 * next));
            }
        }
    }

    #[test]
    fn blocks_laid_end_to_end_are_one_taller_block() {
        let (small, tall) = (BlockLayout::new(16, 128).unwrap(), BlockLayout::new(64, 128).unwrap());
        for (slot, dim) in elements(tall) {
            let pieced = slot / 16 * small.num_bytes() + small.byte(slot % 16, dim);
            assert_eq!(tall.byte(slot, dim), pieced);
        }
    }

    #[test]
    fn shapes_that_do_not_fill_panels_are_refused() {
        assert_eq!(BlockLayout::new(12, 64), Err(LayoutError::BlockSize { block_size: 12 }));
        assert_eq!(BlockLayout::new(0, 64), Err(LayoutError::BlockSize { block_size: 0 }));
        assert_eq!(BlockLayout::new(16, 96), Err(LayoutError::HeadDim { head_dim: 96 }));
        assert_eq!(BlockLayout::new(16, 0), Err(LayoutError::HeadDim { head_dim: 0 }));
    }
}
