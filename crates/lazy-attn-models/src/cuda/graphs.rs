//! Decode steps that were captured once and are replayed.
//!
//! A step of one token a run looks the same whatever it reads: its plan lies at fixed addresses, its rows are padded to a
//! bucket. What differs between captured steps is the bucket, which tile classes have work, and how tokens are drawn.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use lazy_attn::cuda::{CapturedGraph, CudaDevice, DevicePlan, PlanBounds};
use lazy_attn::{AttnError, Schedule};
use lazy_attn_types::StoredKeys;

use super::decoder::padded_rows;
use super::outputs::Drawing;

/// Rows of the largest bucket.
pub(super) const MAX_ROWS: usize = 256;
/// Blocks of a row's context that a bucket has room for; longer steps run without a graph.
const BLOCKS_PER_ROW: usize = 1024;
/// Parts of a row's items.
const PARTS_PER_ROW: usize = 128;
/// Items that cuts at the borders of workers add.
const CUT_ITEMS: usize = 1024;

/// What a captured step depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Tile classes that have work.
    pub(super) classes: [bool; 3],
    pub(super) drawing: Drawing,
    pub(super) stored_keys: StoredKeys,
}

/// How often a step has been met.
#[derive(Debug)]
enum State {
    /// Once, without a graph: what launches load or choose at first sight is there now.
    Met,
    Captured(CapturedGraph),
}

/// Steps of one number of rows.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) plan: DevicePlan,
    steps: HashMap<Key, State>,
}

/// What to do with a step.
pub(super) enum Action<'a> {
    /// Launch it.
    Launch,
    /// Capture it, and replay it.
    Capture,
    /// Replay it.
    Replay(&'a mut CapturedGraph),
}

impl Bucket {
    /// What to do with a step of `key`, and remembers that it was met.
    pub(super) fn action(&mut self, key: Key) -> Action<'_> {
        use std::collections::hash_map::Entry;
        match self.steps.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(State::Met);
                Action::Launch
            }
            Entry::Occupied(entry) => match entry.into_mut() {
                State::Met => Action::Capture,
                State::Captured(graph) => Action::Replay(graph),
            },
        }
    }

    /// Keeps the graph of `key`.
    pub(super) fn captured(&mut self, key: Key, graph: CapturedGraph) {
        self.steps.insert(key, State::Captured(graph));
    }
}

/// Every bucket that was met.
#[derive(Debug)]
pub(super) struct Graphs {
    device: Arc<CudaDevice>,
    buckets: BTreeMap<usize, Bucket>,
}

impl Graphs {
    pub(super) fn new(device: &Arc<CudaDevice>) -> Graphs {
        Graphs { device: Arc::clone(device), buckets: BTreeMap::new() }
    }

    /// Forgets every captured step: addresses that they use are about to change.
    pub(super) fn clear(&mut self) {
        self.buckets.clear();
    }

    /// The bucket of `rows` rows if it has room for `schedule`, whose slots must fit into `slots`.
    pub(super) fn bucket(
        &mut self,
        rows: usize,
        schedule: &Schedule,
        slots: usize,
    ) -> Result<Option<&mut Bucket>, AttnError> {
        use std::collections::btree_map::Entry;
        let bounds = bounds(padded_rows(rows), slots);
        if rows > MAX_ROWS || !holds(&bounds, schedule) {
            return Ok(None);
        }
        match self.buckets.entry(padded_rows(rows)) {
            Entry::Occupied(entry) => Ok(Some(entry.into_mut())),
            Entry::Vacant(entry) => {
                let plan = DevicePlan::new(&self.device, bounds)?;
                Ok(Some(entry.insert(Bucket { plan, steps: HashMap::new() })))
            }
        }
    }
}

fn bounds(rows: usize, slots: usize) -> PlanBounds {
    PlanBounds {
        tokens: rows,
        items: rows * PARTS_PER_ROW / 4 + CUT_ITEMS,
        parts: rows * PARTS_PER_ROW + CUT_ITEMS,
        rows: rows * PARTS_PER_ROW / 4 + CUT_ITEMS,
        block_ids: rows * BLOCKS_PER_ROW,
        merge_slots: rows * PARTS_PER_ROW + CUT_ITEMS,
        slots,
    }
}

fn holds(bounds: &PlanBounds, schedule: &Schedule) -> bool {
    let needed = PlanBounds::of(schedule);
    needed.tokens <= bounds.tokens
        && needed.items <= bounds.items
        && needed.parts <= bounds.parts
        && needed.rows <= bounds.rows
        && needed.block_ids <= bounds.block_ids
        && needed.merge_slots <= bounds.merge_slots
        && needed.slots <= bounds.slots
}
