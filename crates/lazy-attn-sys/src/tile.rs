//! Tile shapes of the attend kernel: how many query rows a thread block takes at once.

/// A tile shape of the attend kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TileClass {
    /// Up to 16 rows (token, query head of a group): keys are split between warps.
    N16,
    /// Up to 64 rows: one warpgroup.
    W64,
    /// Up to 128 rows: two warpgroups.
    W128,
}

impl TileClass {
    /// Every class, smallest first.
    pub const ALL: [TileClass; 3] = [TileClass::N16, TileClass::W64, TileClass::W128];

    /// Most rows (token, query head of a group) of an item.
    #[must_use]
    pub fn max_rows(self) -> u32 {
        match self {
            TileClass::N16 => 16,
            TileClass::W64 => 64,
            TileClass::W128 => 128,
        }
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn name(self) -> &'static str {
        match self {
            TileClass::N16 => "n16",
            TileClass::W64 => "w64",
            TileClass::W128 => "w128",
        }
    }

    /// Threads of a block; where warpgroups trade registers, the copying warp has a whole one for itself.
    #[cfg(feature = "cuda")]
    pub(crate) fn threads(self, has_warpgroups: bool) -> u32 {
        let computing = match self {
            TileClass::N16 | TileClass::W64 => 128,
            TileClass::W128 => 256,
        };
        computing + if has_warpgroups { 128 } else { 32 }
    }

    /// Shared memory besides the stages: the size of the kernel's struct, at most.
    #[cfg(feature = "cuda")]
    pub(crate) fn fixed_bytes(self, head_dim: u32) -> u32 {
        match self {
            TileClass::N16 => 4 * 8 * head_dim * 4 + 768,
            TileClass::W64 | TileClass::W128 => 256,
        }
    }

    /// Bytes of a stage of keys or values.
    #[cfg(feature = "cuda")]
    pub(crate) fn stage_bytes(self, head_dim: u32) -> u32 {
        match self {
            TileClass::N16 => 16384,
            TileClass::W64 | TileClass::W128 => 128 * head_dim * 2,
        }
    }

    /// Thread blocks that a multiprocessor should hold at once.
    #[cfg(feature = "cuda")]
    pub(crate) fn blocks_wanted(self) -> u32 {
        match self {
            TileClass::N16 => 2,
            TileClass::W64 | TileClass::W128 => 1,
        }
    }
}
