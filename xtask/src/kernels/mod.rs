//! Compiles `kernels/` into one fat binary, and checks what the compiler says of every kernel; needs no device.
//!
//! * [`toolchain`]: finds nvcc, or fetches it.
//! * [`resources`]: registers and spills of every kernel, and which spills are known.

mod resources;
mod toolchain;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::Args;

use self::resources::Usage;
use self::toolchain::Toolchain;
use crate::ci::Outcome;
use crate::shell;

/// Compute capabilities with machine code in the fat binary.
const ARCHITECTURES: [&str; 4] = ["80", "89", "90a", "120"];

/// The capability whose PTX the driver compiles for devices without machine code.
const PTX_ARCHITECTURE: &str = "80";

/// Spills that are known, each with its reason.
const SPILLS: &str = "kernels/spills.txt";

/// The fat binary, relative to the root.
pub(crate) const IMAGE: &str = "target/kernels/lazy_kernels.fatbin";

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

/// Builds the fat binary and compares its spills with the known ones; skipped where there is no compiler.
pub(crate) fn check(root: &Path, fetch: Fetch) -> Result<Outcome> {
    let toolchain = match Toolchain::find(root, fetch) {
        Ok(toolchain) => toolchain,
        Err(why) => return Ok(Outcome::Skipped(format!("{why:#}"))),
    };
    let usages = build(root, &toolchain)?;
    resources::print(&usages);
    let path = root.join(SPILLS);
    let known = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    resources::check(&usages, &known)?;
    let num_kernels = usages.len() / ARCHITECTURES.len();
    Ok(Outcome::Passed(format!("{num_kernels} kernels for sm_{}", ARCHITECTURES.join(", sm_"))))
}

/// Writes [`IMAGE`]; what the compiler said of every kernel.
fn build(root: &Path, toolchain: &Toolchain) -> Result<Vec<Usage>> {
    let out = root.join("target/kernels");
    std::fs::create_dir_all(&out)?;
    let source = out.join("all.cu");
    std::fs::write(&source, umbrella(&root.join("kernels"))?)?;
    let compile = |architecture: &str| compile(root, toolchain, &source, architecture);
    // Two at a time: a compiler takes one core, and machines of builds have few.
    let mut usages = Vec::new();
    for pair in ARCHITECTURES.chunks(2) {
        let results: Vec<Result<Vec<Usage>>> = std::thread::scope(|scope| {
            let running: Vec<_> = pair.iter().map(|&arch| scope.spawn(move || compile(arch))).collect();
            let ended = running.into_iter().map(|thread| thread.join());
            ended.map(|result| result.unwrap_or_else(|_| Err(anyhow!("a compiling thread failed")))).collect()
        });
        for result in results {
            usages.extend(result?);
        }
    }
    let ptx = out.join("lazy_kernels.ptx");
    let mut command = toolchain.nvcc(root);
    command.arg(format!("-arch=compute_{PTX_ARCHITECTURE}")).arg("-ptx").arg(&source).arg("-o").arg(&ptx);
    shell::run(&mut command)?;
    link(root, toolchain, &ptx)?;
    Ok(usages)
}

/// A source that includes every kernel: they share one module, so that one load finds them all.
fn umbrella(folder: &Path) -> Result<String> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("no folder {}", folder.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".cu"))
        .collect();
    names.sort();
    Ok(names.iter().map(|name| format!("#include \"{name}\"\n")).collect())
}

fn cubin(root: &Path, architecture: &str) -> PathBuf {
    root.join(format!("target/kernels/lazy_kernels.sm_{architecture}.cubin"))
}

fn compile(root: &Path, toolchain: &Toolchain, source: &Path, architecture: &str) -> Result<Vec<Usage>> {
    let mut command = toolchain.nvcc(root);
    command.arg(format!("-gencode=arch=compute_{architecture},code=sm_{architecture}"));
    command.args(["-Xptxas", "-v", "-cubin"]).arg(source).arg("-o").arg(cubin(root, architecture));
    let said = shell::read_errors(&mut command)?;
    let usages = resources::parse(&said);
    if usages.is_empty() {
        return Err(anyhow!("the compiler named no kernel for sm_{architecture}; it said:\n{said}"));
    }
    Ok(usages)
}

fn link(root: &Path, toolchain: &Toolchain, ptx: &Path) -> Result<()> {
    let mut command = shell::tool(root, toolchain.tool("fatbinary"));
    command.args(["-64", "--compress-all"]).arg(format!("--create={}", root.join(IMAGE).display()));
    for architecture in ARCHITECTURES {
        let file = cubin(root, architecture);
        command.arg(format!("--image3=kind=elf,sm={architecture},file={}", file.display()));
    }
    command.arg(format!("--image3=kind=ptx,sm={PTX_ARCHITECTURE},file={}", ptx.display()));
    shell::run(&mut command)
}
