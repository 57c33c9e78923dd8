//! Tile shapes of the attend kernel: how many query rows a thread block takes at once.

#[cfg(feature = "cuda")]
use crate::{abi::KvDtype, kernels::KernelShape};

/// Stages of 8-bit tiles that wait to be widened; `kRawStages`.
#[cfg(feature = "cuda")]
const RAW_STAGES: u32 = 2;

/// Parts whose queries may be ready before warpgroups need them; `kQueryBuffers`.
#[cfg(feature = "cuda")]
const QUERY_BUFFERS: u32 = 2;

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

    /// Keys of a tile.
    #[cfg(feature = "cuda")]
    #[must_use]
    pub fn tile_tokens(self, shape: KernelShape) -> u32 {
        match self {
            TileClass::N16 if shape.dtype == KvDtype::Fp8E4m3 || shape.head_dim == 64 => 128,
            TileClass::N16 => 64,
            TileClass::W64 | TileClass::W128 => 128,
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

    /// Threads of a block; where warpgroups trade registers, the copying warp has a whole one for itself, and where wide
    /// tiles come from 8-bit ones, its other warps widen them.
    #[cfg(feature = "cuda")]
    pub(crate) fn threads(self, shape: KernelShape, has_warpgroups: bool) -> u32 {
        let computing = match self {
            TileClass::N16 | TileClass::W64 => 128,
            TileClass::W128 => 256,
        };
        computing + if has_warpgroups || self.widens(shape) { 128 } else { 32 }
    }

    /// Whether tiles of 8-bit elements are widened to 16 bits in shared memory.
    #[cfg(feature = "cuda")]
    fn widens(self, shape: KernelShape) -> bool {
        shape.dtype == KvDtype::Fp8E4m3 && self != TileClass::N16
    }

    /// Shared memory besides the stages: the size of the kernel's struct, at most, and what is to be widened, or queries
    /// that are prepared for warpgroups.
    #[cfg(feature = "cuda")]
    pub(crate) fn fixed_bytes(self, shape: KernelShape, has_warpgroups: bool) -> u32 {
        match self {
            TileClass::N16 => 2 * 4 * 4 * shape.head_dim * 4 + 1024,
            TileClass::W64 | TileClass::W128 if self.widens(shape) => RAW_STAGES * 128 * shape.head_dim + 384,
            TileClass::W64 | TileClass::W128 if has_warpgroups => {
                QUERY_BUFFERS * self.max_rows() * shape.head_dim * 2 + 2560
            }
            TileClass::W64 | TileClass::W128 => 384,
        }
    }

    /// Bytes of a stage of keys or values.
    #[cfg(feature = "cuda")]
    pub(crate) fn stage_bytes(self, shape: KernelShape) -> u32 {
        match self {
            TileClass::N16 if shape.dtype == KvDtype::Fp8E4m3 => 128 * shape.head_dim,
            TileClass::N16 => 16384,
            TileClass::W64 | TileClass::W128 => 128 * shape.head_dim * 2,
        }
    }

    /// Stages below which the kernel does not run well: copies do not stay ahead of arithmetic.
    #[cfg(feature = "cuda")]
    pub(crate) fn min_stages(self, shape: KernelShape) -> u32 {
        if self.widens(shape) { 2 } else { 3 }
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
