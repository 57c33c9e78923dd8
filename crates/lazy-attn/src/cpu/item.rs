//! One task: a work item in one KV head.

use std::ops::Range;

use lazy_attn_types::StoredKeys;

use super::{
    dispatch::Kernel,
    element::Element,
    fold::{Weight, record_elements},
    raw::{PlaceAngles, turn_keys},
    unit::{Bounds, MAX_TILE, Reads, Tile, UnitKeys},
};
use crate::{
    isa::Isa,
    plan::{Item, Part, Plan, Row, Span},
    rope::{Angles, MAX_ROTARY_DIM, RopeTable},
};

/// What all tasks of a call share.
#[derive(Debug)]
pub(super) struct Call<'a, E> {
    pub(super) plan: &'a Plan,
    pub(super) rope: &'a RopeTable,
    /// Of keys that are stored raw.
    pub(super) place_angles: &'a PlaceAngles,
    /// `[num_tokens, num_q_heads * head_dim]`, not rotated.
    pub(super) q: &'a [f32],
    /// `[num_blocks, num_kv_heads, 2, head_dim * block_size]`
    pub(super) layer: &'a [E],
    /// Softmax scale times log2(e).
    pub(super) scale: f32,
    pub(super) num_kv_heads: usize,
    pub(super) group_size: usize,
    pub(super) head_dim: usize,
}

impl<E> Call<'_, E> {
    /// Elements of one slot in one KV head.
    pub(super) fn slot_elements(&self) -> usize {
        self.group_size * record_elements(self.head_dim)
    }
}

/// Runs `item` in KV head `kv_head`.
pub(super) struct ItemTask<'a, E> {
    pub(super) call: &'a Call<'a, E>,
    pub(super) item: &'a Item,
    pub(super) kv_head: usize,
    /// `[rows, slots_per_row, group_size, head_dim + 2]`
    pub(super) slots: &'a mut [f32],
}

/// A unit of a part, and which of the item's units it is.
#[derive(Debug, Clone, Copy)]
struct Unit {
    part: Part,
    part_index: usize,
    keys: Span,
    ordinal: usize,
}

impl<E: Element> Kernel for ItemTask<'_, E> {
    #[inline(always)]
    fn run<I: Isa>(mut self) {
        let plan = self.call.plan;
        for record in self.slots.chunks_exact_mut(record_elements(self.call.head_dim)) {
            Weight::EMPTY.write(record);
        }
        let num_rows = self.item.rows.len() as usize * self.call.group_size;
        let mut tile = Tile::ZERO;
        // A tile that stays the same over several units of a segment is rotated once.
        let mut rotated = None;
        let is_raw = plan.stored_keys() == StoredKeys::Raw;
        let mut turned = Vec::new();
        let mut units = units_of(plan, self.item).peekable();
        while let Some(unit) = units.next() {
            let next = units.peek().map(|next| self.keys(next));
            let keys = self.keys(&unit);
            if is_raw {
                turn_keys::<I, E>(&keys, self.call.place_angles, &mut turned);
            }
            let mut reads = Reads { unit: keys, turned: &turned, next, is_fetched: is_raw };
            for first in (0..num_rows).step_by(I::MAX_ROWS) {
                let rows = first..num_rows.min(first + I::MAX_ROWS);
                self.run_rows::<I>(&mut tile, &mut rotated, unit, reads, rows);
                reads = Reads { next: None, is_fetched: true, ..reads };
            }
        }
    }
}

/// The units of `item`, in order.
fn units_of<'a>(plan: &'a Plan, item: &Item) -> impl Iterator<Item = Unit> + use<'a> {
    let unit_tokens = plan.config().unit_tokens;
    let parts = plan.parts_of(item).iter().enumerate();
    let units = parts.flat_map(move |(part_index, &part)| {
        part.units(unit_tokens).map(move |keys| Unit { part, part_index, keys, ordinal: 0 })
    });
    units.enumerate().map(|(ordinal, unit)| Unit { ordinal, ..unit })
}

impl<'a, E: Element> ItemTask<'a, E> {
    /// Picks the smallest compiled tile that holds the rows; rows it has too many see nothing.
    #[inline(always)]
    fn run_rows<I: Isa>(
        &mut self,
        tile: &mut Tile,
        rotated: &mut Option<(usize, usize)>,
        unit: Unit,
        reads: Reads<'_, E>,
        rows: Range<usize>,
    ) {
        let mut bounds = [Bounds::default(); MAX_TILE];
        let mut is_seen = false;
        for (bounds, row) in bounds.iter_mut().zip(rows.clone()) {
            *bounds = self.bounds(unit, self.row(row));
            is_seen |= bounds.begin < bounds.end;
        }
        if !is_seen {
            return;
        }
        let rotation = (unit.part_index, rows.start);
        let is_rotated = rotated.replace(rotation) == Some(rotation);
        let mut work = TileWork { tile, unit, reads, rows, is_rotated, bounds };
        match work.rows.len() {
            1 => self.run_tile::<I, 1>(&mut work),
            2 => self.run_tile::<I, 2>(&mut work),
            3 => self.run_tile::<I, 3>(&mut work),
            4 => self.run_tile::<I, 4>(&mut work),
            5 | 6 if I::MAX_ROWS > 4 => self.run_tile::<I, 6>(&mut work),
            _ if I::MAX_ROWS > 4 => self.run_tile::<I, 8>(&mut work),
            _ => {}
        }
    }

