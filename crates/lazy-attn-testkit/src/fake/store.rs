//! The fake KV store: per slot, the token and what it had seen.

use lazy_attn_types::{BlockId, BlockSize, ExecError, Reencoding, SegmentView, StepInput, StoredKeys};

/// One written slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The token.
    pub token: u32,
    /// Its index in the segment it was written for.
    pub local: u32,
    /// By how many positions its key is rotated.
    pub rotation: i64,
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
        let wanted = rotation(input, view, local);
        match self.slots[slot] {
            Some(entry) if entry.local == local && entry.rotation == wanted => Ok(entry),
            Some(entry) if entry.local == local => Err(ExecError::InvalidStep(format!(
                "token {local} of segment {handle} is read as rotated by {wanted}, but its key is rotated by {}",
                entry.rotation
            ))),
            Some(entry) => Err(ExecError::InvalidStep(format!(
                "token {local} of segment {handle} was read from slot {slot}, which holds token {} of another one",
                entry.local
            ))),
            None => Err(ExecError::InvalidStep(format!(
                "token {local} of segment {handle} was read from slot {slot}, which was never written"
            ))),
        }
    }

    /// Slots that `reencoding` reads and writes, token by token.
    pub(super) fn reencoded_slots(&self, input: &StepInput, reencoding: &Reencoding) -> Vec<(usize, usize)> {
        let (from, to) = input.blocks_of_reencoding(reencoding, self.block_size);
        let slot = |blocks: &[BlockId], local| {
            let (entry, slot) = self.block_size.locate(local);
            (blocks[entry as usize].0 * self.block_size.get() + slot) as usize
        };
        (0..reencoding.num_tokens).map(|local| (slot(from, local), slot(to, local))).collect()
    }

    /// Copies what `reencoding` reads to what it writes, rotated.
    ///
    /// # Errors
    /// [`ExecError::InvalidStep`] if a token was never written.
    pub(super) fn reencode(&mut self, input: &StepInput, reencoding: &Reencoding) -> Result<(), ExecError> {
        for (local, (from, to)) in (0..).zip(self.reencoded_slots(input, reencoding)) {
            let Some(entry) = self.slots[from].filter(|entry| entry.local == local) else {
                let (handle, slot) = (reencoding.from.0, from);
                return Err(ExecError::InvalidStep(format!(
                    "token {local} of segment {handle} is re-encoded from slot {slot}, which does not hold it"
                )));
            };
            let rotation = entry.rotation + i64::from(reencoding.distance);
            self.slots[to] = Some(Entry { rotation, ..entry });
        }
        Ok(())
    }
}

/// By how many positions the key of token `local` of `view` is rotated where it is stored.
pub(super) fn rotation(input: &StepInput, view: &SegmentView, local: u32) -> i64 {
    match input.stored_keys {
        StoredKeys::Rotated => i64::from(view.start.0) + i64::from(local) - i64::from(view.origin.0),
        StoredKeys::Raw => 0,
    }
}
