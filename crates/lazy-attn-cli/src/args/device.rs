//! Where the model runs.

use std::fmt;
use std::str::FromStr;

/// `--device`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DeviceArg {
    /// A CUDA device if this build, a driver and enough memory allow it, else the CPU.
    Auto,
    /// This machine's processor.
    Cpu,
    /// The CUDA devices of these numbers: at least one, each once.
    Cuda(Vec<usize>),
}

impl DeviceArg {
    /// Devices that share the model.
    pub(crate) fn num_devices(&self) -> usize {
        match self {
            DeviceArg::Auto | DeviceArg::Cpu => 1,
            DeviceArg::Cuda(ordinals) => ordinals.len(),
        }
    }
}

impl FromStr for DeviceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceArg, String> {
        let device = match text {
            "auto" => Some(DeviceArg::Auto),
            "cpu" => Some(DeviceArg::Cpu),
            "cuda" => Some(DeviceArg::Cuda(vec![0])),
            _ => text.strip_prefix("cuda:").and_then(ordinals).map(DeviceArg::Cuda),
        };
        device.ok_or_else(|| "write auto, cpu or cuda:N, for example cuda:0, or cuda:0,1 to share".to_owned())
    }
}

impl fmt::Display for DeviceArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceArg::Auto => f.write_str("auto"),
            DeviceArg::Cpu => f.write_str("cpu"),
            DeviceArg::Cuda(ordinals) => {
                let numbers: Vec<String> = ordinals.iter().map(usize::to_string).collect();
                write!(f, "cuda:{}", numbers.join(","))
            }
        }
    }
}

/// Different numbers with commas between.
fn ordinals(text: &str) -> Option<Vec<usize>> {
    let number = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|c| c.is_ascii_digit()));
    let numbers: Vec<usize> = text.split(',').map(number).collect::<Option<_>>()?;
    let is_distinct = numbers.iter().enumerate().all(|(at, number)| !numbers[..at].contains(number));
    is_distinct.then_some(numbers)
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
        for text in ["auto", "cpu", "cuda:0", "cuda:11", "cuda:2,0,1"] {
            assert_eq!(text.parse::<DeviceArg>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceArg::Cuda(vec![0])));
        for text in
            ["", "gpu", "cuda:", "cuda:x", "cuda:+1", "cuda0", "CPU", "cuda:0,", "cuda:0,0", "cuda:0, 1"]
        {
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
