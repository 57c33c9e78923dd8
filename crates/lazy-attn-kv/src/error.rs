//! The error of this crate.

use lazy_attn_types::SegmentKey;

/// Why the cache refused; it is as it was before the call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// Blocks are missing even after evicting everything nobody uses.
    #[error(
        "{needed} KV blocks are needed but only {available} of {total} are free or evictable; wait for a running \
         request to end, unpin documents or give the cache more memory"
    )]
    Shortfall {
        /// Blocks the reservation needs.
        needed: u32,
        /// Blocks that are free or evictable.
        available: u32,
        /// Blocks of the pool.
        total: u32,
    },
    /// Only a complete shared segment can be pinned.
    #[error("{key:?} is not resident, so it cannot be pinned; encode it first")]
    NotResident {
        /// Key of the segment.
        key: SegmentKey,
    },
    /// Pins would keep too much of the pool.
    #[error(
        "the segment has {needed} KV blocks and {pinned} are pinned already, but at most {max} may be; unpin documents \
         or give the cache more memory"
    )]
    PinBound {
        /// Blocks of the segment.
        needed: u32,
        /// Blocks pinned already.
        pinned: u32,
        /// Most blocks that may be pinned.
        max: u32,
    },
    /// There is no pin to take away.
    #[error("{key:?} is not pinned")]
    NotPinned {
        /// Key of the segment.
        key: SegmentKey,
    },
}
