//! Compiles `kernels/` with nvcc: a syntax and resource check that needs no device.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::ci::Outcome;
use crate::shell;

/// The compiler as Python wheels, for machines without CUDA; one pip call, because a second one does not merge.
const WHEELS: [&str; 5] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];

/// Compute capabilities every source must compile for.
const ARCHITECTURES: [&str; 2] = ["80", "90a"];

/// Uses the ABI header as a kernel would.
const HEADER_CHECK: &str = "#include \"lazy_kernels.h\"\n\
    extern \"C\" __global__ void la_header_check(LaKv kv, uint32_t *gByte) {\n\
    \x20   *gByte = la_block_byte(threadIdx.x, threadIdx.y, kv.head_dim);\n\
    }\n";

#[derive(Args)]
pub(crate) struct KernelArguments {
    /// Fetches nvcc into `target/` if none is found.
    #[arg(long)]
    install: bool,
}

/// Whether a missing compiler is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fetch {
    Never,
    IfMissing,
}

pub(crate) fn run(root: &Path, arguments: &KernelArguments) -> Result<()> {
    let fetch = if arguments.install { Fetch::IfMissing } else { Fetch::Never };
    match check(root, fetch)? {
        Outcome::Passed(detail) => println!("{detail}"),
        Outcome::Skipped(why) => println!("skipped: {why}"),
    }
    Ok(())
}

/// Compiles the ABI header and every `.cu` file; skipped where there is no compiler.
pub(crate) fn check(root: &Path, fetch: Fetch) -> Result<Outcome> {
    let toolchain = root.join("target/cuda-toolchain");
    if find_nvcc(root, &toolchain).is_none() && fetch == Fetch::IfMissing {
        install(root, &toolchain)?;
    }
    let Some(nvcc) = find_nvcc(root, &toolchain) else {
        return Ok(Outcome::Skipped("no nvcc found; `cargo xtask kernels --install` fetches one".into()));
    };
    let out = root.join("target/kernels");
    std::fs::create_dir_all(&out)?;
    let header_check = out.join("la_header_check.cu");
    std::fs::write(&header_check, HEADER_CHECK)?;
    let mut sources = sources(root)?;
    sources.insert(0, header_check);
    for (source, architecture) in sources.iter().flat_map(|source| ARCHITECTURES.map(|a| (source, a))) {
        compile(root, &nvcc, source, &out, architecture)?;
    }
    Ok(Outcome::Passed(format!("{} sources for sm_{}", sources.len(), ARCHITECTURES.join(", sm_"))))
}

fn find_nvcc(root: &Path, toolchain: &Path) -> Option<PathBuf> {
    let named = std::env::var_os("NVCC").map(PathBuf::from);
    let usual = ["nvcc", "/usr/local/cuda/bin/nvcc"].map(PathBuf::from);
    let fetched = toolchain.join("nvidia/cu13/bin/nvcc");
    named
        .into_iter()
        .chain(usual)
        .chain([fetched])
        .find(|path| shell::succeeds(shell::tool(root, path).arg("--version")))
}

fn install(root: &Path, toolchain: &Path) -> Result<()> {
    println!("fetching nvcc into {}", toolchain.display());
    let mut pip = shell::tool(root, "python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]).arg(toolchain).args(WHEELS);
    shell::run(&mut pip)
}

fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let folder = root.join("kernels");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("no folder {}", folder.display()))?;
    let mut kernels: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| has_extension(path, "cu")).collect();
    kernels.sort();
    Ok(kernels)
}

fn compile(root: &Path, nvcc: &Path, source: &Path, out: &Path, architecture: &str) -> Result<()> {
    println!("sm_{architecture} {}", source.display());
    let stem = source.file_stem().unwrap_or_default().to_string_lossy();
    let mut command = shell::tool(root, nvcc);
    command.args(["-std=c++17", "-O3", "-Werror", "all-warnings", "-cubin", "-I"]);
    command.arg(root.join("kernels/abi"));
    command.arg(format!("-gencode=arch=compute_{architecture},code=sm_{architecture}"));
    shell::run(command.arg(source).arg("-o").arg(out.join(format!("{stem}.sm_{architecture}.cubin"))))
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}
