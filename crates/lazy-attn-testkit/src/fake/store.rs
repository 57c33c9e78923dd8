//! The fake KV store: per slot, the token and what it had seen.

use lazy_attn_types::{BlockId, BlockSize, ExecError, SegmentView, StepInput};

/// One written slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The token.
    pub token: u32,
    /// Its index in the segment it was written for.
    pub local: u32,
    /// Hash of everything it saw; zero until layer two is written.
    pub state: u64,
}

/// All slots of all blocks.
#[derive(Debug, Clone)]
pub struct Store {
    block_size: BlockSize,
    slots: Vec<Option<Entry>>,
}

impl Store {
    pub(super) fn new(num_blocks: u32, block_size: BlockSize) -> Store {
        Store { block_size, slots: vec![None; (num_blocks * block_size.get()) as usize] }
    }

    /// Index of the slot of `local` in the segment `view`.
    pub(super) fn slot(&self, input: &StepInput, view: &SegmentView, local: u32) -> usize {
        let (entry, slot) = self.block_size.locate(local);
        let BlockId(block) = input.blocks_of(view)[entry as usize];
        (block * self.block_size.get() + slot) as usize
    }

    /// The slots of a block.
    pub(super) fn block(&self, block: BlockId) -> &[Option<Entry>] {
        let size = self.block_size.get() as usize;
        &self.slots[block.0 as usize * size..][..size]
    }

    pub(super) fn write(&mut self, slot: usize, entry: Option<Entry>) {
        self.slots[slot] = entry;
    }

    pub(super) fn set_state(&mut self, slot: usize, state: u64) {
        if let Some(entry) = &mut self.slots[slot] {
            entry.state = state;
        }
    }

    /// The entry of `local` in `view`.
    ///
    /// # Errors
    /// [`ExecError::InvalidStep`] if nothing was written there, or something was written for another local index.
    pub(super) fn read(&self, input: &StepInput, view: &SegmentView, local: u32) -> Result<Entry, ExecError> {
        let slot = self.slot(input, view, local);
        let handle = view.handle.0;
        match self.slots[slot] {
            Some(entry) if entry.local == local => Ok(entry),
            Some(entry) => Err(ExecError::InvalidStep(format!(
                "token {local} of segment {handle} was read from slot {slot}, which holds token {} of another one",
                entry.local
            ))),
            None => Err(ExecError::InvalidStep(format!(
                "token {local} of segment {handle} was read from slot {slot}, which was never written"
            ))),
        }
    }
}
