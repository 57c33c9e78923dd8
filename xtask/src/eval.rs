//! `cargo xtask eval`: the command's own `eval`, built for speed.

use std::path::Path;

use anyhow::Result;
use clap::Args;

use crate::shell;

#[derive(Args)]
pub(crate) struct EvalArguments {
    /// Arguments of `lazyattn eval`; without any, the procedural questions in the usual modes.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(root: &Path, arguments: &EvalArguments) -> Result<()> {
    let mut command = shell::cargo(root);
    command.args(["run", "--release", "-p", "lazy-attn-cli", "--", "eval"]);
    if arguments.arguments.is_empty() {
        command.args(["--dataset", "procedural"]);
    }
    shell::run(command.args(&arguments.arguments))
}
