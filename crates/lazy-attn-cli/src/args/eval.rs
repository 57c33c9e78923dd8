//! `eval`.

use std::path::PathBuf;

use clap::Args;
use lazy_attn_eval::Mode;

use super::JsonArg;

/// `eval`.
#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// A file of questions (JSON lines of this project, SQuAD, HotpotQA, 2WikiMultihopQA, natural questions over several
    /// documents, LongBench; also gzipped), `procedural`, or one set of it as `procedural:NAME`
    #[arg(long, value_name = "PATH")]
    pub(crate) dataset: String,
    /// Most questions that are asked
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
    /// How documents are treated, separated by commas: full, block, head-K, edges-K, preamble, selective-P, local, parallel, none,
    /// but for full and none also with -T-S behind it (temperature and scale of attention to documents), each
    /// also with -uncached; the report compares each mode with those before it
    #[arg(long, value_name = "MODES", value_delimiter = ',', default_value = "full,block,none")]
    pub(crate) modes: Vec<Mode>,
    /// Orders of the documents in which each question is asked, to see how much answers depend on it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32))]
    pub(crate) orders: u32,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: u32,
    /// Leave the log-likelihood of the right answers out
    #[arg(long)]
    pub(crate) no_likelihood: bool,
    /// Note of each token by how much it was more likely than the next one, in the answers that `--out` gets
    #[arg(long)]
    pub(crate) margins: bool,
    /// Most requests that are with the engine at once
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=128))]
    pub(crate) in_flight: u32,
    /// Seed of the procedural questions, the orders and the intervals
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Instructions in front of the documents
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// A folder that gets the report as JSON, Markdown and SVG, and every answer as JSON lines
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: JsonArg,
}
