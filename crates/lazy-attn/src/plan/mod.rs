//! From a step's flat arrays to a list of work items; computed once per step, the same for every layer and device.
//!
//! # The canonical unit
//! A *unit* is a fixed range of `unit_tokens` keys of one view of a segment, counted from the first token it shows. What a query
//! row gets is by definition the left fold `merge(accumulator, unit_result)` over its units, in the order of its
//! segments. The plan only decides who computes which unit: with [`PartialsPer::Unit`] an item that does not cover a
//! row's whole context hands out one partial per unit, and the merge step folds them in the canonical order with the
//! same function. So grouping, splitting and batching cannot change a bit of a result.
//!
//! # Items
//! * *shared*: one segment that several contexts read, once for all of them. The group key is the storage, not the
//!   position: every row brings its own start.
//! * *chain*: the rest of one run's context, several segments in a row; rows are the run's tokens. A run that focuses its
//!   documents ([`lazy_attn_types::DocumentFocus`]) shares nothing: its chain falls into its documents and the rest, each folded
//!   to one partial, and [`Plan::focused`] says which of the two a merge weighs otherwise.
//!
//! Reading order: this file (the plan), [`Planner`] (how it is made), `split` (cutting work to size), `display`.

mod build;
mod display;
mod split;

use std::{num::NonZeroU32, ops::Range};

use lazy_attn_types::{BlockId, BlockSize, DocumentFocus, SegmentHandle, StoredKeys};

pub use build::Planner;

use crate::error::AttnError;

/// What an item that covers only part of a row's keys writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartialsPer {
    /// One partial per unit: results do not depend on how work is divided, bit by bit.
    Unit,
    /// One partial per item: less memory traffic; results depend on the division within rounding.
    Item,
}

/// How to divide work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanConfig {
    /// Tokens per KV block of the store.
    pub block_size: BlockSize,
    /// Keys per canonical unit: a power of two from 16 to 256.
    pub unit_tokens: u32,
    /// What a partial covers.
    pub partials: PartialsPer,
    /// Items wanted at least, as far as the work can be divided; per KV head, so usually workers / KV heads.
    pub target_items: u32,
    /// Most query tokens per item.
    pub max_item_tokens: u32,
    /// Runs of at most this many tokens may share items and be split by keys; longer runs are split by tokens only.
    pub max_shared_run_tokens: u32,
    /// Shortest segment worth an item of its own.
    pub min_shared_tokens: u32,
    /// Sliding window: a query at position `p` sees keys at positions above `p - window`.
    pub window: Option<NonZeroU32>,
}

impl PlanConfig {
    /// The division that suits the CPU kernels with `num_workers` threads.
    #[must_use]
    pub fn cpu(block_size: BlockSize, num_kv_heads: u32, num_workers: u32) -> PlanConfig {
        PlanConfig {
            block_size,
            unit_tokens: 256,
            partials: PartialsPer::Unit,
            // Two tasks per worker even out what the other threads of the machine do.
            target_items: (2 * num_workers).div_ceil(num_kv_heads.max(1)).max(1),
            max_item_tokens: 32,
            max_shared_run_tokens: 16,
            min_shared_tokens: 32,
            window: None,
        }
    }

    /// The division that suits a device: items as wide as its widest tile, which the schedule of the device then cuts
    /// for its workers.
    #[must_use]
    pub fn cuda(block_size: BlockSize, max_item_tokens: u32) -> PlanConfig {
        PlanConfig {
            block_size,
            unit_tokens: 64,
            partials: PartialsPer::Item,
            target_items: 1,
            max_item_tokens,
            max_shared_run_tokens: 16,
            min_shared_tokens: 64,
            window: None,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), AttnError> {
        let unit = self.unit_tokens;
        if !unit.is_power_of_two() || !(16..=256).contains(&unit) {
            let rule = "units are powers of two from 16 to 256";
            return Err(AttnError::Unsupported { what: "unit_tokens", value: u64::from(unit), rule });
        }
        let sizes = [
            ("target_items", self.target_items),
            ("max_item_tokens", self.max_item_tokens),
            ("max_shared_run_tokens", self.max_shared_run_tokens),
        ];
        for (what, value) in sizes {
            if value == 0 {
                return Err(AttnError::Unsupported { what, value: 0, rule: "it must be at least 1" });
            }
        }
        Ok(())
    }
}

/// A range of entries of one of the plan's arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// First entry.
    pub begin: u32,
    /// One past the last entry.
    pub end: u32,
}

