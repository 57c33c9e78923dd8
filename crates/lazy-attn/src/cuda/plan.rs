//! A schedule in device memory: one region, one copy.
//!
//! Written as it comes, the arrays lie end to end, and each is where the ones before it end. Written for a graph, each lies
//! where the bounds of the plan put it, so that addresses stay the same from step to step.

use cudarc::driver::{CudaSlice, DevicePtr};
use lazy_attn_sys::TileClass;
use lazy_attn_sys::abi::{DeviceAddress, LaItem, LaPart, LaPlan, LaRow, LaStart, LaWork, LaWrite};

use super::attention::{CudaDevice, device_error};
use super::pinned::PinnedRing;
use crate::error::AttnError;
use crate::schedule::Schedule;

/// Tile classes.
const CLASSES: usize = TileClass::ALL.len();
/// Arrays of a schedule: items and workers of each class, and nine that all classes share.
const ARRAYS: usize = 2 * CLASSES + 9;
/// Arrays begin at multiples of this many words: 128 bytes, so that a worker's start is one line.
const ALIGN_WORDS: usize = 32;
/// Copies that may be under way: the plan of a step is written while the step before it runs.
const COPIES_IN_FLIGHT: usize = 2;

/// An array of a schedule, in the order of the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Array {
    Items(usize),
    Workers(usize),
    Parts,
    Rows,
    BlockIds,
    NumMerges,
    MergeTokens,
    MergeBegin,
    MergeSlots,
    Writes,
    NumWrites,
}

impl Array {
    fn index(self) -> usize {
        match self {
            Array::Items(class) => class,
            Array::Workers(class) => CLASSES + class,
            Array::Parts => 2 * CLASSES,
            Array::Rows => 2 * CLASSES + 1,
            Array::BlockIds => 2 * CLASSES + 2,
            Array::NumMerges => 2 * CLASSES + 3,
            Array::MergeTokens => 2 * CLASSES + 4,
            Array::MergeBegin => 2 * CLASSES + 5,
            Array::MergeSlots => 2 * CLASSES + 6,
            Array::Writes => 2 * CLASSES + 7,
            Array::NumWrites => 2 * CLASSES + 8,
        }
    }
}

/// Names of the arrays, for errors, by [`Array::index`].
const NAMES: [&str; ARRAYS] = [
    "items of a plan",
    "items of a plan",
    "items of a plan",
    "workers of a plan",
    "workers of a plan",
    "workers of a plan",
    "parts of a plan",
    "rows of a plan",
    "block ids of a plan",
    "number of merges",
    "merged tokens of a plan",
    "tokens of a plan",
    "merge entries of a plan",
    "writes of a plan",
    "number of writes",
];

/// Largest lengths of a schedule's arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanBounds {
    /// Query tokens of a step.
    pub tokens: usize,
    /// Items of one tile class.
    pub items: usize,
    /// Parts of all items.
    pub parts: usize,
    /// Rows of all items.
    pub rows: usize,
    /// Block ids of all parts.
    pub block_ids: usize,
    /// Entries of all merge lists.
    pub merge_slots: usize,
    /// Partial slots.
    pub slots: usize,
}

impl PlanBounds {
    /// The smallest bounds that hold `schedule`.
    #[must_use]
    pub fn of(schedule: &Schedule) -> PlanBounds {
        PlanBounds {
            tokens: (schedule.num_tokens as usize).max(schedule.writes.len()),
            items: schedule.work.iter().map(|work| work.items.len()).max().unwrap_or(0),
            parts: schedule.parts.len(),
            rows: schedule.rows.len(),
            block_ids: schedule.block_ids.len(),
            merge_slots: schedule.merge_slots.len(),
            slots: schedule.num_slots as usize,
        }
    }
}

/// Where each array lies, in words from the beginning of the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    begin: [usize; ARRAYS],
    end: usize,
}

impl Layout {
    fn of(words: [usize; ARRAYS]) -> Layout {
        let mut end = 0;
        let begin = words.map(|words| {
            let begin = end;
            end += words.next_multiple_of(ALIGN_WORDS);
            begin
        });
        Layout { begin, end }
    }

