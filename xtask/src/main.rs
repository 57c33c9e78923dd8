//! The project's own tool: `cargo xtask ci` runs every check, the other commands run one part of the work.
//!
//! * [`ci`]: the stages of a full check, with a headline and a time each.
//! * [`tidy`]: the rules of ARCHITECTURE.md and STYLE.md that a machine can check.
//! * [`mod@bench`]: the CPU benches as one table, the workloads, and the page of their results.
//! * [`fuzz`]: long runs of the fuzz targets.
//! * [`golden`]: the fixtures that the float64 oracle writes.
//! * [`eval`]: answer quality, by the built command.
//! * [`kernels`]: compiles the CUDA sources where a compiler is found.
//! * [`gpu_bundle`]: packs tests, bench and kernels for a machine with a GPU but without Rust.
//! * [`python`]: the Python example against a real server.
//! * [`shell`]: how the others run commands.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod ci;
mod eval;
mod fuzz;
mod golden;
mod gpu_bundle;
mod kernels;
mod python;
mod shell;
mod tidy;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Checks, benches and builds of the LazyAttention workspace")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs every check; stops at the first stage that fails.
    Ci(ci::CiArguments),
    /// Checks the rules of ARCHITECTURE.md and STYLE.md that a machine can check.
    Tidy,
    /// Measures, or makes the page of what was measured.
    Bench(bench::BenchArguments),
    /// Feeds broken files and requests to everything that reads them.
    Fuzz(fuzz::FuzzArguments),
    /// Measures how right answers are: `lazyattn eval` in a release build, with the same arguments.
    Eval(eval::EvalArguments),
    /// Writes the golden files of the float64 oracle, or checks that they are what it says.
    Golden(golden::GoldenArguments),
    /// Compiles `kernels/` into one fat binary and checks registers and spills, where nvcc is found.
    Kernels(kernels::KernelArguments),
    /// Packs the device tests and bench into `target/gpu-bundle`.
    GpuBundle(gpu_bundle::BundleArguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let root = shell::workspace_root()?;
    match command {
        Command::Ci(arguments) => ci::run(&root, &arguments),
        Command::Tidy => tidy::run(&root),
        Command::Bench(arguments) => bench::run(&root, &arguments),
        Command::Fuzz(arguments) => fuzz::run(&root, &arguments),
        Command::Eval(arguments) => eval::run(&root, &arguments),
        Command::Golden(arguments) => golden::run(&root, &arguments),
        Command::Kernels(arguments) => kernels::run(&root, &arguments),
        Command::GpuBundle(arguments) => gpu_bundle::run(&root, &arguments),
    }
}
