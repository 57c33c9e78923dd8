//! From a plan to the arrays a device reads: the plan's items are cut so that every worker has the same amount to do.
//!
//! A thread block is (worker, KV head). The cost of all items of a tile class is laid end to end and cut into as many
//! equal ranges as there are workers, at borders of tiles. Wide items that come out nearly even without a cut are dealt
//! whole instead, longest first: they need no merge, and workers run over the same keys at about the same time. Nothing
//! is taken from a queue at run time, so the same plan gives the same bits, and no worker idles for long while another
//! works.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use lazy_attn_sys::TileClass;
use lazy_attn_sys::abi::{
    LAST_OF_PART, LaItem, LaPart, LaRow, LaStart, LaWrite, PART_CAUSAL, START_BLOCKS, WRITES_OUTPUT,
};
use lazy_attn_types::StoredKeys;

use crate::plan::{Coverage, Item, Part, Plan, Span, Visibility};

/// Keys between two places where a part may be cut, at least.
pub const CUT_TOKENS: u32 = 64;

/// What a tile class spends, relative to a sixteenth of [`CUT_TOKENS`] keys.
#[derive(Debug, Clone, Copy)]
struct Costs {
    /// Keys of a tile: where a part may be cut.
    tile_tokens: u32,
    /// A tile, full or not.
    tile: u64,
    /// Turning the queries to another part.
    part: u64,
    /// Starting an item and writing its result.
    item: u64,
    /// What the slowest worker may take longer than the average before items are cut: about what a merge takes.
    slack: Option<u64>,
}

impl Costs {
    fn of(class: TileClass, workers: &Workers) -> Costs {
        match class {
            TileClass::N16 => {
                let cuts = (workers.narrow_tile / CUT_TOKENS).max(1);
                let (tile_tokens, tile) = (cuts * CUT_TOKENS, 16 * u64::from(cuts));
                Costs { tile_tokens, tile, part: 4, item: 16, slack: None }
            }
            TileClass::W64 | TileClass::W128 => {
                Costs { tile_tokens: 2 * CUT_TOKENS, tile: 32, part: 4, item: 16, slack: Some(160) }
            }
        }
    }

    fn num_tiles(self, keys: Span) -> u64 {
        u64::from(keys.len().div_ceil(self.tile_tokens))
    }

    fn of_item(self, parts: &[Part]) -> u64 {
        self.item + parts.iter().map(|part| self.part + self.num_tiles(part.keys) * self.tile).sum::<u64>()
    }
}

/// The items of one tile class, worker by worker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClassWork {
    /// Items; each worker's lie together.
    pub items: Vec<LaItem>,
    /// Where the items of each worker begin, and where the last one's end.
    pub worker_begin: Vec<i32>,
    /// What each worker does.
    pub starts: Vec<LaStart>,
}

impl ClassWork {
    /// Workers per KV head.
    #[must_use]
    pub fn num_workers(&self) -> u32 {
        (self.worker_begin.len().max(1) - 1) as u32
    }
}

/// What a device needs to run a plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schedule {
    /// Per [`TileClass`], in the order of [`TileClass::ALL`].
    pub work: [ClassWork; TileClass::ALL.len()],
    /// Parts of all items.
    pub parts: Vec<LaPart>,
    /// Rows of all items.
    pub rows: Vec<LaRow>,
    /// Blocks of all parts, worker by worker in reading order; [`LAST_OF_PART`] is added to the last of each part.
    pub block_ids: Vec<u32>,
    /// Tokens that no item finishes.
    pub merge_tokens: Vec<i32>,
    /// Where the merge list of each of them begins, and where the last one ends.
    pub merge_begin: Vec<i32>,
    /// Merge lists.
    pub merge_slots: Vec<i32>,
    /// What is stored before anything is read.
    pub writes: Vec<LaWrite>,
    /// Partial slots; each holds one result per query head.
    pub num_slots: u32,
    /// Query tokens of the step.
    pub num_tokens: u32,
    /// Blocks a store needs at least.
    pub num_blocks_min: u32,
}

/// How many workers a device has for each KV head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workers {
    /// Per [`TileClass`], in the order of [`TileClass::ALL`].
    pub per_class: [u32; TileClass::ALL.len()],
    /// Keys of a tile of [`TileClass::N16`], a multiple of [`CUT_TOKENS`].
    pub narrow_tile: u32,
    /// Query heads per KV head.
    pub group_size: u32,
}