    #[inline(always)]
    fn run_tile<I: Isa, const R: usize>(&mut self, work: &mut TileWork<'_, '_, E>) {
        if !work.is_rotated {
            self.rotate_rows::<I, R>(work);
        }
        let mut bounds = [Bounds::default(); R];
        bounds.copy_from_slice(&work.bounds[..R]);
        work.tile.run::<I, E, R>(&work.reads, &bounds);
        for (index, row) in work.rows.clone().enumerate() {
            self.fold_row::<I>(work.tile, index, row, work.unit.ordinal);
        }
    }

    /// Rotates the raw queries of the rows by their distance from the segment's origin, in f32, into `[head_dim][R]`.
    #[inline(always)]
    fn rotate_rows<I: Isa, const R: usize>(&self, work: &mut TileWork<'_, '_, E>) {
        let call = self.call;
        let scale = call.scale / self.item.focus.temperature();
        let mut angles = Angles::ZERO;
        let mut angles_of = None;
        for (index, row_index) in work.rows.clone().enumerate() {
            let row = self.row(row_index);
            if angles_of != Some(row) {
                call.rope.angles::<I>(work.unit.part.rotation(row), &mut angles);
                angles_of = Some(row);
            }
            let q_head = self.kv_head * call.group_size + row_index % call.group_size;
            let num_q_heads = call.num_kv_heads * call.group_size;
            let at = (row.token as usize * num_q_heads + q_head) * call.head_dim;
            let mut out = [0.0; MAX_ROTARY_DIM];
            let out = &mut out[..call.head_dim];
            call.rope.rotate::<I>(&angles, scale, &call.q[at..at + call.head_dim], out);
            for (dim, &value) in out.iter().enumerate() {
                work.tile.q[dim * R + index] = value;
            }
        }
    }

    #[inline(always)]
    fn fold_row<I: Isa>(&mut self, tile: &Tile, index: usize, row: usize, ordinal: usize) {
        let call = self.call;
        let slots_per_row = self.item.slots_per_row as usize;
        let in_row = if slots_per_row == 1 { 0 } else { ordinal };
        let slot = row / call.group_size * slots_per_row + in_row;
        let at = slot * call.slot_elements() + row % call.group_size * record_elements(call.head_dim);
        let record = &mut self.slots[at..at + record_elements(call.head_dim)];
        let (_, mut weight) = Weight::split(record);
        let unit = Weight { max: tile.max[index], sum: tile.sum[index] };
        weight.fold::<I>(&mut record[..call.head_dim], unit, &tile.out[index][..call.head_dim]);
        weight.write(record);
    }

    /// Where the keys and values of `unit` are.
    #[inline(always)]
    fn keys(&self, unit: &Unit) -> UnitKeys<'a, E> {
        let call = self.call;
        let block_size = call.plan.config().block_size.get() as usize;
        let head_elements = 2 * call.head_dim * block_size;
        UnitKeys {
            layer: call.layer,
            blocks: &call.plan.block_ids()[unit.part.first_block as usize..],
            block_elements: head_elements * call.num_kv_heads,
            head_at: head_elements * self.kv_head,
            block_size,
            head_dim: call.head_dim,
            first_key: unit.keys.begin as usize,
            num_keys: unit.keys.len() as usize,
        }
    }

    /// The query token of a stacked row: rows are `[token][query head of the group]`.
    #[inline(always)]
    fn row(&self, row: usize) -> Row {
        self.call.plan.rows_of(self.item)[row / self.call.group_size]
    }

    #[inline(always)]
    fn bounds(&self, unit: Unit, row: Row) -> Bounds {
        let seen = unit.part.visible(row, self.call.plan.config().window);
        let clamp = |index: u32| index.clamp(unit.keys.begin, unit.keys.end) - unit.keys.begin;
        Bounds { begin: clamp(seen.begin), end: clamp(seen.end) }
    }
}

struct TileWork<'a, 't, E> {
    tile: &'t mut Tile,
    unit: Unit,
    reads: Reads<'a, E>,
    rows: Range<usize>,
    is_rotated: bool,
    bounds: [Bounds; MAX_TILE],
}
