//! How much of the documents is computed again for a request, and where they stand.

use clap::{Args, ValueEnum};
use lazy_attn_types::Exactness;

/// `--exactness`, its short forms, and `--placement`.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ExactnessArgs {
    /// How documents are encoded: `block` once each and reusable, `full` as one causal text
    #[arg(long, value_enum, conflicts_with = "exactness")]
    attention: Option<AttentionArg>,
    /// The same in finer steps: `block`, `head:TOKENS`, `edges:TOKENS`, `preamble`, `selective:PERCENT` or `full`
    #[arg(long, value_name = "RUNG")]
    exactness: Option<Exactness>,
    /// Where documents stand; anything but `consecutive` is for comparison
    #[arg(long, value_enum, default_value_t = PlacementArg::Consecutive)]
    pub(crate) placement: PlacementArg,
}

impl ExactnessArgs {
    /// The rung that was asked for.
    pub(crate) fn rung(&self) -> Exactness {
        let attention = match self.attention {
            Some(AttentionArg::Full) => Exactness::Full,
            Some(AttentionArg::Block) | None => Exactness::Block,
        };
        self.exactness.unwrap_or(attention)
    }
}

/// `--attention`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AttentionArg {
    /// Each document alone
    Block,
    /// One causal text
    Full,
}

/// `--placement`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlacementArg {
    /// One behind the other
    Consecutive,
    /// Each at position 0
    Local,
    /// Neighbours at one position
    Parallel,
}