/// First slot of each piece an item was cut into; [`WRITES_OUTPUT`] alone if it needs none.
type PieceSlots = Vec<i32>;

impl Schedule {
    /// The arrays of `plan`, whose items no planner has cut by keys.
    ///
    /// # Panics
    /// If an item has more rows than the widest class, which the configuration of the planner rules out, or a run focuses its
    /// documents, which the kernels of devices do not and whoever plans for them refuses.
    #[must_use]
    pub fn new(plan: &Plan, workers: &Workers) -> Schedule {
        assert!(plan.focused().is_empty(), "kernels of devices look at all keys in one way");
        let mut schedule = Schedule {
            rows: plan.rows().iter().map(|row| LaRow { token: row.token as i32, base: row.base }).collect(),
            writes: writes_of(plan),
            num_tokens: plan.num_tokens(),
            num_blocks_min: plan.num_blocks_min(),
            ..Schedule::default()
        };
        let mut slots = vec![PieceSlots::new(); plan.items().len()];
        for (index, &class) in TileClass::ALL.iter().enumerate() {
            let num_workers = workers.per_class[index];
            let is_own = |item: &Item| class_of(item.rows.len() * workers.group_size) == class;
            let items = plan.items().iter().enumerate().filter(|(_, item)| is_own(item));
            let costs = Costs::of(class, workers);
            let own: Vec<Priced> =
                items.map(|(item, of)| Priced { item, cost: costs.of_item(plan.parts_of(of)) }).collect();
            let mut work = match deal(&own, num_workers, costs.slack) {
                Some(shares) => schedule.place(plan, &shares, &mut slots),
                None => schedule.cut(plan, Cutter::new(costs, &own, num_workers), &own, &mut slots),
            };
            schedule.lay_out_workers(plan, &mut work);
            schedule.work[index] = work;
        }
        schedule.add_merge_lists(plan, &slots);
        schedule
    }

    /// Cuts the items of `own` for the workers of `cutter`.
    fn cut(
        &mut self,
        plan: &Plan,
        mut cutter: Cutter,
        own: &[Priced],
        slots: &mut [PieceSlots],
    ) -> ClassWork {
        if own.is_empty() {
            return ClassWork::default();
        }
        for &Priced { item, .. } in own {
            self.cut_item(plan, &plan.items()[item], &mut cutter, &mut slots[item]);
        }
        cutter.finish()
    }

    /// Gives each worker its share of items, whole.
    fn place(&mut self, plan: &Plan, shares: &[Vec<usize>], slots: &mut [PieceSlots]) -> ClassWork {
        let mut work = ClassWork { worker_begin: vec![0], ..ClassWork::default() };
        for share in shares {
            for &index in share {
                let item = &plan.items()[index];
                let part_begin = self.parts.len();
                self.parts.extend(plan.parts_of(item).iter().map(|part| la_part(part, part.keys)));
                let first_slot = match item.coverage {
                    Coverage::Whole => WRITES_OUTPUT,
                    Coverage::Partial => self.take_slots(item),
                };
                slots[index].push(first_slot);
                work.items.push(self.la_item(item, part_begin, first_slot));
            }
            work.worker_begin.push(work.items.len() as i32);
        }
        work
    }

    fn cut_item(&mut self, plan: &Plan, item: &Item, cutter: &mut Cutter, slots: &mut PieceSlots) {
        let mut part_begin = self.parts.len();
        let costs = cutter.costs;
        cutter.spend(costs.item);
        let parts = plan.parts_of(item);
        for (index, &part) in parts.iter().enumerate() {
            cutter.spend(costs.part);
            let mut rest = part.keys;
            while !rest.is_empty() {
                let tiles = cutter.tiles_left().max(1).min(costs.num_tiles(rest));
                let end = rest.end.min(rest.begin + tiles as u32 * costs.tile_tokens);
                self.parts.push(la_part(&part, Span { begin: rest.begin, end }));
                cutter.spend(tiles * costs.tile);
                rest.begin = end;
                let is_last = rest.is_empty() && index + 1 == parts.len();
                if cutter.tiles_left() == 0 && !is_last {
                    self.close_piece(item, part_begin, cutter, slots);
                    part_begin = self.parts.len();
                    cutter.spend(costs.item);
                }
            }
        }
        let is_whole = slots.is_empty() && item.coverage == Coverage::Whole;
        self.close_piece(item, part_begin, cutter, slots);
        if is_whole {
            cutter.last_item_writes_output();
            self.num_slots -= item.rows.len();
            slots[0] = WRITES_OUTPUT;
        }
    }

