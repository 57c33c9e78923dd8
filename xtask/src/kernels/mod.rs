//! Compiles `kernels/` into one fat binary, and checks what the compiler says of every kernel; needs no device.
//!
//! * [`toolchain`]: finds nvcc, or fetches it.
//! * [`resources`]: registers and spills of every kernel, and which spills are known.

mod resources;
mod toolchain;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use clap::Args;

use self::resources::Usage;
use self::toolchain::Toolchain;
use crate::ci::Outcome;
use crate::shell;

/// Compute capabilities with machine code in the fat binary.
const ARCHITECTURES: [&str; 4] = ["80", "89", "90a", "120"];

/// Those a full check compiles for: one with warpgroups, and one with the other way of everything.
const CHECKED: [&str; 2] = ["80", "90a"];

/// The capability whose PTX the driver compiles for devices without machine code.
const PTX_ARCHITECTURE: &str = "80";

/// Spills that are known, each with its reason.
const SPILLS: &str = "kernels/spills.txt";

/// The fat binary, relative to the root.
pub(crate) const IMAGE: &str = "target/kernels/lazy_kernels.fatbin";

/// The same kernels for compute-sanitizer, relative to the root.
pub(crate) const SANITIZER_IMAGE: &str = "target/kernels/lazy_kernels.sanitizer.fatbin";

/// The capability the sanitizer watches: the one with every way of doing things.
const SANITIZER_ARCHITECTURE: &str = "90a";

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
    println!("{}", build_image(root, fetch)?);
    Ok(())
}

/// Builds [`IMAGE`] and compares its spills with the known ones; what it holds.
pub(crate) fn build_image(root: &Path, fetch: Fetch) -> Result<String> {
    let toolchain = Toolchain::find(root, fetch)?;
    let done = check_with(root, &toolchain, &ARCHITECTURES)?;
    let ptx = output(root, "ptx");
    let mut command = toolchain.nvcc(root);
    command
        .arg(format!("-arch=compute_{PTX_ARCHITECTURE}"))
        .arg("-ptx")
        .arg(source(root))
        .arg("-o")
        .arg(&ptx);
    shell::run(&mut command)?;
    link(root, &toolchain, &ptx)?;
    Ok(done)
}

/// Builds [`IMAGE`] with machine code of one compute capability only, whatever spills.
pub(crate) fn build_image_for(root: &Path, fetch: Fetch, architecture: &str) -> Result<()> {
    let toolchain = Toolchain::find(root, fetch)?;
    compile(root, &toolchain, &write_source(root)?, architecture)?;
    let mut command = fatbinary(root, &toolchain, &[architecture]);
    shell::run(&mut command)
}

/// Builds [`SANITIZER_IMAGE`]: with lines of the source, and with barriers at which every lane arrives for itself, because the
/// sanitizer does not follow one that arrives for its warp.
pub(crate) fn build_sanitizer_image(root: &Path, fetch: Fetch) -> Result<()> {
    let toolchain = Toolchain::find(root, fetch)?;
    let source = write_source(root)?;
    let mut command = toolchain.nvcc(root);
    command.args(["-DLA_SANITIZER=1", "-lineinfo", "-fatbin"]);
    command.arg(format!("-gencode=arch=compute_{SANITIZER_ARCHITECTURE},code=sm_{SANITIZER_ARCHITECTURE}"));
    command.arg(source).arg("-o").arg(root.join(SANITIZER_IMAGE));
    shell::run(&mut command)
}

/// Compiles every kernel and compares spills with the known ones; skipped where there can be no compiler.
pub(crate) fn check(root: &Path) -> Result<Outcome> {
    match Toolchain::find(root, Fetch::IfMissing) {
        Ok(toolchain) => Ok(Outcome::Passed(check_with(root, &toolchain, &CHECKED)?)),
        Err(why) => Ok(Outcome::Skipped(format!("{why:#}"))),
    }
}

fn check_with(root: &Path, toolchain: &Toolchain, architectures: &[&str]) -> Result<String> {
    let usages = compile_all(root, toolchain, architectures)?;
    resources::print(&usages);
    let path = root.join(SPILLS);
    let known = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    resources::check(&usages, &known)?;
    Ok(format!("{} kernels for sm_{}", usages.len() / architectures.len(), architectures.join(", sm_")))
}

/// Compiles for every architecture; what the compiler said of every kernel.
fn compile_all(root: &Path, toolchain: &Toolchain, architectures: &[&str]) -> Result<Vec<Usage>> {
    let source = write_source(root)?;
    let compile = |architecture: &str| compile(root, toolchain, &source, architecture);
    // Two at a time: a compiler takes one core, and machines of builds have few.
    let mut usages = Vec::new();
    for pair in architectures.chunks(2) {
        let results: Vec<Result<Vec<Usage>>> = std::thread::scope(|scope| {
            let running: Vec<_> = pair.iter().map(|&arch| scope.spawn(move || compile(arch))).collect();
            let ended = running.into_iter().map(|thread| thread.join());
            ended.map(|result| result.unwrap_or_else(|_| Err(anyhow!("a compiling thread failed")))).collect()
        });
        for result in results {
            usages.extend(result?);
        }
    }
    Ok(usages)
}

/// Writes the source that [`source`] names.
fn write_source(root: &Path) -> Result<PathBuf> {
    let source = source(root);
    std::fs::create_dir_all(root.join("target/kernels"))?;
    std::fs::write(&source, umbrella(&root.join("kernels"))?)?;
    Ok(source)
}

fn source(root: &Path) -> PathBuf {
    root.join("target/kernels/all.cu")
}

fn output(root: &Path, suffix: &str) -> PathBuf {
    root.join(format!("target/kernels/lazy_kernels.{suffix}"))
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
    output(root, &format!("sm_{architecture}.cubin"))
}

fn compile(root: &Path, toolchain: &Toolchain, source: &Path, architecture: &str) -> Result<Vec<Usage>> {
    let mut command = toolchain.nvcc(root);
    command.arg(format!("-gencode=arch=compute_{architecture},code=sm_{architecture}"));
    command.args(["-Xptxas", "-v", "-cubin"]).arg(source).arg("-o").arg(cubin(root, architecture));
    let said = shell::read_errors(&mut command)?;
    resources::check_products(&said)?;
    let usages = resources::parse(&said);
    if usages.is_empty() {
        return Err(anyhow!("the compiler named no kernel for sm_{architecture}; it said:\n{said}"));
    }
    Ok(usages)
}

fn link(root: &Path, toolchain: &Toolchain, ptx: &Path) -> Result<()> {
    let mut command = fatbinary(root, toolchain, &ARCHITECTURES);
    command.arg(format!("--image3=kind=ptx,sm={PTX_ARCHITECTURE},file={}", ptx.display()));
    shell::run(&mut command)
}

/// Joins the machine code of `architectures` into [`IMAGE`].
fn fatbinary(root: &Path, toolchain: &Toolchain, architectures: &[&str]) -> Command {
    let mut command = shell::tool(root, toolchain.tool("fatbinary"));
    command.args(["-64", "--compress-all"]).arg(format!("--create={}", root.join(IMAGE).display()));
    for architecture in architectures {
        let file = cubin(root, architecture);
        command.arg(format!("--image3=kind=elf,sm={architecture},file={}", file.display()));
    }
    command
}
