//! The tables of docs/capacity.md, of which everything is simulated: `cargo xtask bench simulate` prints all, names behind it some.

#![allow(clippy::unwrap_used)] // a bench stops where its setup fails

use std::time::Instant;

use lazy_attn_sim::ClusterConfig;
use lazy_attn_sim::study::{NUM_REQUESTS, Section};

fn main() {
    // Cargo adds `--bench`.
    let names: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wanted: Vec<Section> = names.iter().map(|name| name.parse().unwrap()).collect();
    let is_wanted = |section: &Section| wanted.is_empty() || wanted.contains(section);
    let kv_tokens = ClusterConfig::llama_8b_on_one_h100().kv_tokens();
    println!("SIMULATED: Llama 3.1 8B in bf16 on H100s of 80 GB, {kv_tokens} tokens of KV each\n");
    for section in Section::ALL.into_iter().filter(is_wanted) {
        let begin = Instant::now();
        println!("{}", section.table(NUM_REQUESTS).unwrap());
        println!("({section}: {:.0} s of wall time)\n", begin.elapsed().as_secs_f64());
    }
}