    fn close_piece(&mut self, item: &Item, part_begin: usize, cutter: &mut Cutter, slots: &mut PieceSlots) {
        let first_slot = self.take_slots(item);
        slots.push(first_slot);
        cutter.push(self.la_item(item, part_begin, first_slot));
    }

    /// The first of as many slots as the item has rows.
    fn take_slots(&mut self, item: &Item) -> i32 {
        let first_slot = self.num_slots as i32;
        self.num_slots += item.rows.len();
        first_slot
    }

    /// `item` with the parts from `part_begin` on.
    fn la_item(&self, item: &Item, part_begin: usize, first_slot: i32) -> LaItem {
        LaItem {
            part_begin: part_begin as i32,
            part_end: self.parts.len() as i32,
            row_begin: item.rows.begin as i32,
            row_end: item.rows.end as i32,
            first_slot,
        }
    }

    /// Lays the blocks of every worker end to end, and copies what it reads first into its start.
    fn lay_out_workers(&mut self, plan: &Plan, work: &mut ClassWork) {
        for range in work.worker_begin.windows(2) {
            let items = &work.items[range[0] as usize..range[1] as usize];
            let block_begin = self.block_ids.len();
            for item in items {
                self.lay_out_blocks(plan, item);
            }
            let first = items.first().copied().unwrap_or_default();
            let blocks = &self.block_ids[block_begin..];
            let mut block_ids = [0; START_BLOCKS];
            block_ids.iter_mut().zip(blocks).for_each(|(to, &from)| *to = from);
            work.starts.push(LaStart {
                item_begin: range[0],
                item_end: range[1],
                block_begin: block_begin as i32,
                num_blocks: blocks.len() as i32,
                item: first,
                part: self.parts.get(first.part_begin as usize).copied().unwrap_or_default(),
                row: self.rows.get(first.row_begin as usize).copied().unwrap_or_default(),
                block_ids,
            });
        }
    }

    /// Adds the blocks of an item's parts, which point to them from then on.
    fn lay_out_blocks(&mut self, plan: &Plan, item: &LaItem) {
        let block_size = plan.config().block_size;
        for part in &mut self.parts[item.part_begin as usize..item.part_end as usize] {
            let first = part.key_begin as u32 / block_size.get();
            let range = first..block_size.blocks_for(part.key_end as u32);
            let blocks =
                &plan.block_ids()[part.first_block as usize..][range.start as usize..range.end as usize];
            part.first_block = self.block_ids.len() as i32 - first as i32;
            self.block_ids.extend(blocks.iter().map(|block| block.0));
            if let (false, Some(last)) = (blocks.is_empty(), self.block_ids.last_mut()) {
                *last |= LAST_OF_PART;
            }
        }
    }

    fn add_merge_lists(&mut self, plan: &Plan, slots: &[PieceSlots]) {
        // Slots of the plan are those of its items, one behind the other.
        let mut item_of = Vec::with_capacity(plan.num_slots() as usize);
        for (index, item) in plan.items().iter().enumerate() {
            item_of.resize(item.slots().end as usize, index);
        }
        self.merge_begin.push(0);
        for token in 0..plan.num_tokens() {
            let first_entry = self.merge_slots.len();
            for &slot in plan.merge_list(token as usize) {
                let item = item_of[slot as usize];
                let row = (slot - plan.items()[item].first_slot) as i32;
                let pieces = slots[item].iter().filter(|&&first| first != WRITES_OUTPUT);
                self.merge_slots.extend(pieces.map(|first| first + row));
            }
            // No entry: an item has finished the token, unless nothing reads for it at all.
            if self.merge_slots.len() > first_entry || plan.merge_list(token as usize).is_empty() {
                self.merge_tokens.push(token as i32);
                self.merge_begin.push(self.merge_slots.len() as i32);
            }
        }
    }
}

/// The smallest class that holds `num_rows` rows.
fn class_of(num_rows: u32) -> TileClass {
    let fits = TileClass::ALL.into_iter().find(|class| num_rows <= class.max_rows());
    assert!(fits.is_some(), "an item of {num_rows} rows is wider than every tile class");
    fits.unwrap_or(TileClass::ALL[0])
}

