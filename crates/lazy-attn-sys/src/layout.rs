//! Where an element of a KV block lies.
//!
//! We own both the writer and the reader of the KV store, so the keys (and, separately, the values) of one block and
//! head are stored as the image that a tensor core reads from shared memory, 128-byte swizzle included. A block is
//! then one contiguous copy, needs no tensor map, and several blocks laid end to end are one operand tile.
//!
//! The block is cut into panels of 8 rows (tokens) by 64 columns (dimensions), 1024 bytes each; a panel row is
//! 128 bytes, eight groups of 16. Row `r` keeps its group `g` at place `g ^ r`, so that eight threads that read the
//! same group of eight rows touch all the banks of shared memory once.
//!
//! 8-bit elements are laid out alike: a panel has up to 128 columns, and where a row has only 64 bytes, two of them share a line
//! and the swizzle is that of 64 bytes. A group holds 16 elements, in the order in which a lane of a matrix product needs
//! them: elements 2j, 2j + 1, 2j + 8, 2j + 9 are neighbours, so that one 32-bit word is a lane's share of a 16 x 8 operand.

/// Rows of a panel.
const PANEL_ROWS: u32 = 8;
/// Bytes of a line: all banks of shared memory once.
const LINE_BYTES: u32 = 128;
/// Bytes of a group, the unit that a swizzle moves.
const GROUP_BYTES: u32 = 16;
/// Elements that `head_dim` is a multiple of.
const HEAD_UNIT: u32 = 64;

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
    #[error(
        "a head of {head_dim} elements is not 64 or a multiple of 128 (of 64 for 16-bit elements), which the CUDA layout needs"
    )]
    HeadDim {
        /// Elements per head.
        head_dim: u32,
    },
}

/// The layout of the keys, or the values, of one block and KV head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockLayout {
    block_size: u32,
    head_dim: u32,
    element_bytes: u32,
}

impl BlockLayout {
    /// The layout of `block_size` tokens of `head_dim` 16-bit elements.
    ///
    /// # Errors
    /// [`LayoutError::BlockSize`] unless `block_size` is a positive multiple of 8; [`LayoutError::HeadDim`] unless
    /// `head_dim` is a positive multiple of 64.
    pub fn new(block_size: u32, head_dim: u32) -> Result<BlockLayout, LayoutError> {
        BlockLayout { block_size, head_dim, element_bytes: 2 }.checked()
    }

    /// The layout of `block_size` tokens of `head_dim` 8-bit elements.
    ///
    /// # Errors
    /// As for [`BlockLayout::new`]; [`LayoutError::HeadDim`] also unless `head_dim` is 64 or a multiple of 128.
    pub fn of_8_bit(block_size: u32, head_dim: u32) -> Result<BlockLayout, LayoutError> {
        BlockLayout { block_size, head_dim, element_bytes: 1 }.checked()
    }

    fn checked(self) -> Result<BlockLayout, LayoutError> {
        let BlockLayout { block_size, head_dim, .. } = self;
        if block_size == 0 || !block_size.is_multiple_of(PANEL_ROWS) {
            return Err(LayoutError::BlockSize { block_size });
        }
        if head_dim == 0
            || !head_dim.is_multiple_of(HEAD_UNIT)
            || !self.row_bytes().is_multiple_of(self.panel_row())
        {
            return Err(LayoutError::HeadDim { head_dim });
        }
        Ok(self)
    }

    /// Bytes of a token.
    fn row_bytes(self) -> u32 {
        self.head_dim * self.element_bytes
    }

    /// Bytes of a row of a panel.
    fn panel_row(self) -> u32 {
        self.row_bytes().min(LINE_BYTES)
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
        self.block_size * self.row_bytes()
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
        let (row, in_row) = (slot % PANEL_ROWS, self.byte_in_row(dim));
        let panel_row = self.panel_row();
        let panel = slot / PANEL_ROWS * (self.row_bytes() / panel_row) + in_row / panel_row;
        let group = in_row % panel_row / GROUP_BYTES;
        // Rows that share a line are told apart by their place in it already.
        let swizzled = group ^ ((row * panel_row / LINE_BYTES) % (panel_row / GROUP_BYTES));
        (panel * PANEL_ROWS + row) * panel_row + swizzled * GROUP_BYTES + in_row % GROUP_BYTES
    }

    /// Where element `dim` lies in its token before the swizzle.
    fn byte_in_row(self, dim: u32) -> u32 {
        if self.element_bytes == 2 {
            return 2 * dim;
        }
        let in_group = dim % GROUP_BYTES;
        dim - in_group + in_group % 8 / 2 * 4 + in_group / 8 * 2 + in_group % 2
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn layouts() -> impl Iterator<Item = BlockLayout> {
        let shapes = [8, 16, 32, 64].into_iter().flat_map(|rows| [64, 128, 256].map(|dim| (rows, dim)));
        shapes.flat_map(|(block_size, head_dim)| {
            [BlockLayout::new(block_size, head_dim), BlockLayout::of_8_bit(block_size, head_dim)]
                .map(Result::unwrap)
        })
    }

    fn wide_layouts() -> impl Iterator<Item = BlockLayout> {
        layouts().filter(|layout| layout.element_bytes == 2)
    }

    fn byte_layouts() -> impl Iterator<Item = BlockLayout> {
        layouts().filter(|layout| layout.element_bytes == 1)
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
            let all: BTreeSet<u32> = (0..layout.num_bytes()).step_by(layout.element_bytes as usize).collect();
            assert_eq!(places, all, "{layout:?}");
        }
    }

