//! One input under its bounds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::Target;
use crate::alloc::peak_of;

/// A slow input is tried again: on a busy machine any input is slow once.
const NUM_TRIES: u32 = 3;

/// What is wrong with a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Finding {
    /// It panicked.
    #[error("panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// It held too much memory.
    #[error("held {bytes} bytes at once for an input of {input_bytes}; the bound is {max_bytes}")]
    TooMuchMemory {
        /// Bytes of the input.
        input_bytes: usize,
        /// Most bytes held at once.
        bytes: usize,
        /// The bound.
        max_bytes: usize,
    },
    /// It took too long, every time.
    #[error("took {time:?} for an input of {input_bytes} bytes; the bound is {max_time:?}")]
    TooSlow {
        /// Bytes of the input.
        input_bytes: usize,
        /// The shortest of the tries.
        time: Duration,
        /// The bound.
        max_time: Duration,
    },
}

/// Runs `target` on `input` and returns what came of it, in words.
///
/// # Errors
/// [`Finding`] if it panicked or broke a bound.
pub fn try_input(target: &Target, input: &[u8]) -> Result<String, Finding> {
    let max_time = target.bounds.time;
    let mut fastest = Duration::MAX;
    for _ in 0..NUM_TRIES {
        let begin = Instant::now();
        let outcome = try_once(target, input)?;
        fastest = fastest.min(begin.elapsed());
        if fastest <= max_time {
            return Ok(outcome);
        }
    }
    Err(Finding::TooSlow { input_bytes: input.len(), time: fastest, max_time })
}

fn try_once(target: &Target, input: &[u8]) -> Result<String, Finding> {
    let (result, bytes) = peak_of(|| catch_unwind(AssertUnwindSafe(|| (target.run)(input))));
    let outcome = result.map_err(|panic| {
        let message = panic.downcast_ref::<String>().cloned();
        let message = message.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        Finding::Panicked { message: message.unwrap_or_default() }
    })?;
    let max_bytes = target.bounds.bytes + target.bounds.bytes_per_input_byte * input.len();
    if bytes > max_bytes {
        return Err(Finding::TooMuchMemory { input_bytes: input.len(), bytes, max_bytes });
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bounds;

    fn target(run: fn(&[u8]) -> String) -> Target {
        let bounds = Bounds { bytes: 1000, bytes_per_input_byte: 2, time: Duration::from_millis(20) };
        Target { name: "own", run, seeds: Vec::new, words: &[], bounds, num_short: 0 }
    }

    #[test]
    fn a_panic_too_much_memory_and_too_much_time_are_each_found() {
        let harmless = target(|input| format!("{} bytes", input.len()));
        assert_eq!(try_input(&harmless, b"abc"), Ok("3 bytes".into()));
        let panics = target(|input| format!("{}", input[3]));
        assert!(matches!(try_input(&panics, b"abc"), Err(Finding::Panicked { .. })));
        let hoards = target(|input| format!("{}", std::hint::black_box(vec![0u8; 4 * input.len()]).len()));
        assert_eq!(try_input(&hoards, b"ab"), Ok("8".into()));
        let error = try_input(&hoards, &[0; 1000]).unwrap_err();
        assert!(matches!(error, Finding::TooMuchMemory { bytes: 4000.., max_bytes: 3000, .. }), "{error}");
        let waits = target(|_| {
            std::thread::sleep(Duration::from_millis(25));
            String::new()
        });
        assert!(matches!(try_input(&waits, b""), Err(Finding::TooSlow { .. })));
    }
}
