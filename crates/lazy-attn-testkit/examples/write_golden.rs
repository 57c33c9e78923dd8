//! Writes the golden files of the models crate: `cargo run -p lazy-attn-testkit --example write_golden [DIR]`.

use std::path::PathBuf;

use lazy_attn_testkit::fixture::{GoldenFile, golden_set};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../lazy-attn-models/tests/golden");
    let directory = std::env::args().nth(1).map_or_else(|| PathBuf::from(default), PathBuf::from);
    std::fs::create_dir_all(&directory)?;
    for (name, model, prompts) in golden_set() {
        let json = GoldenFile::make(&model, &prompts).to_json()?;
        println!("{name}: {} cases, {} bytes", prompts.len() * 2, json.len());
        std::fs::write(directory.join(format!("{name}.json")), json)?;
    }
    Ok(())
}