    /// Places that hold every schedule within `bounds`.
    fn bounded(bounds: &PlanBounds, max_workers: usize) -> Layout {
        let mut words = [0; ARRAYS];
        for class in 0..CLASSES {
            words[Array::Items(class).index()] = bounds.items * ITEM_WORDS;
            words[Array::Workers(class).index()] = max_workers * START_WORDS;
        }
        let shared = [
            (Array::Parts, bounds.parts * PART_WORDS),
            (Array::Rows, bounds.rows * ROW_WORDS),
            (Array::BlockIds, bounds.block_ids),
            (Array::NumMerges, 1),
            (Array::MergeTokens, bounds.tokens),
            (Array::MergeBegin, bounds.tokens + 1),
            (Array::MergeSlots, bounds.merge_slots),
            (Array::Writes, bounds.tokens * WRITE_WORDS),
            (Array::NumWrites, 1),
        ];
        for (array, len) in shared {
            words[array.index()] = len;
        }
        Layout::of(words)
    }
}

const ITEM_WORDS: usize = 5;
const PART_WORDS: usize = 5;
const ROW_WORDS: usize = 2;
const WRITE_WORDS: usize = 5;
const START_WORDS: usize = size_of::<LaStart>() / 4;

fn item_words(item: LaItem) -> [i32; ITEM_WORDS] {
    [item.part_begin, item.part_end, item.row_begin, item.row_end, item.first_slot]
}

fn part_words(part: LaPart) -> [i32; PART_WORDS] {
    [part.first_block, part.key_begin, part.key_end, part.start, part.flags as i32]
}

fn row_words(row: LaRow) -> [i32; ROW_WORDS] {
    [row.token, row.base]
}

fn start_words(start: LaStart) -> [i32; START_WORDS] {
    let own = [start.item_begin, start.item_end, start.block_begin, start.num_blocks];
    let first = item_words(start.item).into_iter().chain(part_words(start.part)).chain(row_words(start.row));
    let all = own.into_iter().chain(first).chain(start.block_ids.map(|id| id as i32));
    let mut words = [0; START_WORDS];
    words.iter_mut().zip(all).for_each(|(to, word)| *to = word);
    words
}

/// Words of each array of `schedule`.
fn words_of(schedule: &Schedule) -> [usize; ARRAYS] {
    let mut words = [0; ARRAYS];
    for (class, work) in schedule.work.iter().enumerate() {
        words[Array::Items(class).index()] = work.items.len() * ITEM_WORDS;
        words[Array::Workers(class).index()] = work.starts.len() * START_WORDS;
    }
    let shared = [
        (Array::Parts, schedule.parts.len() * PART_WORDS),
        (Array::Rows, schedule.rows.len() * ROW_WORDS),
        (Array::BlockIds, schedule.block_ids.len()),
        (Array::NumMerges, 1),
        (Array::MergeTokens, schedule.merge_tokens.len()),
        (Array::MergeBegin, schedule.merge_begin.len()),
        (Array::MergeSlots, schedule.merge_slots.len()),
        (Array::Writes, schedule.writes.len() * WRITE_WORDS),
        (Array::NumWrites, 1),
    ];
    for (array, len) in shared {
        words[array.index()] = len;
    }
    words
}

/// The region of a schedule while it is written.
struct Region<'a> {
    words: &'a mut [i32],
    layout: Layout,
}

impl Region<'_> {
    /// Writes `entries` to their array, `N` words each.
    fn put<T: Copy, const N: usize>(&mut self, array: Array, entries: &[T], words: impl Fn(T) -> [i32; N]) {
        let begin = self.layout.begin[array.index()];
        let target = self.words[begin..][..entries.len() * N].as_chunks_mut::<N>().0;
        for (target, &entry) in target.iter_mut().zip(entries) {
            *target = words(entry);
        }
    }

    fn put_all(&mut self, schedule: &Schedule) {
        for (class, work) in schedule.work.iter().enumerate() {
            self.put(Array::Items(class), &work.items, item_words);
            self.put(Array::Workers(class), &work.starts, start_words);
        }
        self.put(Array::Parts, &schedule.parts, part_words);
        self.put(Array::Rows, &schedule.rows, row_words);
        self.put(Array::BlockIds, &schedule.block_ids, |id| [id as i32]);
        self.put(Array::NumMerges, &[schedule.merge_tokens.len()], |count| [count as i32]);
        self.put(Array::MergeTokens, &schedule.merge_tokens, |token| [token]);
        self.put(Array::MergeBegin, &schedule.merge_begin, |begin| [begin]);
        self.put(Array::MergeSlots, &schedule.merge_slots, |slot| [slot]);
        self.put(Array::Writes, &schedule.writes, |write: LaWrite| {
            [write.token, write.block as i32, write.slot, write.local, write.zero_end]
        });
        self.put(Array::NumWrites, &[schedule.writes.len()], |count| [count as i32]);
    }
}

/// How large launches are that run a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Grids {
    /// Workers per KV head of each class.
    workers: [u32; CLASSES],
    merges: u32,
    writes: u32,
}

