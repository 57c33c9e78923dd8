//! What may be written on the command line; `device` where the model runs, `bench` what is measured, `client` for the commands
//! that can talk to a server, `docs` for the one that always does, `exactness` how documents are read, `eval` for measuring
//! answers.

mod bench;
mod client;
mod device;
mod docs;
mod eval;
mod exactness;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use lazy_attn_types::KvPolicy;

pub(crate) use bench::{
    BenchArgs, BenchCommand, BenchOutput, BenchServeArgs, OfflineArgs, Policies, RunLine, RunOptions,
    SimulateArgs, TrafficArgs,
};
pub(crate) use client::{ChatArgs, RemoteArgs};
pub(crate) use device::{DeviceArg, MemoryFraction};
pub(crate) use docs::{DocsArgs, DocsCommand, DocsOptions, ListArgs, NamesArgs, PutArgs, Ttl};
pub(crate) use eval::EvalArgs;
pub(crate) use exactness::{ExactnessArgs, PlacementArg};

use crate::config::ServeArgs;
use crate::logging::LogFormat;

/// Answers questions over documents whose KV cache is computed once and reused at any place.
#[derive(Debug, Parser)]
#[command(name = "lazyattn", version, about, arg_required_else_help = true, max_term_width = 110)]
#[command(
    after_help = "Exit codes: 0 done, 1 a check failed, 2 usage or bad input, 3 the model cannot be loaded, \
                        4 the request does not fit, 5 internal error, 6 the server did not answer the request."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model and engine")]
pub(crate) struct EngineArgs {
    /// TOML file of settings; flags and environment variables LAZYATTN_* go before it
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// `embedded`, a .gguf or .safetensors file, a model directory, a hub id, or `random:SEED[:SHAPE]`
    #[arg(long, global = true, default_value = "embedded", value_name = "M")]
    pub(crate) model: String,
    /// Where the model runs: `auto` takes a CUDA device with enough memory if there is one, else the CPU; several share it
    #[arg(long, global = true, value_name = "auto, cpu, cuda:N[,N]", default_value_t = DeviceArg::Auto)]
    pub(crate) device: DeviceArg,
    /// How weights are held in memory
    #[arg(long, visible_alias = "dtype", global = true, value_enum, default_value_t = WeightDtypeArg::Auto)]
    pub(crate) weight_dtype: WeightDtypeArg,
    /// How keys and values are held in memory
    #[arg(long, global = true, value_enum, default_value_t = KvDtypeArg::Auto)]
    pub(crate) kv_dtype: KvDtypeArg,
    /// How the KV of documents is reused: `lazy` is this system, the others what it is compared with
    #[arg(long, global = true, value_enum, default_value_t = KvPolicyArg::Lazy)]
    pub(crate) kv_policy: KvPolicyArg,
    /// Threads for arithmetic; all available ones if absent
    #[arg(long, global = true, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Memory for keys and values, for example 512MiB or 2GB; if absent, 1GiB on the CPU, a fraction on a CUDA device
    #[arg(
        long = "kv-cache-memory",
        visible_alias = "kv-memory",
        global = true,
        value_name = "SIZE",
        conflicts_with = "kv_blocks"
    )]
    pub(crate) kv_memory: Option<ByteSize>,
    /// Part of a CUDA device's memory that weights, keys and values may take together; 0.9 if absent
    #[arg(long, global = true, value_name = "F", conflicts_with_all = ["kv_memory", "kv_blocks"])]
    pub(crate) gpu_memory_fraction: Option<MemoryFraction>,
    /// The same as a number of blocks
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) kv_blocks: Option<u32>,
    /// Tokens per KV block, a power of two from 1 to 256
    #[arg(long, global = true, value_name = "N", default_value_t = 16)]
    pub(crate) block_size: u32,
    /// Launch the kernels of a CUDA device one by one instead of as recorded graphs
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    pub(crate) no_cuda_graphs: bool,
    /// Most tokens one step runs; if absent, 512 on the CPU and 2048 on a CUDA device
    #[arg(long = "max-num-batched-tokens", visible_alias = "max-step-tokens", global = true, value_name = "N",
          value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) max_step_tokens: Option<u32>,
    /// What is logged on stderr: error, warn, info, debug or trace, or a filter such as `lazy_attn_engine=debug`
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn")]
    pub(crate) log_level: String,
    /// How it is logged: lines for people, or one JSON object per line
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answer a question over text files
    Run(RunArgs),
    /// Talk about documents, in a terminal or as a script on standard input
    Chat(ChatArgs),
    /// Run a request in JSON and print the response in JSON
    Generate(GenerateArgs),
    /// Answer requests over gRPC until SIGTERM, then finish what is in flight
    Serve(Box<ServeArgs>),
    /// Register documents with a server, list and forget them
    Docs(DocsArgs),
    /// Ask the embedded model about bundled documents in several orders
    Demo(DemoArgs),
    /// Measure: play a workload in this process or against a server
    Bench(BenchArgs),
    /// Measure how right the answers to a set of questions are, in several modes
    Eval(EvalArgs),
    /// Print or check the settings of `serve`
    Config(ConfigArgs),
    /// Check this machine and the model
    Doctor(JsonArg),
    /// List the models that can be loaded here, and why others cannot
    Models(ModelsArgs),
}

