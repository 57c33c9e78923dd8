//! Packs what a machine with a GPU but without Rust needs: tests, benches, kernels and a script that runs them.

use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use crate::kernels::{self, Fetch, IMAGE, SANITIZER_IMAGE};
use crate::shell;

/// Where the bundle is put, relative to the root.
const FOLDER: &str = "target/gpu-bundle";

/// Features that the programs are built with.
const FEATURES: &str = "lazy-attn/cuda-device,lazy-attn-models/cuda-device,lazy-attn-cli/cuda";

/// A program of the bundle and the cargo target that it is.
struct Program {
    name: &'static str,
    package: &'static str,
    kind: &'static str,
    target: &'static str,
}

const fn program(name: &'static str, [package, kind, target]: [&'static str; 3]) -> Program {
    Program { name, package, kind, target }
}

/// Right or wrong: with the checks of a debug build.
const TESTS: [Program; 2] = [
    program("tests", ["lazy-attn", "test", "cuda"]),
    program("tests_models", ["lazy-attn-models", "test", "cuda"]),
];

/// What is timed.
const BENCHES: [Program; 5] = [
    program("bench", ["lazy-attn", "bench", "cuda"]),
    program("bench_copies", ["lazy-attn", "bench", "cuda_copies"]),
    program("bench_reuse", ["lazy-attn", "bench", "cuda_reuse"]),
    program("bench_models", ["lazy-attn-models", "bench", "cuda"]),
    program("bench_load", ["lazy-attn-models", "bench", "cuda_load"]),
];

/// The command with CUDA; without the embedded model, whose file lies in the repository that the bundle is used with.
const COMMAND: Program = program("lazyattn", ["lazy-attn-cli", "bin", "lazyattn"]);

/// What runs them; its first lines say how.
const SCRIPT: &str = include_str!("gpu_bundle.sh");

#[derive(Args)]
pub(crate) struct BundleArguments {
    /// Fetches nvcc into `target/` if none is found.
    #[arg(long)]
    install: bool,
    /// Packs the command `lazyattn` with CUDA too, without an embedded model; it finds the kernels beside it.
    #[arg(long)]
    with_cli: bool,
    /// Builds everything with the `dev` profile, whose arithmetic is optimised, and kernels for this compute capability only,
    /// such as 90a: minutes instead of a release build
    #[arg(long, value_name = "ARCHITECTURE")]
    quick: Option<String>,
}

pub(crate) fn run(root: &Path, arguments: &BundleArguments) -> Result<()> {
    let fetch = if arguments.install { Fetch::IfMissing } else { Fetch::Never };
    let folder = root.join(FOLDER);
    std::fs::create_dir_all(&folder)?;
    let timed = BENCHES.iter().chain(arguments.with_cli.then_some(&COMMAND));
    if let Some(architecture) = &arguments.quick {
        kernels::build_image_for(root, fetch, architecture)?;
        pack(root, "dev", &TESTS.iter().chain(timed).collect::<Vec<_>>())?;
    } else {
        println!("{}", kernels::build_image(root, fetch)?);
        pack(root, "dev", &TESTS.iter().collect::<Vec<_>>())?;
        pack(root, "release", &timed.collect::<Vec<_>>())?;
    }
    std::fs::copy(root.join(IMAGE), folder.join("lazy_kernels.fatbin"))?;
    kernels::build_sanitizer_image(root, fetch)?;
    std::fs::copy(root.join(SANITIZER_IMAGE), folder.join("lazy_kernels.sanitizer.fatbin"))?;
    std::fs::write(folder.join("run.sh"), SCRIPT)?;
    println!("{}: run it with `bash run.sh`", folder.display());
    Ok(())
}

/// Builds `programs` at once, so that what they share is built once, and puts them into the bundle.
fn pack(root: &Path, profile: &str, programs: &[&Program]) -> Result<()> {
    let mut command = shell::cargo(root);
    command.args([
        "build",
        "--workspace",
        "--profile",
        profile,
        "--no-default-features",
        "--features",
        FEATURES,
    ]);
    command.args(["--message-format", "json-render-diagnostics"]);
    for program in programs {
        command.arg(format!("--{}", program.kind)).arg(program.target);
    }
    let said = shell::read(&mut command)?;
    let messages: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for program in programs {
        let built = messages.iter().filter(|message| program.is_told_of(message));
        let executable = built.filter_map(|message| message["executable"].as_str()).next_back();
        let executable =
            executable.with_context(|| format!("cargo built no executable for {}", program.name))?;
        let mut strip = shell::tool(root, "strip");
        shell::run(strip.arg("-o").arg(root.join(FOLDER).join(program.name)).arg(executable))?;
    }
    Ok(())
}

impl Program {
    fn is_told_of(&self, message: &Value) -> bool {
        let manifest = format!("/{}/Cargo.toml", self.package);
        message["target"]["name"] == self.target
            && message["target"]["kind"][0] == self.kind
            && message["manifest_path"].as_str().is_some_and(|path| path.ends_with(&manifest))
    }
}
