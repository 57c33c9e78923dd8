//! A schedule in device memory, at addresses that stay the same from step to step.

use cudarc::driver::{CudaSlice, DevicePtr};
use lazy_attn_sys::TileClass;
use lazy_attn_sys::abi::{DeviceAddress, LaItem, LaPart, LaPlan, LaRow, LaWork, LaWrite};

use super::attention::{CudaDevice, device_error};
use crate::error::AttnError;
use crate::schedule::{ClassWork, Schedule};

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

/// An array of device memory with room to grow up to a bound.
#[derive(Debug)]
struct Array {
    memory: CudaSlice<i32>,
    what: &'static str,
}

impl Array {
    fn new(device: &CudaDevice, what: &'static str, max_words: usize) -> Result<Array, AttnError> {
        let memory = device
            .stream()
            .alloc_zeros::<i32>(max_words.max(1))
            .map_err(device_error("allocating a plan"))?;
        Ok(Array { memory, what })
    }

    /// Writes `entries` from the front, `N` words each.
    fn write<T: Copy, const N: usize>(
        &mut self,
        device: &CudaDevice,
        entries: &[T],
        words: fn(T) -> [i32; N],
    ) -> Result<(), AttnError> {
        let words: Vec<i32> = entries.iter().flat_map(|&entry| words(entry)).collect();
        if words.len() > self.memory.len() {
            let rule = "the device plan was made for fewer; raise its bounds";
            return Err(AttnError::Unsupported { what: self.what, value: entries.len() as u64, rule });
        }
        if words.is_empty() {
            return Ok(());
        }
        let mut target = self.memory.slice_mut(..words.len());
        device.stream().memcpy_htod(&words, &mut target).map_err(device_error("writing a plan"))
    }

    fn address(&self, device: &CudaDevice) -> DeviceAddress {
        DeviceAddress(self.memory.device_ptr(device.stream()).0)
    }
}

/// The items of one tile class.
#[derive(Debug)]
struct WorkArrays {
    items: Array,
    worker_begin: Array,
    num_workers: u32,
}

impl WorkArrays {
    fn new(device: &CudaDevice, bounds: &PlanBounds, max_workers: u32) -> Result<WorkArrays, AttnError> {
        Ok(WorkArrays {
            items: Array::new(device, "items of a plan", bounds.items * 5)?,
            worker_begin: Array::new(device, "workers of a plan", max_workers as usize + 1)?,
            num_workers: 0,
        })
    }

    fn write(&mut self, device: &CudaDevice, work: &ClassWork) -> Result<(), AttnError> {
        self.num_workers = work.num_workers();
        self.items.write(device, &work.items, |item: LaItem| {
            [item.part_begin, item.part_end, item.row_begin, item.row_end, item.first_slot]
        })?;
        self.worker_begin.write(device, &work.worker_begin, |begin| [begin])
    }
}

/// A schedule in device memory, and room for the partials of its items.
#[derive(Debug)]
pub struct DevicePlan {
    bounds: PlanBounds,
    work: Vec<WorkArrays>,
    parts: Array,
    rows: Array,
    block_ids: Array,
    num_merges: Array,
    merge_tokens: Array,
    merge_begin: Array,
    merge_slots: Array,
    writes: Array,
    num_writes: Array,
    num_tokens: u32,
    num_slots: u32,
    num_blocks_min: u32,
}

impl DevicePlan {
    /// Room for any schedule within `bounds`.
    ///
    /// # Errors
    /// [`AttnError::Device`] if the device has no room.
    pub fn new(device: &CudaDevice, bounds: PlanBounds) -> Result<DevicePlan, AttnError> {
        let work = TileClass::ALL.iter().map(|_| WorkArrays::new(device, &bounds, device.max_workers()));
        Ok(DevicePlan {
            bounds,
            work: work.collect::<Result<_, _>>()?,
            parts: Array::new(device, "parts of a plan", bounds.parts * 5)?,
            rows: Array::new(device, "rows of a plan", bounds.rows * 2)?,
            block_ids: Array::new(device, "block ids of a plan", bounds.block_ids)?,
            num_merges: Array::new(device, "number of merges", 1)?,
            merge_tokens: Array::new(device, "merged tokens of a plan", bounds.tokens)?,
            merge_begin: Array::new(device, "tokens of a plan", bounds.tokens + 1)?,
            merge_slots: Array::new(device, "merge entries of a plan", bounds.merge_slots)?,
            writes: Array::new(device, "writes of a plan", bounds.tokens * 5)?,
            num_writes: Array::new(device, "number of writes", 1)?,
            num_tokens: 0,
            num_slots: 0,
            num_blocks_min: 0,
        })
    }

    /// Copies `schedule` into its place, in stream order.
    ///
    /// # Errors
    /// [`AttnError::Unsupported`] if it exceeds the bounds, [`AttnError::Device`] if the copy fails.
    pub fn write(&mut self, device: &CudaDevice, schedule: &Schedule) -> Result<(), AttnError> {
        if schedule.num_slots as usize > self.bounds.slots {
            let rule = "the device plan was made for fewer; raise its bounds";
            let value = u64::from(schedule.num_slots);
            return Err(AttnError::Unsupported { what: "partial slots of a plan", value, rule });
        }
        for (arrays, work) in self.work.iter_mut().zip(&schedule.work) {
            arrays.write(device, work)?;
        }
        self.parts.write(device, &schedule.parts, |part: LaPart| {
            [part.first_block, part.key_begin, part.key_end, part.start, part.flags as i32]
        })?;
        self.rows.write(device, &schedule.rows, |row: LaRow| [row.token, row.base])?;
        self.block_ids.write(device, &schedule.block_ids, |id| [id as i32])?;
        self.num_merges.write(device, &[schedule.merge_tokens.len()], |count| [count as i32])?;
        self.merge_tokens.write(device, &schedule.merge_tokens, |token| [token])?;
        self.merge_begin.write(device, &schedule.merge_begin, |begin| [begin])?;
        self.merge_slots.write(device, &schedule.merge_slots, |slot| [slot])?;
        self.writes.write(device, &schedule.writes, |write: LaWrite| {
            [write.token, write.block as i32, write.slot, write.local, write.zero_end]
        })?;
        self.num_writes.write(device, &[schedule.writes.len()], |count| [count as i32])?;
        self.num_tokens = schedule.num_tokens;
        self.num_slots = schedule.num_slots;
        self.num_blocks_min = schedule.num_blocks_min;
        Ok(())
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

    /// Items of class `index` of [`TileClass::ALL`], and how many workers run them.
    pub(super) fn work(&self, device: &CudaDevice, index: usize) -> (LaWork, u32) {
        let arrays = &self.work[index];
        let work =
            LaWork { items: arrays.items.address(device), worker_begin: arrays.worker_begin.address(device) };
        (work, arrays.num_workers)
    }

    pub(super) fn plan(&self, device: &CudaDevice) -> LaPlan {
        LaPlan {
            parts: self.parts.address(device),
            block_ids: self.block_ids.address(device),
            rows: self.rows.address(device),
            num_merges: self.num_merges.address(device),
            merge_tokens: self.merge_tokens.address(device),
            merge_begin: self.merge_begin.address(device),
            merge_slots: self.merge_slots.address(device),
        }
    }

    /// The writes, their number in device memory, and the number there is room for.
    pub(super) fn writes(&self, device: &CudaDevice) -> (DeviceAddress, DeviceAddress, u32) {
        (self.writes.address(device), self.num_writes.address(device), self.bounds.tokens as u32)
    }
}