impl Span {
    /// The same as a range of indices.
    #[must_use]
    pub fn range(self) -> Range<usize> {
        self.begin as usize..self.end as usize
    }

    /// Entries.
    #[must_use]
    pub fn len(self) -> u32 {
        self.end - self.begin
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.begin == self.end
    }
}

/// Which keys of a part a row sees, besides the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// All of them: an earlier segment.
    All,
    /// Those up to the row itself: the segment the row is written to.
    Causal,
}

/// Keys of one view of a segment, aligned to units at its begin. Keys are counted from the begin of the first block of which the view
/// shows anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Which storage.
    pub handle: SegmentHandle,
    /// Entry of [`Plan::block_ids`] that holds key 0.
    pub first_block: u32,
    /// Indices of the keys in the view; `begin` is a multiple of the unit.
    pub keys: Span,
    /// Tokens of the segment before key 0, in whole blocks.
    pub num_skipped: u32,
    /// Keys of the first block that no row sees, as the view begins behind them: fewer than a block has.
    pub num_hidden: u32,
    /// Subtracted from [`Row::base`]: the segment's start in a chain, zero in a shared item.
    pub start: i32,
    /// Subtracted from [`Row::base`] for the rotation of queries: `start`, unless the keys were re-encoded.
    pub origin: i32,
    /// What a row sees of them.
    pub visibility: Visibility,
}

impl Part {
    /// The units of the part, as ranges of the view; the last may be shorter than `unit_tokens`.
    pub fn units(self, unit_tokens: u32) -> impl Iterator<Item = Span> {
        let end = self.keys.end;
        let step = unit_tokens as usize;
        self.keys.range().step_by(step).map(move |begin| {
            let begin = begin as u32;
            Span { begin, end: end.min(begin + unit_tokens) }
        })
    }

    /// How many units the part has.
    #[must_use]
    pub fn num_units(self, unit_tokens: u32) -> u32 {
        self.keys.len().div_ceil(unit_tokens)
    }

    /// Distance from the segment's token 0, seen or not, to `row`.
    #[must_use]
    pub fn distance(self, row: Row) -> i32 {
        row.base - self.start
    }

    /// What the query of `row` is rotated by: its distance from where the segment's keys are rotated from.
    #[must_use]
    pub fn rotation(self, row: Row) -> i32 {
        row.base - self.origin
    }

    /// Indices of the view that `row` sees of this part.
    #[must_use]
    pub fn visible(self, row: Row, window: Option<NonZeroU32>) -> Span {
        let distance = i64::from(self.distance(row)) - i64::from(self.num_skipped);
        let keys = i64::from(self.keys.begin)..i64::from(self.keys.end);
        let end = match self.visibility {
            Visibility::All => keys.end,
            Visibility::Causal => keys.end.min(distance + 1),
        };
        let first = first_in_window(distance, window).max(i64::from(self.num_hidden));
        let begin = keys.start.max(first).min(end.max(keys.start));
        Span { begin: begin as u32, end: end.max(begin) as u32 }
    }
}

/// Lowest index inside the window of a row `distance` positions behind index 0.
pub(crate) fn first_in_window(distance: i64, window: Option<NonZeroU32>) -> i64 {
    window.map_or(0, |window| (distance - i64::from(window.get()) + 1).max(0))
}

/// A query token as an item sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Index of the token in the step.
    pub token: u32,
    /// Its position in a chain; its distance from the segment's token 0 in a shared item.
    pub base: i32,
}

/// Whether an item is all its rows need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// It covers every key its rows see; its one slot per row is the result.
    Whole,
    /// Other items cover the rest.
    Partial,
}

/// One piece of work: every row of `rows` attends to every part of `parts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Entries of [`Plan::parts`].
    pub parts: Span,
    /// Entries of [`Plan::rows`].
    pub rows: Span,
    /// First partial slot; row `r` owns `slots_per_row` slots from `first_slot + r * slots_per_row` on.
    pub first_slot: u32,
    /// One, or one per unit of the item.
    pub slots_per_row: u32,
    /// Whether the rows need other items too.
    pub coverage: Coverage,
    /// How the rows look at these parts; its temperature divides their scores.
    pub focus: DocumentFocus,
}

