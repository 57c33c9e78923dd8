//! What a person sees: `out` the answer on stdout, `progress` bars, `table` columns, `paint` colours.

mod out;
mod paint;
mod progress;
mod table;

pub(crate) use out::{Out, print_json};
pub(crate) use paint::Paint;
pub(crate) use progress::{CountProgress, EncodeProgress, LoadProgress, Verbosity};
pub(crate) use table::Table;

use std::time::Duration;

/// A duration as a person reads it.
pub(crate) fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1e3;
    match millis {
        ..10.0 => format!("{millis:.1} ms"),
        10.0..10_000.0 => format!("{millis:.0} ms"),
        _ => format!("{:.1} s", millis / 1e3),
    }
}

/// A number of bytes as a person reads it.
pub(crate) fn bytes(num_bytes: u64) -> String {
    let (unit, size) = match num_bytes {
        0..0x400 => return format!("{num_bytes} B"),
        0x400..0x10_0000 => ("KiB", 10),
        0x10_0000..0x4000_0000 => ("MiB", 20),
        _ => ("GiB", 30),
    };
    format!("{:.1} {unit}", num_bytes as f64 / f64::from(1u32 << size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let times = [(900, "0.9 ms"), (12_345, "12 ms"), (12_345_678, "12.3 s")];
        for (micros, text) in times {
            assert_eq!(millis(Duration::from_micros(micros)), text);
        }
        for (n, text) in [(5, "5 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (5 << 30, "5.0 GiB")] {
            assert_eq!(bytes(n), text);
        }
    }
}
