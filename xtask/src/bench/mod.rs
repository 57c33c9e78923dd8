//! What is measured: `cpu` the criterion benches, `workloads` traffic on this machine, `simulate` clusters on a simulated clock,
//! `report` the page of all results:
//! `results` reads them, `tables`, `claims` and `plots` show them, `simulated` shows what was not measured, `verdicts` holds them against what must be so on every machine.

mod claims;
mod cpu;
mod plots;
mod report;
mod results;
mod simulate;
mod simulated;
mod tables;
mod verdicts;
mod workloads;

use std::path::Path;

use anyhow::Result;
use clap::{Args, Subcommand};

#[derive(Args)]
pub(crate) struct BenchArguments {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Subcommand)]
enum BenchCommand {
    /// Attention, matrix products and decoding of the embedded model, as one table.
    Cpu(cpu::CpuArguments),
    /// Plays every small workload under every policy, keeps the figures under docs/results and checks them; fails if a check does.
    Workloads(workloads::WorkloadArguments),
    /// Simulates clusters of H100s and prints the tables of docs/capacity.md; nothing is measured.
    Simulate(simulate::SimulateArguments),
    /// Makes docs/results.md and its charts from the files under docs/results alone.
    Report,
}

pub(crate) fn run(root: &Path, arguments: &BenchArguments) -> Result<()> {
    match &arguments.command {
        BenchCommand::Cpu(arguments) => cpu::run(root, arguments),
        BenchCommand::Workloads(arguments) => workloads::run(root, arguments),
        BenchCommand::Simulate(arguments) => simulate::run(root, arguments),
        BenchCommand::Report => report::run(root),
    }
}