    #[test]
    fn eight_rows_of_one_group_touch_eight_different_bank_groups() {
        for layout in layouts() {
            let unit = GROUP_BYTES / layout.element_bytes;
            for (slot, dim) in elements(layout).filter(|(slot, dim)| slot % 8 == 0 && dim % unit == 0) {
                let groups: BTreeSet<u32> = (0..8).map(|row| layout.byte(slot + row, dim) / 16 % 8).collect();
                assert_eq!(groups.len(), 8, "{layout:?} at ({slot}, {dim})");
            }
        }
    }

    #[test]
    fn a_block_is_the_swizzled_image_of_its_panels() {
        for layout in wide_layouts() {
            for (slot, dim) in elements(layout) {
                let panel = slot / 8 * (layout.head_dim() / 64) + dim / 64;
                let plain = panel * 1024 + slot % 8 * 128 + dim % 64 * 2;
                assert_eq!(layout.byte(slot, dim), swizzle_3_4_3(plain), "{layout:?} at ({slot}, {dim})");
            }
        }
    }

    #[test]
    fn a_block_of_bytes_is_the_swizzled_image_of_its_panels() {
        for layout in byte_layouts() {
            for (slot, dim) in elements(layout).filter(|(_, dim)| dim % 16 == 0) {
                let place = layout.byte(slot, dim);
                if layout.head_dim() == 64 {
                    // The vendor's 64-byte swizzle, `Swizzle<2, 4, 3>`: bits 7 and 8 flip bits 4 and 5.
                    let plain = slot * 64 + dim;
                    assert_eq!(place, plain ^ ((plain >> 3) & 0x30), "{layout:?} at ({slot}, {dim})");
                } else {
                    let panel = slot / 8 * (layout.head_dim() / 128) + dim / 128;
                    let plain = panel * 1024 + slot % 8 * 128 + dim % 128;
                    assert_eq!(place, swizzle_3_4_3(plain), "{layout:?} at ({slot}, {dim})");
                }
            }
        }
    }

    #[test]
    fn eight_neighbouring_elements_are_one_aligned_group() {
        for layout in wide_layouts() {
            for (slot, dim) in elements(layout).filter(|(_, dim)| dim % 8 == 0) {
                let first = layout.byte(slot, dim);
                assert_eq!(first % 16, 0);
                assert!((1..8).all(|next| layout.byte(slot, dim + next) == first + 2 * next));
            }
        }
    }

    #[test]
    fn sixteen_bytes_are_one_aligned_group_of_four_lanes_shares() {
        for layout in byte_layouts() {
            for (slot, dim) in elements(layout).filter(|(_, dim)| dim % 16 == 0) {
                let first = layout.byte(slot, dim);
                assert_eq!(first % 16, 0);
                for lane in 0..4 {
                    // What a lane holds of operand B of m16n8k16: rows 2 lane, 2 lane + 1, and the same plus 8.
                    let share = [0, 1, 8, 9].map(|element| layout.byte(slot, dim + 2 * lane + element));
                    assert_eq!(share, [0, 1, 2, 3].map(|byte| first + 4 * lane + byte), "{layout:?}");
                }
            }
        }
    }

    #[test]
    fn blocks_laid_end_to_end_are_one_taller_block() {
        for make in [BlockLayout::new, BlockLayout::of_8_bit] {
            for head_dim in [64, 128] {
                let (small, tall) = (make(16, head_dim).unwrap(), make(64, head_dim).unwrap());
                for (slot, dim) in elements(tall) {
                    let pieced = slot / 16 * small.num_bytes() + small.byte(slot % 16, dim);
                    assert_eq!(tall.byte(slot, dim), pieced);
                }
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fill_panels_are_refused() {
        assert_eq!(BlockLayout::new(12, 64), Err(LayoutError::BlockSize { block_size: 12 }));
        assert_eq!(BlockLayout::new(0, 64), Err(LayoutError::BlockSize { block_size: 0 }));
        assert_eq!(BlockLayout::new(16, 96), Err(LayoutError::HeadDim { head_dim: 96 }));
        assert_eq!(BlockLayout::new(16, 0), Err(LayoutError::HeadDim { head_dim: 0 }));
        assert!(BlockLayout::new(16, 192).is_ok());
        assert_eq!(BlockLayout::of_8_bit(16, 192), Err(LayoutError::HeadDim { head_dim: 192 }));
        assert_eq!(BlockLayout::of_8_bit(4, 128), Err(LayoutError::BlockSize { block_size: 4 }));
    }
}
