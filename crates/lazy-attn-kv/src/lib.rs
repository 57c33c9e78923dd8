//! Who owns which KV block, which segments are resident, and who is evicted.
//!
//! Integers only: no tensor, no `unsafe`, no clock but the [`Timestamp`](lazy_attn_types::Timestamp) a caller passes.
//! Reading order:
//!
//! * [`pool`]: blocks and the leases that own them.
//! * [`policy`]: what a segment costs to make again, and who is evicted first.
//! * [`segment`]: what a caller asks for and what it holds.
//! * [`cache`]: the content-addressed store over the pool: reserve, fill, release, pin.
//! * `copies`: segments that are of use at one place only, and how they come to another.
//! * [`event`]: what came and went, for whoever mirrors the cache.
//! * [`stats`]: counters, and the check that every block has exactly one owner.

pub mod cache;
mod copies;
mod entry;
pub mod error;
pub mod event;
pub mod policy;
pub mod pool;
mod reserve;
pub mod segment;
pub mod stats;

pub use cache::{IdleCopies, KvCache, KvConfig};
pub use error::KvError;
pub use event::KvEvent;
pub use policy::{EvictionPolicy, RecomputeCost};
pub use pool::{BlockLease, BlockPool};
pub use segment::{
    Address, FillSource, FillState, Found, Reservation, ReserveRequest, ReservedSegment, Residency, Scope,
    SegmentInfo, SegmentNeed, SegmentRef, TailLease,
};
pub use stats::KvStats;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
