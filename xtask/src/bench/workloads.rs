//! Every small workload under every policy with the embedded model, on this machine, and whether the outcome is as it must be.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;
use lazy_attn_workload::Workload;
use lazy_attn_workload::workload::SMALL;

use super::{report, results, verdicts};
use crate::shell;

/// Where the figures of this machine are kept.
const FOLDER: &str = "docs/results/cpu-47m";
/// The runs, one a line.
const RUNS: &str = "target/workloads.txt";
/// Where activations are rounded to 8 bits, a difference in the last bit of a key may become one of a whole step of theirs.
const OPTIONS: [&str; 4] = ["--device", "cpu", "--weight-dtype", "f32"];
/// Documents that a cache has room for where hit ratios are held against their closed forms: tokens of each, and of a request's
/// own question and answer, are those of `hit-small`.
const CAPACITIES: [u32; 3] = [10, 25, 50];
const DOCUMENT_TOKENS: u32 = 128;
const OWN_TOKENS: u32 = 32;
/// Six times as many requests as elsewhere: a ratio is known to the root of their number.
const HIT_FACTOR: u32 = 6;

#[derive(Args)]
pub(crate) struct WorkloadArguments {
    /// What else is worth knowing of the machine.
    #[arg(long, default_value = "")]
    note: String,
    /// Most requests of each workload.
    #[arg(long, default_value_t = 40)]
    requests: u32,
    /// Measure nothing: check the figures that are there, and print the command that makes them.
    #[arg(long)]
    check_only: bool,
}

pub(crate) fn run(root: &Path, arguments: &WorkloadArguments) -> Result<()> {
    let runs = root.join(RUNS);
    fs::write(&runs, lines(arguments.requests).concat())?;
    if arguments.check_only {
        println!("lazyattn bench offline {} --runs {RUNS} --out {FOLDER}", OPTIONS.join(" "));
    } else {
        measure(root, arguments)?;
    }
    report::run(root)?;
    check(root)
}

fn measure(root: &Path, arguments: &WorkloadArguments) -> Result<()> {
    let commit = shell::read(shell::tool(root, "git").args(["describe", "--always", "--dirty"]))?;
    let mut command = shell::cargo(root);
    command.args(["run", "--release", "--package", "lazy-attn-cli", "--", "bench", "offline"]);
    command.args(OPTIONS).args(["--runs", RUNS, "--out", FOLDER]);
    shell::run(command.args(["--commit", commit.trim(), "--note", &arguments.note]))
}

/// A run per small workload, and one per capacity for the hit ratios.
fn lines(max_requests: u32) -> Vec<String> {
    let small = Workload::names().filter(|name| name.ends_with(SMALL));
    let all =
        small.filter_map(|name| Workload::named(&name)).map(|Workload { name, num_requests, .. }| {
            let requests = num_requests.min(max_requests);
            format!("--workload {name} --requests {requests} --check-tokens\n")
        });
    let hits = CAPACITIES.map(|capacity| {
        let (requests, tokens) = (HIT_FACTOR * max_requests, capacity * DOCUMENT_TOKENS + OWN_TOKENS);
        let cache =
            format!("--name hit-small-c{capacity} --workload hit-small --clients 1 --kv-budget {tokens}");
        format!("{cache} --requests {requests} --policy lazy,reencode-copy\n")
    });
    all.chain(hits).collect()
}

/// Prints a verdict per check of what is in the folder.
fn check(root: &Path) -> Result<()> {
    let folder = root.join(FOLDER);
    let verdicts: Vec<_> = results::runs(&folder)?.iter().flat_map(verdicts::of).collect();
    println!();
    verdicts.iter().for_each(|verdict| println!("{verdict}"));
    let num_failed = verdicts.iter().filter(|verdict| !verdict.holds).count();
    if num_failed > 0 {
        bail!("{num_failed} of {} checks failed", verdicts.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_are_in_documents_of_the_workload() {
        let shape = Workload::named("hit-small").unwrap().shape;
        assert_eq!(shape.document_tokens, DOCUMENT_TOKENS);
        // Whole blocks of 16.
        assert_eq!((shape.query_tokens + shape.output_tokens).next_multiple_of(16), OWN_TOKENS);
        assert_eq!(lines(40).len(), 7 + CAPACITIES.len());
    }
}
