//! Every small workload under every policy, on this machine.

use std::fs;
use std::path::Path;

use anyhow::Result;
use clap::Args;
use lazy_attn_workload::Workload;
use lazy_attn_workload::workload::SMALL;

use super::report;
use crate::shell;

/// Where the figures of this machine are kept.
const FOLDER: &str = "docs/results/cpu";

#[derive(Args)]
pub(crate) struct WorkloadArguments {
    /// What else is worth knowing of the machine.
    #[arg(long, default_value = "")]
    note: String,
    /// Requests of each workload, if not its own number.
    #[arg(long)]
    requests: Option<u32>,
}

pub(crate) fn run(root: &Path, arguments: &WorkloadArguments) -> Result<()> {
    let names = Workload::names().filter(|name| name.ends_with(SMALL));
    let requests = arguments.requests.map(|requests| format!(" --requests {requests}")).unwrap_or_default();
    let lines: Vec<String> = names.map(|name| format!("--workload {name}{requests}\n")).collect();
    let runs = root.join("target/workloads.txt");
    fs::write(&runs, lines.concat())?;
    let commit = shell::read(shell::tool(root, "git").args(["describe", "--always", "--dirty"]))?;
    let mut command = shell::cargo(root);
    command.args([
        "run",
        "--release",
        "--package",
        "lazy-attn-cli",
        "--",
        "bench",
        "offline",
        "--device",
        "cpu",
    ]);
    command.arg("--runs").arg("target/workloads.txt").args(["--out", FOLDER, "--commit", commit.trim()]);
    shell::run(command.args(["--note", &arguments.note]))?;
    report::run(root)
}