/// An item of a plan and its cost.
#[derive(Debug, Clone, Copy)]
struct Priced {
    item: usize,
    cost: u64,
}

/// Whole items for each worker, longest first, each to the worker with the least so far; none if one worker then ends later
/// than the average by more than `slack`.
fn deal(own: &[Priced], num_workers: u32, slack: Option<u64>) -> Option<Vec<Vec<usize>>> {
    let most = own.iter().map(|priced| priced.cost).sum::<u64>() / u64::from(num_workers.max(1)) + slack?;
    let mut sorted = own.to_vec();
    sorted.sort_by_key(|priced| Reverse(priced.cost));
    let mut shares = vec![Vec::new(); num_workers.max(1) as usize];
    let mut loads: BinaryHeap<_> = (0..shares.len()).map(|worker| Reverse((0, worker))).collect();
    for Priced { item, cost } in sorted {
        let Reverse((load, worker)) = loads.pop()?;
        if load + cost > most {
            return None;
        }
        shares[worker].push(item);
        loads.push(Reverse((load + cost, worker)));
    }
    (!own.is_empty()).then_some(shares)
}

fn la_part(part: &Part, keys: Span) -> LaPart {
    debug_assert_eq!(part.num_hidden, 0, "the kernels have no bound below");
    LaPart {
        first_block: part.first_block as i32,
        key_begin: keys.begin as i32,
        key_end: keys.end as i32,
        // The kernels rotate and mask by one number. Nothing of an earlier segment is masked, unless there is a window; a segment
        // that is written stands at its origin.
        start: if part.visibility == Visibility::Causal { part.start } else { part.origin },
        flags: if part.visibility == Visibility::Causal { PART_CAUSAL } else { 0 },
    }
}

fn writes_of(plan: &Plan) -> Vec<LaWrite> {
    let block_size = plan.config().block_size.get() as i32;
    let is_raw = plan.stored_keys() == StoredKeys::Raw;
    let mut writes = Vec::with_capacity(plan.num_tokens() as usize);
    for write in plan.writes() {
        writes.extend((0..write.num_tokens).map(|index| LaWrite {
            token: (write.first_token + index) as i32,
            block: write.block.0,
            slot: (write.first_slot + index) as i32,
            local: if is_raw { 0 } else { write.rotation + index as i32 },
            // The first write to a block leaves no slot of it undefined.
            zero_end: if write.first_slot == 0 && index + 1 == write.num_tokens { block_size } else { 0 },
        }));
    }
    writes
}

/// Hands pieces to workers: worker `w` ends where `(w + 1) / num_workers` of the cost is spent.
struct Cutter {
    work: ClassWork,
    costs: Costs,
    total: u64,
    num_workers: u64,
    spent: u64,
}

impl Cutter {
    fn new(costs: Costs, own: &[Priced], num_workers: u32) -> Cutter {
        let num_workers = u64::from(num_workers.max(1));
        // Every cut starts one more piece.
        let total = own.iter().map(|priced| priced.cost).sum::<u64>() + (num_workers - 1) * costs.item;
        let work = ClassWork { worker_begin: vec![0], ..ClassWork::default() };
        Cutter { work, costs, total, num_workers, spent: 0 }
    }

    fn spend(&mut self, cost: u64) {
        self.spent += cost;
    }

    /// Where the open worker ends.
    fn target(&self) -> u64 {
        self.work.worker_begin.len() as u64 * self.total / self.num_workers
    }

    /// Tiles the open worker still takes, rounded to the nearest; all of them for the last worker.
    fn tiles_left(&self) -> u64 {
        if self.work.worker_begin.len() as u64 == self.num_workers {
            return u64::MAX / self.costs.tile;
        }
        (self.target() + self.costs.tile / 2).saturating_sub(self.spent) / self.costs.tile
    }

    /// Gives a piece to the open worker, and closes it once it has its share.
    fn push(&mut self, item: LaItem) {
        self.work.items.push(item);
        while (self.work.worker_begin.len() as u64) < self.num_workers && self.tiles_left() == 0 {
            self.work.worker_begin.push(self.work.items.len() as i32);
        }
    }

    fn last_item_writes_output(&mut self) {
        if let Some(item) = self.work.items.last_mut() {
            item.first_slot = WRITES_OUTPUT;
        }
    }

    fn finish(mut self) -> ClassWork {
        let end = self.work.items.len() as i32;
        self.work.worker_begin.resize(self.num_workers as usize + 1, end);
        self.work
    }
}
