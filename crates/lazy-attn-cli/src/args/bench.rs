//! What may be written after `bench`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use lazy_attn_bench::Contender;
use lazy_attn_sim::study::{NUM_REQUESTS, Section};
use lazy_attn_types::KvPolicy;
use lazy_attn_workload::KvBudget;

use crate::args::RemoteArgs;

/// `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) command: BenchCommand,
}

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Play a workload in this process, under each policy in turn
    Offline(Box<OfflineArgs>),
    /// Play a workload against a server
    Serve(Box<BenchServeArgs>),
    /// Simulate clusters of H100s under each policy; needs no model and no device, and measures nothing
    Simulate(SimulateArgs),
}

/// `bench simulate`.
#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// Some of traffic, hits, routing, eviction, admission and steps; all if absent, which takes many minutes
    #[arg(value_name = "SECTION")]
    pub(crate) sections: Vec<Section>,
    /// Requests of each simulation, behind those that fill the stores
    #[arg(long, value_name = "N", default_value_t = NUM_REQUESTS, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) requests: u32,
    /// Print one JSON object a table instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

/// `bench offline`.
#[derive(Debug, Args)]
pub(crate) struct OfflineArgs {
    #[command(flatten)]
    pub(crate) run: RunOptions,
    /// A file with one such set of options a line: all are measured with the model loaded once, and --out names a folder
    #[arg(long, value_name = "FILE", requires = "out")]
    pub(crate) runs: Option<PathBuf>,
    /// Leave out the lines of --runs that are not begun after so many seconds
    #[arg(long, value_name = "S", requires = "runs")]
    pub(crate) time_limit: Option<u64>,
    #[command(flatten)]
    pub(crate) output: BenchOutput,
}

/// `bench serve`.
#[derive(Debug, Args)]
pub(crate) struct BenchServeArgs {
    #[command(flatten)]
    pub(crate) traffic: TrafficArgs,
    /// What the server was started with, for the report
    #[arg(long, value_name = "POLICY", default_value_t = KvPolicy::Lazy)]
    pub(crate) policy: KvPolicy,
    #[command(flatten)]
    pub(crate) server: RemoteArgs,
    #[command(flatten)]
    pub(crate) output: BenchOutput,
}

/// Where the figures go, and what is noted with them.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchOutput {
    /// Print the figures as one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Write them as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// The commit that is measured
    #[arg(long, value_name = "TEXT", default_value = "unknown")]
    pub(crate) commit: String,
    /// What else is worth knowing of the machine
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) note: String,
}

/// One workload under some policies.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub(crate) traffic: TrafficArgs,
    /// `all`, or some of lazy, reencode, reencode-copy, rotate-keys, prefix and none; with -ungrouped behind one, nobody reads a
    /// document for several sequences
    #[arg(long, value_name = "P[,P]", default_value = "all")]
    pub(crate) policy: Policies,
    /// Memory for keys and values: `all`, a part of the pool such as 25%, or a number of tokens; if absent, the workload's own
    #[arg(long, value_name = "BUDGET")]
    pub(crate) kv_budget: Option<KvBudget>,
    /// Most sequences that run at once; if absent, 64 or as many as there are clients
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_num_seqs: Option<u32>,
    /// Requests that are run before, under each policy and in an engine of their own, and left out
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) warmup: u32,
    /// Compare the tokens of policies that compute the same, which costs log-probabilities of every token
    #[arg(long)]
    pub(crate) check_tokens: bool,
    /// Name of the figures; if absent, that of the workload
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// A line of `--runs`.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
pub(crate) struct RunLine {
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

/// What is sent.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Traffic")]
pub(crate) struct TrafficArgs {
    /// A named workload (docs/workloads.md), `-small` behind it for a CPU
    #[arg(long, value_name = "NAME", default_value = "ttft-small")]
    pub(crate) workload: String,
    /// Play this trace instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["workload", "alpha", "requests", "clients", "rate", "traffic_seed"])]
    pub(crate) trace: Option<PathBuf>,
    /// Write the trace to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) trace_out: Option<PathBuf>,
    /// Skew of the documents' popularity: 0 is uniform
    #[arg(long, value_name = "A")]
    pub(crate) alpha: Option<f64>,
    /// Number of requests
    #[arg(long, value_name = "N")]
    pub(crate) requests: Option<u32>,
    /// Clients that each send when they have their answer
    #[arg(long, value_name = "C", conflicts_with = "rate")]
    pub(crate) clients: Option<u32>,
    /// Requests per second at random moments
    #[arg(long, value_name = "R")]
    pub(crate) rate: Option<f64>,
    /// Tokens generated per request
    #[arg(long, value_name = "N", conflicts_with = "trace")]
    pub(crate) output_tokens: Option<u32>,
    /// Seed of the trace
    #[arg(id = "traffic_seed", long = "seed", value_name = "N", default_value_t = 7)]
    pub(crate) seed: u64,
}

/// Policies to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Policies {
    /// The five that the executor can run.
    All,
    /// These, in this order.
    These(Vec<Contender>),
}

impl FromStr for Policies {
    type Err = String;

    fn from_str(text: &str) -> Result<Policies, String> {
        if text == "all" {
            return Ok(Policies::All);
        }
        let policies = text.split(',').map(|name| name.trim().parse());
        Ok(Policies::These(policies.collect::<Result<_, _>>()?))
    }
}

impl fmt::Display for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Policies::All => f.write_str("all"),
            Policies::These(policies) => {
                let names: Vec<String> = policies.iter().map(Contender::to_string).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_they_are_written() {
        for text in ["all", "lazy", "lazy,none", "reencode-copy,prefix-ungrouped"] {
            assert_eq!(text.parse::<Policies>().unwrap().to_string(), text);
        }
        assert!("lazy,best".parse::<Policies>().unwrap_err().contains("\"best\""));
    }

    #[test]
    fn a_line_of_runs_has_the_options_of_one_run() {
        let words = "--workload hit --alpha 2.1 --kv-budget 10% --policy lazy,reencode --clients 4";
        let line = RunLine::try_parse_from(words.split_whitespace()).unwrap().run;
        assert_eq!((line.traffic.alpha, line.traffic.clients), (Some(2.1), Some(4)));
        assert_eq!(line.kv_budget, Some(KvBudget::PoolPercent(10)));
        assert!(RunLine::try_parse_from(["--device", "cpu"]).is_err());
    }
}
