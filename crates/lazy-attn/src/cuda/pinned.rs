//! Copies to and from a device that nobody waits for. Pinned memory is read and written by the device at its own time, so each
//! piece carries an event, and is used again only when that has come.
#![allow(unsafe_code)]

use cudarc::driver::{CudaEvent, CudaView, DevicePtrMut, DeviceRepr, PinnedHostSlice, ValidAsZeroBits};

use super::attention::{CudaDevice, device_error};
use crate::error::AttnError;

/// Pieces of pinned memory used in turn: one is written while the device reads the others.
#[derive(Debug)]
pub struct PinnedRing<T> {
    pieces: Vec<Piece<T>>,
    next: usize,
}

#[derive(Debug)]
struct Piece<T> {
    memory: PinnedHostSlice<T>,
    /// Comes when the device has read the memory.
    read: CudaEvent,
}

impl<T> Drop for Piece<T> {
    fn drop(&mut self) {
        // A copy under way must end before its source is freed; a device that fails has no copy under way.
        let _ = self.read.synchronize();
    }
}

impl<T: DeviceRepr + ValidAsZeroBits + Copy + Default> PinnedRing<T> {
    /// `num_pieces` pieces of `capacity` elements each.
    ///
    /// # Errors
    /// [`AttnError::Device`] if the system has no memory to pin.
    pub fn new(device: &CudaDevice, num_pieces: usize, capacity: usize) -> Result<PinnedRing<T>, AttnError> {
        let context = device.stream().context();
        let piece = |_| {
            // SAFETY: every element is written on the next lines, before anything reads it, and any bits are a `T`.
            let mut memory = unsafe { context.alloc_pinned_with_flags::<T>(capacity.max(1), 0) }
                .map_err(device_error("pinning host memory"))?;
            memory.as_mut_slice().map_err(device_error("pinning host memory"))?.fill(T::default());
            let read = context.new_event(None).map_err(device_error("making an event"))?;
            Ok(Piece { memory, read })
        };
        Ok(PinnedRing { pieces: (0..num_pieces.max(1)).map(piece).collect::<Result<_, _>>()?, next: 0 })
    }

    /// Elements of a piece.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.pieces.first().map_or(0, |piece| piece.memory.len())
    }

    /// Lets `fill` write `len` elements, and copies them to `target` in stream order. Waits only if every piece is still
    /// being read.
    ///
    /// # Errors
    /// That of `fill`; [`AttnError::Mismatch`] or [`AttnError::Unsupported`] if `target` or a piece is shorter,
    /// [`AttnError::Device`] if the copy fails.
    pub fn send<E: From<AttnError>>(
        &mut self,
        device: &CudaDevice,
        len: usize,
        target: &mut impl DevicePtrMut<T>,
        fill: impl FnOnce(&mut [T]) -> Result<(), E>,
    ) -> Result<(), E> {
        if len > self.capacity().min(target.len()) {
            let rule = "a piece of pinned memory, or its target, holds fewer";
            return Err(AttnError::Unsupported { what: "elements of a copy", value: len as u64, rule }.into());
        }
        let at = self.next;
        self.next = (at + 1) % self.pieces.len();
        let piece = &mut self.pieces[at];
        piece.read.synchronize().map_err(device_error("waiting for a copy"))?;
        let memory = piece.memory.as_mut_slice().map_err(device_error("writing pinned memory"))?;
        fill(&mut memory[..len])?;
        if len == 0 {
            return Ok(());
        }
        let stream = device.stream();
        stream.memcpy_htod(&memory[..len], target).map_err(device_error("copying to the device"))?;
        piece.read.record(stream).map_err(device_error("recording an event"))?;
        Ok(())
    }
}

/// Pinned memory that a device writes at its own time.
#[derive(Debug)]
pub struct PinnedReader<T> {
    memory: PinnedHostSlice<T>,
    /// Comes when the device has written the memory.
    written: CudaEvent,
    /// Elements of the copy that was started last.
    len: usize,
}

impl<T> Drop for PinnedReader<T> {
    fn drop(&mut self) {
        // As for the pieces of a ring.
        let _ = self.written.synchronize();
    }
}

impl<T: DeviceRepr + ValidAsZeroBits + Copy + Default> PinnedReader<T> {
    /// Room for `capacity` elements.
    ///
    /// # Errors
    /// [`AttnError::Device`] if the system has no memory to pin.
    pub fn new(device: &CudaDevice, capacity: usize) -> Result<PinnedReader<T>, AttnError> {
        let context = device.stream().context();
        // SAFETY: every element is written on the next lines, before anything reads it, and any bits are a `T`.
        let mut memory = unsafe { context.alloc_pinned_with_flags::<T>(capacity.max(1), 0) }
            .map_err(device_error("pinning host memory"))?;
        memory.as_mut_slice().map_err(device_error("pinning host memory"))?.fill(T::default());
        let written = context.new_event(None).map_err(device_error("making an event"))?;
        Ok(PinnedReader { memory, written, len: 0 })
    }

    /// Elements there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// Copies all of `sources`, one behind the other, in stream order, without waiting.
    ///
    /// # Errors
    /// [`AttnError::Unsupported`] if they are too long, [`AttnError::Device`] if a copy fails.
    pub fn start(&mut self, device: &CudaDevice, sources: &[CudaView<'_, T>]) -> Result<(), AttnError> {
        let len = sources.iter().map(CudaView::len).sum();
        if len > self.capacity() {
            let rule = "the pinned memory holds fewer";
            return Err(AttnError::Unsupported { what: "elements of a copy", value: len as u64, rule });
        }
        self.written.synchronize().map_err(device_error("waiting for a copy"))?;
        self.len = len;
        let stream = device.stream();
        let mut rest = self.memory.as_mut_slice().map_err(device_error("reading pinned memory"))?;
        for source in sources {
            let (target, behind) = rest.split_at_mut(source.len());
            stream.memcpy_dtoh(source, target).map_err(device_error("copying from the device"))?;
            rest = behind;
        }
        self.written.record(stream).map_err(device_error("recording an event"))
    }

    /// Waits for the copy that was started last, and returns its elements.
    ///
    /// # Errors
    /// [`AttnError::Device`] if anything before it in its stream failed.
    pub fn wait(&self) -> Result<&[T], AttnError> {
        self.written.synchronize().map_err(device_error("waiting for the device"))?;
        let memory = self.memory.as_slice().map_err(device_error("reading pinned memory"))?;
        Ok(&memory[..self.len])
    }
}
