//! The CUDA devices of this machine, their driver and kernels, and whether the model fits.

use lazy_attn_models::{LoadOptions, ModelRef, load};
use lazy_attn_sys::{ImageCode, KernelImage};
use serde::Serialize;

use super::Report;
use crate::args::{DeviceArg, EngineArgs};
use crate::backend::{Fit, Found, Gpu, find, line, memory_fraction};
use crate::exit::Failure;
use crate::ui::bytes;

/// Where the driver's kernel module tells its version.
const DRIVER_VERSION: &str = "/proc/driver/nvidia/version";

/// A device for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GpuFigures {
    ordinal: usize,
    name: String,
    compute_capability: String,
    memory_bytes: u64,
    free_bytes: Option<u64>,
    /// Tokens whose keys and values fit beside the model's weights.
    kv_capacity_tokens: Option<u64>,
}

/// Adds what there is, also where there is nothing. Only a device that was asked for makes its absence a finding.
pub(super) fn check(report: &mut Report, engine: &EngineArgs) {
    let is_wanted = matches!(engine.device, DeviceArg::Cuda(_));
    let found = find();
    match &found {
        Found::NotCompiled => absent(report, is_wanted, "not compiled in; build with `--features cuda`"),
        Found::Nothing(why) => absent(report, is_wanted, why),
        Found::Devices(gpus) => gpus.iter().for_each(|gpu| report.ok("gpu", line(gpu))),
    }
    if let Some(version) = driver_version() {
        report.ok("gpu driver", version);
    }
    let gpus = if let Found::Devices(gpus) = found { gpus } else { Vec::new() };
    check_kernels(report, &gpus);
    // A model that cannot be opened is the finding of another check.
    if let Ok(fit) = fit(engine) {
        check_fit(report, &fit, &gpus, memory_fraction(engine));
    }
}

fn absent(report: &mut Report, is_wanted: bool, why: &str) {
    if is_wanted { report.failed("gpu", why) } else { report.ok("gpu", why) }
}

/// The version of the driver, of the first line that names the module: `... Kernel Module  580.65.06  ...`.
fn driver_version() -> Option<String> {
    let text = std::fs::read_to_string(DRIVER_VERSION).ok()?;
    Some(version_in(&text)?.to_owned())
}

fn version_in(text: &str) -> Option<&str> {
    let is_version =
        |word: &&str| word.contains('.') && word.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    text.lines().find(|line| line.contains("NVRM"))?.split_whitespace().find(is_version)
}

/// Without a device or without CUDA nobody misses the kernels.
fn check_kernels(report: &mut Report, gpus: &[Gpu]) {
    match KernelImage::find() {
        Ok(image) => {
            let codes: Vec<String> = image.codes().iter().map(ImageCode::to_string).collect();
            let codes =
                if codes.is_empty() { "an image of another kind".to_owned() } else { codes.join(", ") };
            report.ok("gpu kernels", format!("{} ({codes})", image.path.display()));
        }
        Err(error) if gpus.is_empty() => report.ok("gpu kernels", format!("not found, not needed ({error})")),
        Err(error) => report.failed("gpu kernels", error.to_string()),
    }
    for gpu in gpus {
        if let Err(why) = &gpu.kernels {
            report.failed("gpu kernels", format!("{}: {why}", gpu.label()));
        }
    }
}

fn fit(engine: &EngineArgs) -> Result<Fit, Failure> {
    let model = load(&engine.model.parse::<ModelRef>()?, &LoadOptions::default())?;
    Fit::of(&model.config, engine.device.num_devices(), engine.kv_dtype)
}

fn check_fit(report: &mut Report, fit: &Fit, gpus: &[Gpu], fraction: f32) {
    if gpus.is_empty() {
        report.ok("gpu fit", fit.detail());
    }
    for gpu in gpus {
        let free = gpu.free_bytes.as_ref().ok().copied();
        let num_tokens = gpu.room(fraction).ok().and_then(|room| fit.num_tokens(room));
        report.ok("gpu fit", room(fit, gpu, num_tokens));
        report.figures.gpus.push(GpuFigures {
            ordinal: gpu.ordinal,
            name: gpu.name.clone(),
            compute_capability: format!("{}.{}", gpu.compute_capability.0, gpu.compute_capability.1),
            memory_bytes: gpu.memory_bytes,
            free_bytes: free,
            kv_capacity_tokens: num_tokens,
        });
    }
}

fn room(fit: &Fit, gpu: &Gpu, num_tokens: Option<u64>) -> String {
    let (label, context) = (gpu.label(), fit.max_context_tokens);
    match num_tokens {
        Some(num_tokens) => format!(
            "{label}: {} of weights leave room for {num_tokens} tokens, {:.1} contexts of {context}",
            bytes(fit.weight_bytes),
            num_tokens as f64 / context as f64
        ),
        None => format!("{label}: the model does not fit; it {}", fit.detail()),
    }
}

#[cfg(test)]
mod tests {
    use lazy_attn_models::ModelConfig;

    use super::*;
    use crate::args::KvDtypeArg;

    #[test]
    fn the_drivers_version_is_read_from_its_module() {
        let text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (user@host)\n\
                    GCC version:  gcc version 13.2.0\n";
        assert_eq!(version_in(text), Some("580.65.06"));
        assert_eq!(version_in("GCC version 13.2.0"), None);
    }

    #[test]
    fn the_room_of_a_device_is_told_in_tokens_and_contexts() {
        let fit = Fit::of(&ModelConfig::named("llama-3.1-8b").unwrap(), 1, KvDtypeArg::Auto).unwrap();
        let gpu = |free_gib: u64| Gpu {
            ordinal: 0,
            name: "Test".into(),
            compute_capability: (9, 0),
            memory_bytes: 80 << 30,
            free_bytes: Ok(free_gib << 30),
            kernels: Ok(()),
        };
        let text = |gpu: Gpu| room(&fit, &gpu, fit.num_tokens(gpu.free_bytes.clone().unwrap()));
        // (48 - 1 - 14.96) GiB of 128 KiB each.
        assert_eq!(
            text(gpu(48)),
            "cuda:0 (Test): 15.0 GiB of weights leave room for 262491 tokens, 2.0 contexts of 131072"
        );
        assert!(text(gpu(15)).contains("does not fit; it needs 32.0 GiB"), "{}", text(gpu(15)));
    }
}
