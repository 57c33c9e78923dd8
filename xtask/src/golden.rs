//! Golden files: what the float64 oracle of the test kit says, for the tests of the models to compare with.

use std::path::Path;

use anyhow::Result;
use clap::Args;

use crate::shell;

#[derive(Args)]
pub(crate) struct GoldenArguments {
    /// Writes nothing; fails if a file is not what the oracle says.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(root: &Path, arguments: &GoldenArguments) -> Result<()> {
    let embedded = ["-p", "lazy-attn-models", "--features", "embedded", "--example", "golden_embedded"];
    if arguments.check {
        let tiny = ["test", "-p", "lazy-attn-models", "--test", "oracle", "the_oracle_still_says"];
        shell::run(shell::cargo(root).args(tiny))?;
        return shell::run(shell::cargo(root).arg("run").args(embedded));
    }
    shell::run(shell::cargo(root).args(["run", "-p", "lazy-attn-testkit", "--example", "write_golden"]))?;
    shell::run(shell::cargo(root).arg("run").args(embedded).args(["--", "--write"]))
}
