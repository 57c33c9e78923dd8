//! `bench`: workloads in this process or against a server, and what their readers see.
//!
//! `traffic` makes traces, `offline` plays them in this process, `serve` against a server, `show` prints the figures;
//! `simulate` plays nothing: it asks a model of what steps cost.

mod offline;
mod serve;
mod show;
mod simulate;
mod traffic;

use crate::args::{BenchArgs, BenchCommand, EngineArgs};
use crate::exit::{Exit, Failure};

pub(crate) fn bench(engine: &EngineArgs, args: &BenchArgs) -> Result<Exit, Failure> {
    match &args.command {
        BenchCommand::Offline(args) => offline::offline(engine, args),
        BenchCommand::Serve(args) => serve::serve(args),
        BenchCommand::Simulate(args) => simulate::simulate(args),
    }
}
