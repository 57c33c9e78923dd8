//! `models`: what can be loaded here, and why the rest cannot.

use lazy_attn_models::{Listing, LoadOptions, list};
use serde::Serialize;

use crate::args::ModelsArgs;
use crate::exit::{Exit, Failure};
use crate::ui::{Out, Table, bytes, print_json};

/// A model as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    /// What to give for `--model`.
    model: String,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase", untagged)]
enum Outcome {
    #[serde(rename_all = "camelCase")]
    Loads {
        name: String,
        family: String,
        num_parameters: u64,
        weight_bytes: u64,
        max_context_tokens: usize,
    },
    Fails {
        error: String,
    },
}

#[derive(Debug, Serialize)]
struct Rows {
    models: Vec<Row>,
}

pub(crate) fn models(args: &ModelsArgs) -> Result<Exit, Failure> {
    if !args.dir.is_dir() {
        return Err(Failure::usage(format!("{} is not a directory", args.dir.display())));
    }
    let rows = Rows { models: list(&args.dir, &LoadOptions::default()).into_iter().map(row).collect() };
    if args.output.json {
        print_json(&rows)?;
        return Ok(Exit::Success);
    }
    let mut table = Table::new(&["--model", "family", "parameters", "weights", "context", ""]);
    for Row { model, outcome } in rows.models {
        table.row(match outcome {
            Outcome::Loads { name, family, num_parameters, weight_bytes, max_context_tokens } => [
                model,
                family,
                format!("{:.1} M", num_parameters as f64 / 1e6),
                bytes(weight_bytes),
                max_context_tokens.to_string(),
                name,
            ],
            Outcome::Fails { error } => [
                model,
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                format!("cannot be loaded: {error}"),
            ],
        });
    }
    let mut out = Out::new();
    for line in table.lines() {
        out.line(&line)?;
    }
    Ok(Exit::Success)
}

fn row(listing: Listing) -> Row {
    let outcome = match listing.outcome {
        Ok(summary) => Outcome::Loads {
            // Random weights serve measurements; they say nothing.
            name: if listing.reference.starts_with("random:") {
                "a token per byte".to_owned()
            } else {
                summary.name
            },
            family: summary.config.family,
            num_parameters: summary.num_parameters,
            weight_bytes: summary.weight_bytes,
            max_context_tokens: summary.config.max_context_tokens,
        },
        Err(error) => Outcome::Fails { error: Failure::from(error).line().unwrap_or_default() },
    };
    Row { model: listing.reference, outcome }
}