/// A schedule in device memory, and room for the partials of its items.
#[derive(Debug)]
pub struct DevicePlan {
    bounds: PlanBounds,
    bounded: Layout,
    layout: Layout,
    memory: CudaSlice<i32>,
    ring: PinnedRing<i32>,
    grids: Grids,
    num_tokens: u32,
    num_slots: u32,
    num_blocks_min: u32,
}

impl DevicePlan {
    /// Room for any schedule within `bounds`.
    ///
    /// # Errors
    /// [`AttnError::Device`] if the device, or the host's pinned memory, has no room.
    pub fn new(device: &CudaDevice, bounds: PlanBounds) -> Result<DevicePlan, AttnError> {
        let bounded = Layout::bounded(&bounds, device.max_workers() as usize);
        let memory =
            device.stream().alloc_zeros::<i32>(bounded.end).map_err(device_error("allocating a plan"))?;
        let ring = PinnedRing::new(device, COPIES_IN_FLIGHT, bounded.end)?;
        let grids = Grids::default();
        Ok(DevicePlan {
            bounds,
            bounded,
            layout: bounded,
            memory,
            ring,
            grids,
            num_tokens: 0,
            num_slots: 0,
            num_blocks_min: 0,
        })
    }

    /// Copies `schedule` into its place, in stream order, with launches as large as it needs.
    ///
    /// # Errors
    /// [`AttnError::Unsupported`] if it exceeds the bounds, [`AttnError::Device`] if the copy fails.
    pub fn write(&mut self, device: &CudaDevice, schedule: &Schedule) -> Result<(), AttnError> {
        let layout = Layout::of(words_of(schedule));
        if layout.end > self.bounded.end {
            let rule = "the device plan was made for fewer; raise its bounds";
            return Err(AttnError::Unsupported { what: "words of a plan", value: layout.end as u64, rule });
        }
        let grids = Grids {
            workers: schedule.work.each_ref().map(|work| work.num_workers()),
            merges: schedule.merge_tokens.len() as u32,
            writes: schedule.writes.len() as u32,
        };
        self.write_at(device, schedule, layout, grids)
    }

    /// Copies `schedule` to where the bounds put each array, with launches as large as the bounds allow: a graph captured
    /// after one such write runs whatever a later one wrote, if both have the same [`DevicePlan::classes`].
    ///
    /// # Errors
    /// As for [`DevicePlan::write`], naming the array that is too long.
    pub fn write_for_graph(&mut self, device: &CudaDevice, schedule: &Schedule) -> Result<(), AttnError> {
        let ends = self.bounded.begin.iter().skip(1).copied().chain([self.bounded.end]);
        for (index, (words, end)) in words_of(schedule).into_iter().zip(ends).enumerate() {
            if self.bounded.begin[index] + words > end {
                let rule = "the device plan was made for fewer; raise its bounds";
                return Err(AttnError::Unsupported { what: NAMES[index], value: words as u64, rule });
            }
        }
        let tokens = self.bounds.tokens as u32;
        let workers = schedule.work.each_ref().map(|work| work.num_workers());
        self.write_at(device, schedule, self.bounded, Grids { workers, merges: tokens, writes: tokens })
    }

    fn write_at(
        &mut self,
        device: &CudaDevice,
        schedule: &Schedule,
        layout: Layout,
        grids: Grids,
    ) -> Result<(), AttnError> {
        if schedule.num_slots as usize > self.bounds.slots {
            let rule = "the device plan was made for fewer; raise its bounds";
            let value = u64::from(schedule.num_slots);
            return Err(AttnError::Unsupported { what: "partial slots of a plan", value, rule });
        }
        self.ring.send(device, layout.end, &mut self.memory, |words| {
            Region { words, layout }.put_all(schedule);
            Ok::<(), AttnError>(())
        })?;
        (self.layout, self.grids) = (layout, grids);
        self.num_tokens = schedule.num_tokens;
        self.num_slots = schedule.num_slots;
        self.num_blocks_min = schedule.num_blocks_min;
        Ok(())
    }

    /// What the plan has room for.
    #[must_use]
    pub fn bounds(&self) -> &PlanBounds {
        &self.bounds
    }

    /// Which tile classes have items, in the order of [`TileClass::ALL`].
    #[must_use]
    pub fn classes(&self) -> [bool; CLASSES] {
        self.grids.workers.map(|workers| workers > 0)
    }

    /// Query tokens of the schedule.
    #[must_use]
    pub fn num_tokens(&self) -> u32 {
        self.num_tokens
    }

