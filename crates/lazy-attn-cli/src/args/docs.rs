//! What may be written after `docs`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::args::{JsonArg, RemoteArgs};

/// `docs`.
#[derive(Debug, Args)]
pub(crate) struct DocsArgs {
    #[command(subcommand)]
    pub(crate) command: DocsCommand,
}

/// What to do with the documents of a server.
#[derive(Debug, Subcommand)]
pub(crate) enum DocsCommand {
    /// Register text files, so that their keys and values are computed before a question comes
    Put(PutArgs),
    /// List the documents
    Ls(ListArgs),
    /// Show one document
    Get(NameArgs),
    /// Forget documents
    Rm(RemoveArgs),
    /// Keep the keys and values of documents in memory
    Pin(NamesArgs),
    /// Let the keys and values of documents be evicted again
    Unpin(NamesArgs),
}

/// Which server, and how the answer is printed.
#[derive(Debug, Args)]
pub(crate) struct DocsOptions {
    #[command(flatten)]
    pub(crate) server: RemoteArgs,
    #[command(flatten)]
    pub(crate) output: JsonArg,
}

/// `docs put`.
#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// Text files, or folders whose .txt and .md files are meant
    #[arg(required = true, value_name = "FILE")]
    pub(crate) paths: Vec<PathBuf>,
    /// Register a file as it is, not as a title line (its name) and a text line, the form block-tuned models know
    #[arg(long)]
    pub(crate) raw: bool,
    /// Keep the keys and values in memory
    #[arg(long, conflicts_with = "lazy")]
    pub(crate) pin: bool,
    /// Compute nothing now: the first use does
    #[arg(long)]
    pub(crate) lazy: bool,
    /// Forget the documents after this time, for example 90s, 15m, 12h or 7d
    #[arg(long, value_name = "TIME")]
    pub(crate) ttl: Option<Ttl>,
    /// A mark to list the documents by; may be given again
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) options: DocsOptions,
}

/// `docs ls`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Conditions joined by ` AND `: `labels.KEY = "VALUE"`, `display_name = "NAME"`, `pinned = true`
    #[arg(long, value_name = "FILTER", default_value = "")]
    pub(crate) filter: String,
    /// `create_time`, `last_use_time`, `token_count` or `use_count`, each with ` desc` for largest first
    #[arg(long, value_name = "FIELD", default_value = "")]
    pub(crate) order_by: String,
    #[command(flatten)]
    pub(crate) options: DocsOptions,
}

/// `docs get`.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The document, as `docs ls` or `docs put` prints it: `documents/KEY`, or the first digits of the key
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) options: DocsOptions,
}

/// `docs rm`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Also a document that running requests use; they go on
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) names: NamesArgs,
}

/// `docs pin` and `docs unpin`.
#[derive(Debug, Args)]
pub(crate) struct NamesArgs {
    /// The documents, as `docs ls` or `docs put` prints them: `documents/KEY`, or the first digits of the key
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) options: DocsOptions,
}

/// A time to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ttl(pub(crate) Duration);

impl FromStr for Ttl {
    type Err = String;

    fn from_str(text: &str) -> Result<Ttl, String> {
        let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
        let seconds = units.iter().find_map(|(unit, seconds)| {
            let number = text.strip_suffix(unit)?.parse::<u64>().ok()?;
            number.checked_mul(*seconds).filter(|&seconds| seconds > 0 && i64::try_from(seconds).is_ok())
        });
        let remedy = "write a whole number above 0 and s, m, h or d, for example 12h";
        seconds.map(|seconds| Ttl(Duration::from_secs(seconds))).ok_or_else(|| remedy.to_owned())
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, for example source=manual".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_live_are_read_in_four_units() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("12h", 43_200), ("7d", 604_800)] {
            assert_eq!(text.parse(), Ok(Ttl(Duration::from_secs(seconds))), "{text}");
        }
        for text in ["", "5", "0s", "-1s", "1.5h", "2w", "9223372036854775807d"] {
            assert!(text.parse::<Ttl>().is_err(), "{text}");
        }
    }

    #[test]
    fn labels_are_pairs() {
        assert_eq!(label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(label("a").is_err() && label("=b").is_err());
    }
}
