//! Which device runs the model.

use crate::args::DeviceArg;
use crate::exit::{Exit, Failure};
use crate::ui::bytes;

/// Which CUDA devices this program can see.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "a build without CUDA finds nothing"))]
pub(crate) enum Found {
    /// None: it was built without them.
    NotCompiled,
    /// None, and why.
    Nothing(String),
    /// These, at least one.
    Devices(Vec<Gpu>),
}

/// A CUDA device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gpu {
    pub(crate) ordinal: usize,
    pub(crate) name: String,
    pub(crate) compute_capability: (i32, i32),
    pub(crate) memory_bytes: u64,
    /// Memory nobody uses, or why the device does not tell.
    pub(crate) free_bytes: Result<u64, String>,
    /// Why the kernels do not run on it.
    pub(crate) kernels: Result<(), String>,
}

/// What a model needs of a device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Needs {
    pub(crate) bytes: u64,
    /// Part of a device's memory that may be taken, by everybody together.
    pub(crate) fraction: f32,
    /// Why it can run on the CPU only.
    pub(crate) only_cpu: Option<String>,
}

/// What runs the model, and in one line why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The CUDA devices, or none for the CPU.
    pub(crate) cuda: Vec<usize>,
    /// Nothing if there was no choice.
    pub(crate) why: Option<String>,
}

impl Gpu {
    /// For people: `cuda:0 (NVIDIA H100)`.
    pub(crate) fn label(&self) -> String {
        format!("cuda:{} ({})", self.ordinal, self.name)
    }

    /// Memory that may still be taken, if a part of all of it may be, or why the device does not tell.
    pub(crate) fn room(&self, fraction: f32) -> Result<u64, &str> {
        let kept = (self.memory_bytes as f64 * (1.0 - f64::from(fraction))) as u64;
        self.free_bytes.as_ref().map(|free| free.saturating_sub(kept)).map_err(String::as_str)
    }

    /// Why a model cannot run on it.
    fn objection(&self, needs: &Needs) -> Option<String> {
        let label = self.label();
        if let Err(why) = &self.kernels {
            return Some(format!("{label}: {why}"));
        }
        match self.room(needs.fraction) {
            Err(why) => Some(format!("{label} gives no memory: {why}")),
            Ok(room) if room < needs.bytes => Some(format!(
                "{label} has {} free, if {:.0} % of its memory may be used, but the model needs {}",
                bytes(room),
                100.0 * needs.fraction,
                bytes(needs.bytes)
            )),
            Ok(_) => None,
        }
    }
}

/// Chooses among what `find` finds.
///
/// # Errors
/// Usage, if a device was named that is not there; [`Exit::TooLarge`] if it has no room; [`Exit::Model`] if its kernels are
/// missing.
pub(crate) fn choose(
    device: &DeviceArg,
    needs: &Needs,
    find: impl FnOnce() -> Found,
) -> Result<Choice, Failure> {
    match device {
        DeviceArg::Cpu => Ok(Choice { cuda: Vec::new(), why: None }),
        DeviceArg::Auto => Ok(best(needs, find())),
        DeviceArg::Cuda(ordinals) => named(ordinals, needs, find()),
    }
}

/// The device with most free memory of those that can run the model.
fn best(needs: &Needs, found: Found) -> Choice {
    let cpu = |why: String| Choice { cuda: Vec::new(), why: Some(format!("device: CPU, because {why}")) };
    let gpus = match found {
        Found::NotCompiled => return Choice { cuda: Vec::new(), why: None },
        Found::Nothing(why) => return cpu(why),
        Found::Devices(gpus) => gpus,
    };
    if let Some(why) = &needs.only_cpu {
        return cpu(why.clone());
    }
    let able = gpus.iter().filter(|gpu| gpu.objection(needs).is_none());
    // The first of equals.
    let best = able.rev().max_by_key(|gpu| gpu.free_bytes.clone().unwrap_or(0));
    match best {
        Some(gpu) => Choice { cuda: vec![gpu.ordinal], why: Some(format!("device: {}", line(gpu))) },
        None => {
            let objections: Vec<_> = gpus.iter().filter_map(|gpu| gpu.objection(needs)).collect();
            cpu(objections.join("; "))
        }
    }
}

fn named(ordinals: &[usize], needs: &Needs, found: Found) -> Result<Choice, Failure> {
    let wanted = DeviceArg::Cuda(ordinals.to_vec());
    let refused = |why: String| Failure::usage(format!("--device {wanted}: {why}"));
    let gpus = match found {
        Found::NotCompiled => {
            return Err(refused(
                "this build has no CUDA; build it with `--features cuda`, or use cpu".into(),
            ));
        }
        Found::Nothing(why) => return Err(refused(why)),
        Found::Devices(gpus) => gpus,
    };
    if let Some(why) = &needs.only_cpu {
        return Err(refused(why.clone()));
    }
    let mut lines = Vec::new();
    for &ordinal in ordinals {
        let Some(gpu) = gpus.iter().find(|gpu| gpu.ordinal == ordinal) else {
            let there: Vec<_> = gpus.iter().map(Gpu::label).collect();
            return Err(refused(format!("there is no cuda:{ordinal}; there is {}", there.join(", "))));
        };
        if let Some(why) = gpu.objection(needs) {
            let exit = if gpu.kernels.is_ok() { Exit::TooLarge } else { Exit::Model };
            return Err(Failure::new(exit, format!("--device {wanted}: {why}")));
        }
        lines.push(line(gpu));
    }
    Ok(Choice { cuda: ordinals.to_vec(), why: Some(format!("device: {}", lines.join("; "))) })
}