    /// Partial slots there is room for.
    #[must_use]
    pub fn max_slots(&self) -> usize {
        self.bounds.slots
    }

    /// Blocks a store needs at least.
    #[must_use]
    pub fn num_blocks_min(&self) -> u32 {
        self.num_blocks_min
    }

    /// Query tokens there is room for.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        self.bounds.tokens
    }

    pub(super) fn num_slots(&self) -> u32 {
        self.num_slots
    }

    fn address(&self, device: &CudaDevice, array: Array) -> DeviceAddress {
        let words = self.layout.begin[array.index()] as u64;
        DeviceAddress(self.memory.device_ptr(device.stream()).0 + 4 * words)
    }

    /// Items of class `index` of [`TileClass::ALL`], and how many workers run them.
    pub(super) fn work(&self, device: &CudaDevice, index: usize) -> (LaWork, u32) {
        let work = LaWork {
            items: self.address(device, Array::Items(index)),
            starts: self.address(device, Array::Workers(index)),
        };
        (work, self.grids.workers[index])
    }

    pub(super) fn plan(&self, device: &CudaDevice) -> LaPlan {
        LaPlan {
            parts: self.address(device, Array::Parts),
            block_ids: self.address(device, Array::BlockIds),
            rows: self.address(device, Array::Rows),
            num_merges: self.address(device, Array::NumMerges),
            merge_tokens: self.address(device, Array::MergeTokens),
            merge_begin: self.address(device, Array::MergeBegin),
            merge_slots: self.address(device, Array::MergeSlots),
        }
    }

    /// Tokens that launches of `merge` are made for.
    pub(super) fn max_merges(&self) -> u32 {
        self.grids.merges
    }

    /// The writes, their number in device memory, and the number that launches are made for.
    pub(super) fn writes(&self, device: &CudaDevice) -> (DeviceAddress, DeviceAddress, u32) {
        (self.address(device, Array::Writes), self.address(device, Array::NumWrites), self.grids.writes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> Schedule {
        let mut schedule = Schedule { num_tokens: 2, num_slots: 1, ..Schedule::default() };
        schedule.work[0].items = vec![LaItem { part_begin: 1, ..LaItem::default() }; 3];
        let block_ids = std::array::from_fn(|index| 20 + index as u32);
        let start =
            LaStart { item_begin: 5, row: LaRow { token: 3, base: 4 }, block_ids, ..LaStart::default() };
        schedule.work[0].starts = vec![start; 2];
        schedule.parts = vec![LaPart { start: 7, ..LaPart::default() }; 2];
        schedule.rows = vec![LaRow { token: 1, base: 9 }];
        schedule.block_ids = vec![4, 5, 6, 7, 8];
        schedule.merge_tokens = vec![1];
        schedule.merge_begin = vec![0, 2];
        schedule.merge_slots = vec![0, 1];
        schedule.writes = vec![LaWrite { token: 1, block: 3, ..LaWrite::default() }];
        schedule
    }

    #[test]
    fn arrays_are_aligned_and_do_not_overlap_packed_or_bounded() {
        let words = words_of(&schedule());
        let bounds = PlanBounds::of(&schedule());
        for layout in [Layout::of(words), Layout::bounded(&bounds, 2)] {
            let ends = layout.begin.iter().skip(1).copied().chain([layout.end]);
            for ((begin, end), words) in layout.begin.iter().zip(ends).zip(words) {
                assert!(begin.is_multiple_of(ALIGN_WORDS) && begin + words <= end);
            }
        }
    }

    #[test]
    fn every_array_is_found_where_its_index_says() {
        let (schedule, layout) = (schedule(), Layout::of(words_of(&schedule())));
        let mut words = vec![-1; layout.end];
        Region { words: &mut words, layout }.put_all(&schedule);
        let at = |array: Array, index: usize| words[layout.begin[array.index()] + index];
        assert_eq!((at(Array::Items(0), 0), at(Array::Items(0), ITEM_WORDS)), (1, 1));
        let second = |index| at(Array::Workers(0), START_WORDS + index);
        assert_eq!([0, 14, 15, 16, START_WORDS - 1].map(second), [5, 3, 4, 20, 35]);
        assert_eq!((at(Array::Parts, 3), at(Array::Rows, 1), at(Array::BlockIds, 4)), (7, 9, 8));
        assert_eq!((at(Array::NumMerges, 0), at(Array::MergeTokens, 0)), (1, 1));
        assert_eq!((at(Array::MergeBegin, 1), at(Array::MergeSlots, 1)), (2, 1));
        assert_eq!((at(Array::Writes, 1), at(Array::NumWrites, 0)), (3, 1));
    }
}
