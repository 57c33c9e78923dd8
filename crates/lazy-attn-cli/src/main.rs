//! `lazyattn`: answers questions over documents whose KV cache is computed once and reused at any place.
//!
//! The only crate that names both halves of the engine. Reading order: `args` what may be written, `config` and the settings
//! that do not stand there, `exit` how it ends, `logging`
//! what is said meanwhile, `backend` what runs the model, `session` the composition root, `prompt` and `documents` what goes in, `ask` one request, `remote` the same through a
//! server, `commands`, `ui`.

mod args;
mod ask;
mod backend;
mod commands;
mod config;
mod documents;
mod exit;
mod logging;
mod prompt;
mod remote;
mod session;
mod ui;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::CommandFactory;

use crate::args::{Cli, Command};
use crate::config::{Resolved, resolve};
use crate::exit::{Exit, Failure};
use crate::logging::LogFormat;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().collect();
    let matches = Cli::command().get_matches_from(&arguments);
    // Until it is known that a program reads it.
    let mut log = LogFormat::Text;
    let ended = resolve(arguments, &matches, env::vars_os()).and_then(|resolved| {
        log = logging::start(&resolved.cli.engine)?;
        run(&resolved)
    });
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if let Some(line) = failure.line() {
                log.fail(&line);
            }
            failure.exit.into()
        }
    }
}

fn run(Resolved { cli, values }: &Resolved) -> Result<Exit, Failure> {
    match &cli.command {
        Command::Run(args) => commands::run::run(&cli.engine, args),
        Command::Chat(args) => commands::chat::chat(&cli.engine, args),
        Command::Generate(args) => commands::generate::generate(&cli.engine, args),
        Command::Serve(args) => commands::serve::serve(&cli.engine, args),
        Command::Docs(args) => commands::docs::docs(args),
        Command::Demo(args) => commands::demo::demo(&cli.engine, args),
        Command::Bench(args) => commands::bench::bench(&cli.engine, args),
        Command::Eval(args) => commands::eval::eval(&cli.engine, args),
        Command::Config(args) => commands::config::config(args, values),
        Command::Doctor(args) => commands::doctor::doctor(&cli.engine, *args),
        Command::Models(args) => commands::models::models(args),
    }
}
