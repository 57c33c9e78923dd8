//! Opens a model and says what it is: `cargo run --example describe -- random:7:llama-3.2-1b`.
//!
//! Without an argument it opens the embedded model and lists every other one it finds in the working directory.

use std::path::Path;

use lazy_attn_models::{Listing, LoadOptions, describe, list};

fn main() {
    let options = LoadOptions::default();
    match std::env::args().nth(1) {
        Some(reference) => print(&describe(&reference, &options)),
        None => list(Path::new("."), &options).iter().for_each(print),
    }
}

fn print(listing: &Listing) {
    match &listing.outcome {
        Ok(model) => println!(
            "{:<28} {}, {} layers, {} parameters, {:.1} MB of weights, {} tokens of context",
            listing.reference,
            model.config.family,
            model.config.num_layers,
            model.num_parameters,
            model.weight_bytes as f64 / 1e6,
            model.config.max_context_tokens,
        ),
        Err(problem) => println!("{:<28} does not load: {problem}", listing.reference),
    }
}
