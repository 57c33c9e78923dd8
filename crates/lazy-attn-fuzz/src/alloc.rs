//! How much memory a piece of work holds at once, counted per thread by the allocator of every program with this crate.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes this thread took minus those it gave back; below 0 if it frees what others took.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The system's allocator with a count.
struct Counting;

fn note(change: isize) {
    // A thread that is ending has no count any more.
    let _ = LIVE.try_with(|live| {
        let now = live.get() + change;
        live.set(now);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now)));
    });
}

fn size(layout: Layout) -> isize {
    // A layout never exceeds `isize::MAX`.
    layout.size() as isize
}

// SAFETY: every call is passed on to the system's allocator unchanged; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(size(layout));
        // SAFETY: the caller's promises about `layout` are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(size(layout));
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note(-size(layout));
        // SAFETY: `block` came from this allocator, hence from the system's, with the same `layout`.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // The caller promises that `new_size` fits into an `isize`.
        note(new_size as isize - size(layout));
        // SAFETY: `block` came from the system's allocator with `layout`, and the caller vouches for `new_size`.
        unsafe { System.realloc(block, layout, new_size) }
    }
}

/// Runs `work` and returns its result with the most bytes it held at once.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let result = work();
    (result, usize::try_from(PEAK.get() - before).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_at_once_counts_and_what_was_given_back_does_not() {
        let (_, peak) = peak_of(|| {
            for _ in 0..10 {
                drop(std::hint::black_box(vec![0u8; 1 << 20]));
            }
        });
        assert!((1 << 20..1 << 21).contains(&peak), "{peak}");
        let (held, peak) = peak_of(|| std::hint::black_box(vec![vec![0u8; 1 << 20]; 3]));
        assert!(peak >= 3 << 20, "{peak} for {}", held.len());
    }
}
