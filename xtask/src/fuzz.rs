//! Long runs of the fuzz targets.

use std::path::Path;

use anyhow::Result;
use clap::Args;

use crate::shell;

#[derive(Args)]
pub(crate) struct FuzzArguments {
    /// Minutes over all targets.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Only this target.
    #[arg(long)]
    target: Option<String>,
    /// The same seed gives the same inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs this input alone; needs `--target`.
    #[arg(long)]
    input: Option<String>,
}

/// In the profile of the tests: sums that wrap are found there.
pub(crate) fn run(root: &Path, arguments: &FuzzArguments) -> Result<()> {
    let mut command = shell::cargo(root);
    command.args(["run", "--quiet", "--package", "lazy-attn-fuzz", "--example", "fuzz", "--"]);
    command.args(["--minutes", &arguments.minutes.to_string(), "--seed", &arguments.seed.to_string()]);
    for (flag, value) in [("--target", &arguments.target), ("--input", &arguments.input)] {
        if let Some(value) = value {
            command.args([flag, value]);
        }
    }
    shell::run(&mut command)
}
