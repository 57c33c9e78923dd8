//! The tables of docs/capacity.md: clusters on a simulated clock.

use std::path::Path;

use anyhow::Result;
use clap::Args;

use crate::shell;

#[derive(Args)]
pub(super) struct SimulateArguments {
    /// Only these tables: traffic, hits, routing, eviction, admission, steps.
    sections: Vec<String>,
}

pub(super) fn run(root: &Path, arguments: &SimulateArguments) -> Result<()> {
    let mut command = shell::cargo(root);
    command.args(["bench", "--package", "lazy-attn-sim", "--bench", "capacity", "--"]);
    shell::run(command.args(&arguments.sections))
}