/// A device with its memory.
pub(crate) fn line(gpu: &Gpu) -> String {
    let free = match &gpu.free_bytes {
        Ok(free) => format!("{} of {} free", bytes(*free), bytes(gpu.memory_bytes)),
        Err(_) => bytes(gpu.memory_bytes),
    };
    let (major, minor) = gpu.compute_capability;
    format!("{}, compute capability {major}.{minor}, {free}", gpu.label())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(ordinal: usize, free_gib: u64) -> Gpu {
        Gpu {
            ordinal,
            name: "Test".into(),
            compute_capability: (9, 0),
            memory_bytes: 80 << 30,
            free_bytes: Ok(free_gib << 30),
            kernels: Ok(()),
        }
    }

    fn needs(gib: u64) -> Needs {
        Needs { bytes: gib << 30, fraction: 1.0, only_cpu: None }
    }

    fn auto(needs: &Needs, found: Found) -> (Vec<usize>, String) {
        let choice = choose(&DeviceArg::Auto, needs, || found).unwrap();
        (choice.cuda, choice.why.unwrap_or_default())
    }

    #[test]
    fn auto_takes_the_device_with_most_free_memory_and_the_first_of_equals() {
        let devices = Found::Devices(vec![gpu(0, 10), gpu(1, 70), gpu(2, 70)]);
        let (cuda, why) = auto(&needs(17), devices);
        assert_eq!(cuda, [1]);
        assert_eq!(why, "device: cuda:1 (Test), compute capability 9.0, 70.0 GiB of 80.0 GiB free");
    }

    #[test]
    fn auto_falls_back_to_the_cpu_and_says_why() {
        let broken = Gpu { kernels: Err("no kernel image".into()), ..gpu(1, 70) };
        let mute = Gpu { free_bytes: Err("out of memory".into()), ..gpu(2, 0) };
        let only_cpu = Needs { only_cpu: Some("q8_0 weights".into()), ..needs(1) };
        let cases = [
            (needs(17), Found::NotCompiled, ""),
            (needs(17), Found::Nothing("no driver".into()), "device: CPU, because no driver"),
            (
                needs(17),
                Found::Devices(vec![gpu(0, 3)]),
                "3.0 GiB free, if 100 % of its memory may be used, but the model needs 17.0 GiB",
            ),
            (needs(17), Found::Devices(vec![broken]), "no kernel image"),
            (needs(17), Found::Devices(vec![mute]), "out of memory"),
            (only_cpu, Found::Devices(vec![gpu(0, 70)]), "q8_0 weights"),
        ];
        for (needs, found, expected) in cases {
            let (cuda, why) = auto(&needs, found.clone());
            assert!(cuda.is_empty(), "{found:?}");
            assert!(why.contains(expected) && why.is_empty() == expected.is_empty(), "{why}");
        }
    }

    #[test]
    fn a_device_that_was_named_is_taken_or_refused_with_the_reason() {
        for ordinals in [vec![1], vec![1, 0]] {
            let device = DeviceArg::Cuda(ordinals.clone());
            let choice = choose(&device, &needs(17), || Found::Devices(vec![gpu(0, 70), gpu(1, 20)]));
            assert_eq!(choice.unwrap().cuda, ordinals);
        }
        let broken = Gpu { kernels: Err("no kernel image".into()), ..gpu(3, 70) };
        let cases = [
            (Found::NotCompiled, Exit::Usage, "--features cuda"),
            (Found::Nothing("no driver".into()), Exit::Usage, "--device cuda:3: no driver"),
            (Found::Devices(vec![gpu(0, 70)]), Exit::Usage, "there is no cuda:3; there is cuda:0 (Test)"),
            (
                Found::Devices(vec![gpu(3, 5)]),
                Exit::TooLarge,
                "5.0 GiB free, if 100 % of its memory may be used, but the model needs 17.0 GiB",
            ),
            (Found::Devices(vec![broken]), Exit::Model, "no kernel image"),
        ];
        for (found, exit, expected) in cases {
            let failure = choose(&DeviceArg::Cuda(vec![3]), &needs(17), || found).unwrap_err();
            assert_eq!(failure.exit, exit);
            assert!(failure.line().unwrap().contains(expected), "{:?}", failure.line());
        }
    }

    #[test]
    fn a_fraction_of_the_memory_keeps_the_rest_free_whoever_uses_it() {
        let half = Needs { fraction: 0.5, ..needs(17) };
        let take = |free| choose(&DeviceArg::Cuda(vec![0]), &half, || Found::Devices(vec![gpu(0, free)]));
        assert_eq!(take(58).unwrap().cuda, [0]);
        let line = take(56).unwrap_err().line().unwrap();
        assert!(line.contains("16.0 GiB free, if 50 % of its memory may be used"), "{line}");
    }

    #[test]
    fn the_cpu_is_taken_without_a_look_for_devices() {
        let choice = choose(&DeviceArg::Cpu, &needs(1), || panic!("nobody asked"));
        assert_eq!(choice.unwrap(), Choice { cuda: Vec::new(), why: None });
    }
}