/// `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The question
    pub(crate) question: String,
    /// A folder whose .txt and .md files are the documents, in the order of their names
    #[arg(long, value_name = "DIR")]
    pub(crate) docs: Option<PathBuf>,
    /// A text file that is a document; may be given again
    #[arg(long = "doc", value_name = "FILE")]
    pub(crate) doc: Vec<PathBuf>,
    /// Instructions in front of the documents
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) exactness: ExactnessArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) output: JsonArg,
}

/// `--json`.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct JsonArg {
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// How tokens are chosen and when an answer ends.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// 0 always takes the most likely token
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f32>,
    /// Keep the K most likely tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<u32>,
    /// Keep the smallest set of tokens whose probability reaches P
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Drop tokens less likely than this share of the most likely one
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,
    /// Seed of the draw
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Most tokens of an answer; if absent, 64 in `run` and 512 in `chat`
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// End the answer before this text; may be given again
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
}

/// `generate`.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// File with the request, `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) request: PathBuf,
    #[command(flatten)]
    pub(crate) server: RemoteArgs,
}

/// `config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

/// What to do with the settings.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every setting that `serve` would run with, and where its value comes from
    Print(Box<ConfigPrintArgs>),
    /// Check a file of settings
    Check {
        /// The file
        file: PathBuf,
    },
}

/// `config print`.
#[derive(Debug, Args)]
pub(crate) struct ConfigPrintArgs {
    #[command(flatten)]
    pub(crate) output: JsonArg,
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

/// `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Orders of the documents each question is asked in
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) orders: u32,
    #[command(flatten)]
    pub(crate) output: JsonArg,
}

/// `models`.
#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    /// A folder to look in besides the hub's cache
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) output: JsonArg,
}

/// `--weight-dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WeightDtypeArg {
    /// As the file has them where a kernel exists, else q8_0 for quantised and f32 for float16 weights
    Auto,
    /// 32 bits
    F32,
    /// 16 bits
    Bf16,
    /// 16 bits with more digits and less range, on CUDA devices
    F16,
    /// 8 bits and a scale per 32 weights
    #[value(name = "q8_0")]
    Q8_0,
}

/// `--kv-dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvDtypeArg {
    /// f16 on the CPU, as the weights on a CUDA device
    Auto,
    /// 32 bits
    F32,
    /// 16 bits
    F16,
    /// 16 bits with the range of f32
    Bf16,
    /// 8 bits and a scale per block and head, on CUDA devices
    Fp8,
}

/// `--kv-policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvPolicyArg {
    /// One copy of a document serves every position
    Lazy,
    /// A document at another position is a copy whose keys are rotated again
    Reencode,
    /// The same, and nothing is moved: every place takes a copy of its own
    ReencodeCopy,
    /// Keys are rotated whenever they are read
    RotateKeys,
    /// Documents are text, reused up to the first difference
    Prefix,
    /// Nothing is reused
    None,
}

impl KvPolicyArg {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        KvPolicy::from(self).name()
    }
}

impl From<KvPolicyArg> for KvPolicy {
    fn from(policy: KvPolicyArg) -> KvPolicy {
        match policy {
            KvPolicyArg::Lazy => KvPolicy::Lazy,
            KvPolicyArg::Reencode => KvPolicy::Reencode,
            KvPolicyArg::ReencodeCopy => KvPolicy::ReencodeCopy,
            KvPolicyArg::RotateKeys => KvPolicy::RotateKeys,
            KvPolicyArg::Prefix => KvPolicy::Prefix,
            KvPolicyArg::None => KvPolicy::None,
        }
    }
}

/// A number of bytes written by a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

const UNITS: [(&str, u64); 9] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<ByteSize, String> {
        let lower = text.trim().to_ascii_lowercase();
        let (number, unit) = UNITS
            .iter()
            .find_map(|&(name, size)| lower.strip_suffix(name).map(|number| (number, size)))
            .unwrap_or((lower.strip_suffix('b').unwrap_or(&lower), 1));
        let bytes = number.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        bytes
            .map(ByteSize)
            .ok_or_else(|| "write a whole number and a unit, for example 512MiB or 2GB".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_read_with_and_without_units() {
        let cases = [("512MiB", 512 << 20), ("2 GB", 2_000_000_000), ("64k", 64 << 10), ("7", 7), ("9b", 9)];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MiB", "1.5GB", "-1", "99999999999GB", "5 parsecs"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
