//! `lazyattn`: answers questions over documents whose KV cache is computed once and reused at any place.
//!
//! The only crate that names both halves of the engine. Reading order: `args` what may be written, `exit` how it ends,
//! `session` the composition root, `prompt` and `documents` what goes in, `ask` one request, `remote` the same through a
//! server, `commands`, `ui`.

mod args;
mod ask;
mod commands;
mod documents;
mod exit;
mod prompt;
mod remote;
mod session;
mod ui;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command};
use crate::exit::{Exit, Failure};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start_logging(&cli.engine.log_level).and_then(|()| run(&cli)) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if let Some(line) = failure.line() {
                eprintln!("error: {line}");
            }
            failure.exit.into()
        }
    }
}

fn run(cli: &Cli) -> Result<Exit, Failure> {
    match &cli.command {
        Command::Run(args) => commands::run::run(&cli.engine, args),
        Command::Generate(args) => commands::generate::generate(&cli.engine, args),
        Command::Serve(args) => commands::serve::serve(&cli.engine, args),
        Command::Demo(args) => commands::demo::demo(&cli.engine, args),
        Command::Doctor(args) => commands::doctor::doctor(&cli.engine, *args),
        Command::Models(args) => commands::models::models(args),
    }
}

fn start_logging(level: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(level).map_err(|error| {
        Failure::usage(format!("--log-level {level:?} is not a level or filter: {error}"))
    })?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    Ok(())
}
