//! Where the model runs.

use std::fmt;
use std::str::FromStr;

/// `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceArg {
    /// A CUDA device if this build, a driver and enough memory allow it, else the CPU.
    Auto,
    /// This machine's processor.
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
}

impl FromStr for DeviceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceArg, String> {
        let number = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|c| c.is_ascii_digit()));
        let device = match text {
            "auto" => Some(DeviceArg::Auto),
            "cpu" => Some(DeviceArg::Cpu),
            "cuda" => Some(DeviceArg::Cuda(0)),
            _ => text.strip_prefix("cuda:").and_then(number).map(DeviceArg::Cuda),
        };
        device.ok_or_else(|| "write auto, cpu or cuda:N, for example cuda:0".to_owned())
    }
}

impl fmt::Display for DeviceArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceArg::Auto => f.write_str("auto"),
            DeviceArg::Cpu => f.write_str("cpu"),
            DeviceArg::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// Part of a device's memory, above 0 and at most 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct MemoryFraction(pub(crate) f32);

impl FromStr for MemoryFraction {
    type Err = String;

    fn from_str(text: &str) -> Result<MemoryFraction, String> {
        let fraction = text.trim().parse::<f32>().ok().filter(|value| *value > 0.0 && *value <= 1.0);
        fraction
            .map(MemoryFraction)
            .ok_or_else(|| "write a number above 0 and at most 1, for example 0.9".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for text in ["auto", "cpu", "cuda:0", "cuda:11"] {
            assert_eq!(text.parse::<DeviceArg>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceArg::Cuda(0)));
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:+1", "cuda0", "CPU"] {
            assert!(text.parse::<DeviceArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_fraction_is_above_zero_and_at_most_one() {
        assert_eq!("0.9".parse(), Ok(MemoryFraction(0.9)));
        assert_eq!("1".parse(), Ok(MemoryFraction(1.0)));
        for text in ["0", "-0.5", "1.01", "90%", "nan", "inf", ""] {
            assert!(text.parse::<MemoryFraction>().is_err(), "{text}");
        }
    }
}
