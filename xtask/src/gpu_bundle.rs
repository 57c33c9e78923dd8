//! Packs what a machine with a GPU but without Rust needs: tests, benches, kernels and a script that runs them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use crate::kernels::{self, Fetch, IMAGE, SANITIZER_IMAGE};
use crate::shell;

/// Where the bundle is put, relative to the root.
const FOLDER: &str = "target/gpu-bundle";

/// Programs of the bundle: name, package, target.
const PROGRAMS: [(&str, &str, [&str; 3]); 6] = [
    ("tests", "lazy-attn", ["test", "--test", "cuda"]),
    ("bench", "lazy-attn", ["bench", "--bench", "cuda"]),
    ("bench_copies", "lazy-attn", ["bench", "--bench", "cuda_copies"]),
    ("bench_reuse", "lazy-attn", ["bench", "--bench", "cuda_reuse"]),
    ("tests_models", "lazy-attn-models", ["test", "--test", "cuda"]),
    ("bench_models", "lazy-attn-models", ["bench", "--bench", "cuda"]),
];

/// What the script runs; arguments select benches.
const SCRIPT: &str = r#"#!/usr/bin/env bash
# Runs the device tests, the sanitizer on a small one, and the bench. Arguments select benches by name.
set -uo pipefail
cd "$(dirname "$0")"
export LAZY_ATTN_KERNELS="$PWD/lazy_kernels.fatbin"
# Tests of models read files of their crate.
export CARGO_MANIFEST_DIR="${LAZY_ATTN_ROOT:-$PWD/../..}/crates/lazy-attn-models"
out="${OUT:-$PWD}"
status=0
nvidia-smi -L
timeout 200 ./tests --test-threads 8 2>&1 | tee "$out/tests.log" || status=1
timeout 100 ./tests_models --test-threads 2 2>&1 | tee "$out/tests_models.log" || status=1
if [ "$(uname -r)" = 4.4.0 ]; then
    echo "compute-sanitizer: not run, gVisor refuses it"
elif command -v compute-sanitizer >/dev/null; then
    # Its kernels are for one kind of device.
    watched="$LAZY_ATTN_KERNELS"
    nvidia-smi --query-gpu=compute_cap --format=csv,noheader | grep -q '^9\.0$' && watched="$PWD/lazy_kernels.sanitizer.fatbin"
    for tool in memcheck racecheck synccheck; do
        LAZY_ATTN_KERNELS="$watched" timeout 300 compute-sanitizer --tool "$tool" --error-exitcode 9 ./tests sanitizer 2>&1 | tee "$out/$tool.log" | tail -n 3 || status=1
    done
fi
timeout 60 ./bench_copies 2>&1 | tee "$out/bench_copies.log" || status=1
timeout 60 ./bench_reuse 2>&1 | tee "$out/bench_reuse.log" || status=1
timeout 100 ./bench_models 2>&1 | tee "$out/bench_models.log" || status=1
timeout 200 ./bench --bench --out "$out/bench.json" "$@" 2>&1 | tee "$out/bench.log" || status=1
exit "$status"
"#;

#[derive(Args)]
pub(crate) struct BundleArguments {
    /// Fetches nvcc into `target/` if none is found.
    #[arg(long)]
    install: bool,
    /// Packs the command `lazyattn` with CUDA and the embedded model too; it finds the kernels beside it.
    #[arg(long)]
    with_cli: bool,
}

pub(crate) fn run(root: &Path, arguments: &BundleArguments) -> Result<()> {
    let fetch = if arguments.install { Fetch::IfMissing } else { Fetch::Never };
    println!("{}", kernels::build_image(root, fetch)?);
    let folder = root.join(FOLDER);
    std::fs::create_dir_all(&folder)?;
    for (name, package, target) in PROGRAMS {
        strip(root, &build(root, package, &target)?, &folder.join(name))?;
    }
    std::fs::copy(root.join(IMAGE), folder.join("lazy_kernels.fatbin"))?;
    kernels::build_sanitizer_image(root, fetch)?;
    std::fs::copy(root.join(SANITIZER_IMAGE), folder.join("lazy_kernels.sanitizer.fatbin"))?;
    if arguments.with_cli {
        strip(root, &build_command(root)?, &folder.join("lazyattn"))?;
    }
    std::fs::write(folder.join("run.sh"), SCRIPT)?;
    println!("{}: run it with `bash run.sh`", folder.display());
    Ok(())
}

/// Builds a target of `package` without running it; the executable.
fn build(root: &Path, package: &str, target: &[&str]) -> Result<PathBuf> {
    let options = ["-p", package, "--features", "cuda-device", "--no-run"];
    executable(root, &[target, &options].concat(), target.last().copied().unwrap_or_default())
}

/// Builds `lazyattn` as it is released, with CUDA; the executable.
fn build_command(root: &Path) -> Result<PathBuf> {
    let options = ["build", "--release", "-p", "lazy-attn-cli", "--features", "cuda,embedded-model"];
    executable(root, &options, "lazyattn")
}

/// Runs cargo; the executable of the target `name`.
fn executable(root: &Path, arguments: &[&str], name: &str) -> Result<PathBuf> {
    let mut command = shell::cargo(root);
    command.args(arguments);
    let messages = shell::read(command.args(["--message-format", "json-render-diagnostics"]))?;
    let parsed = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let built = parsed.filter(|message| message["target"]["name"] == name);
    let mut executables = built.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    executables.next_back().with_context(|| format!("`cargo {}` built no executable", arguments.join(" ")))
}

fn strip(root: &Path, from: &Path, to: &Path) -> Result<()> {
    let mut command = shell::tool(root, "strip");
    shell::run(command.arg("-o").arg(to).arg(from))
}
