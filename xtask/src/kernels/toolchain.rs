//! The CUDA compiler: from the environment, the path, or fetched as Python wheels.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Fetch;
use crate::shell;

/// The compiler as Python wheels, for machines without CUDA; one pip call, because a second one does not merge.
const WHEELS: [&str; 5] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];

/// A compiler that starts.
#[derive(Debug)]
pub(super) struct Toolchain {
    nvcc: PathBuf,
}

impl Toolchain {
    /// Finds a compiler, fetching it if `fetch` says so.
    pub(super) fn find(root: &Path, fetch: Fetch) -> Result<Toolchain> {
        // nvcc leaves host code to g++, even where there is none to compile.
        if !shell::succeeds(shell::tool(root, "g++").arg("--version")) {
            bail!("no g++ found, which nvcc needs");
        }
        if let Some(nvcc) = find_nvcc(root) {
            return Ok(Toolchain { nvcc });
        }
        if fetch == Fetch::Never {
            bail!("no nvcc found; `cargo xtask kernels --install` fetches one");
        }
        install(root).context("nvcc could not be fetched")?;
        let nvcc = find_nvcc(root).context("the nvcc that was fetched does not start")?;
        Ok(Toolchain { nvcc })
    }

    /// A call of the compiler with the flags every kernel is compiled with.
    pub(super) fn nvcc(&self, root: &Path) -> Command {
        let mut command = shell::tool(root, &self.nvcc);
        command.args(["-std=c++17", "-O3", "-Werror", "all-warnings"]);
        command.arg("-I").arg(root.join("kernels")).arg("-I").arg(root.join("kernels/abi"));
        command
    }

    /// Another tool of the same folder.
    pub(super) fn tool(&self, name: &str) -> PathBuf {
        self.nvcc.with_file_name(name)
    }
}

fn folder(root: &Path) -> PathBuf {
    root.join("target/cuda-toolchain")
}

fn find_nvcc(root: &Path) -> Option<PathBuf> {
    let named = std::env::var_os("NVCC").map(PathBuf::from);
    let usual = ["nvcc", "/usr/local/cuda/bin/nvcc"].map(PathBuf::from);
    let fetched = folder(root).join("nvidia/cu13/bin/nvcc");
    let mut candidates = named.into_iter().chain(usual).chain([fetched]);
    candidates.find(|path| shell::succeeds(shell::tool(root, path).arg("--version")))
}

fn install(root: &Path) -> Result<()> {
    println!("fetching nvcc into {}", folder(root).display());
    let mut pip = shell::tool(root, "python3");
    // A machine without a network should find out soon.
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--retries",
        "1",
        "--timeout",
        "10",
        "--target",
    ]);
    pip.arg(folder(root)).args(WHEELS);
    shell::run(&mut pip)
}