/// A token that looks at its documents in another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FocusedToken {
    /// Index of the token in the step.
    pub token: u32,
    /// The slot with the fold of all its documents.
    pub slot: u32,
    /// What multiplies their log-sum-exp.
    pub focus: DocumentFocus,
}

impl Item {
    /// The slots of the item.
    #[must_use]
    pub fn slots(&self) -> Span {
        Span { begin: self.first_slot, end: self.first_slot + self.rows.len() * self.slots_per_row }
    }
}

/// Tokens of the step whose keys and values go to one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockWrite {
    /// The block.
    pub block: BlockId,
    /// First slot inside the block.
    pub first_slot: u32,
    /// First token of the step.
    pub first_token: u32,
    /// Segment-local index of that token.
    pub first_local: u32,
    /// What its key is rotated by before it is stored, and one more for each that follows; none where keys are stored raw.
    pub rotation: i32,
    /// Consecutive tokens, slots and local indices.
    pub num_tokens: u32,
}

/// The work of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub(crate) config: PlanConfig,
    pub(crate) stored_keys: StoredKeys,
    pub(crate) num_tokens: u32,
    pub(crate) num_slots: u32,
    pub(crate) num_blocks_min: u32,
    pub(crate) writes: Vec<BlockWrite>,
    pub(crate) block_ids: Vec<BlockId>,
    pub(crate) parts: Vec<Part>,
    pub(crate) rows: Vec<Row>,
    pub(crate) items: Vec<Item>,
    pub(crate) merge_begin: Vec<u32>,
    pub(crate) merge_slots: Vec<u32>,
    pub(crate) focused: Vec<FocusedToken>,
}

impl Plan {
    /// How the work was divided.
    #[must_use]
    pub fn config(&self) -> &PlanConfig {
        &self.config
    }

    /// How keys are stored.
    #[must_use]
    pub fn stored_keys(&self) -> StoredKeys {
        self.stored_keys
    }

    /// Query tokens of the step.
    #[must_use]
    pub fn num_tokens(&self) -> u32 {
        self.num_tokens
    }

    /// Partial slots; each holds one result per query head.
    #[must_use]
    pub fn num_slots(&self) -> u32 {
        self.num_slots
    }

    /// Blocks a store needs at least, so that every block id of the plan is inside.
    #[must_use]
    pub fn num_blocks_min(&self) -> u32 {
        self.num_blocks_min
    }

    /// What is written before anything is read, ascending by block.
    #[must_use]
    pub fn writes(&self) -> &[BlockWrite] {
        &self.writes
    }

    /// Block lists of the parts.
    #[must_use]
    pub fn block_ids(&self) -> &[BlockId] {
        &self.block_ids
    }

    /// The items, in the order of their slots.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Parts of all items.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Rows of all items.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Merge lists of all tokens, back to back; list `t` is `merge_begin()[t]..merge_begin()[t + 1]`.
    #[must_use]
    pub fn merge_slots(&self) -> &[u32] {
        &self.merge_slots
    }

    /// Where each token's merge list begins, and where the last one ends.
    #[must_use]
    pub fn merge_begin(&self) -> &[u32] {
        &self.merge_begin
    }

    /// Tokens that look at their documents in another way, ascending.
    #[must_use]
    pub fn focused(&self) -> &[FocusedToken] {
        &self.focused
    }

    /// How query token `token` looks at its documents, if in another way.
    #[must_use]
    pub fn focused_token(&self, token: usize) -> Option<FocusedToken> {
        let found = self.focused.binary_search_by_key(&token, |focused| focused.token as usize);
        found.ok().map(|index| self.focused[index])
    }

    /// The parts of `item`, in the order of the context.
    #[must_use]
    pub fn parts_of(&self, item: &Item) -> &[Part] {
        &self.parts[item.parts.range()]
    }

    /// The rows of `item`.
    #[must_use]
    pub fn rows_of(&self, item: &Item) -> &[Row] {
        &self.rows[item.rows.range()]
    }

    /// The slots that make up the result of query token `token`, in the order of its context.
    #[must_use]
    pub fn merge_list(&self, token: usize) -> &[u32] {
        &self.merge_slots[self.merge_begin[token] as usize..self.merge_begin[token + 1] as usize]
    }
}
