//! The embedded model against the float64 oracle of the test kit: `tests/golden_oracle.json`.
//!
//! `cargo run -p lazy-attn-models --features embedded --example golden_embedded` checks that the file still is what the oracle
//! says; with `-- --write` it writes it (`cargo xtask golden` does that for all golden files). Where the package came without
//! its tests there is nothing to check.

use std::error::Error;
use std::path::Path;

use lazy_attn_models::config::{HeadWeights, QkNorm, RopePairing, RopeScaling};
use lazy_attn_models::weights::expected_tensors;
use lazy_attn_models::{LoadOptions, LoadedModel, ModelRef, load};
use lazy_attn_testkit::fixture::{GoldenCase, GoldenMode, case_lines};
use lazy_attn_testkit::oracle::{BiasFlags, OracleConfig, OracleWeights, Pairing, Rope, RopeKind};
use lazy_attn_testkit::{Oracle, Part};
use lazy_attn_types::TokenId;
use serde::Deserialize;

/// Greedy tokens of each case.
const NUM_GREEDY: usize = 6;

/// The file, as far as it is read.
#[derive(Default, Deserialize)]
struct Golden {
    cases: Vec<GoldenCase>,
}

/// A name and its parts.
type Prompt = (&'static str, Vec<Part>);

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let is_writing = std::env::args().nth(1).as_deref() == Some("--write");
    if !folder.exists() || !Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").exists() {
        println!("the package has no fixtures: nothing to check");
        return Ok(());
    }
    let path = folder.join("golden_oracle.json");
    let known: Golden = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(_) => Golden::default(),
    };
    let oracle = oracle(&load(&ModelRef::Embedded, &LoadOptions::default())?)?;
    let cases = prompts(&folder)?.into_iter().flat_map(|(name, parts)| {
        [GoldenMode::Block, GoldenMode::Full].map(|mode| (name, mode, parts.clone()))
    });
    let mut found = Vec::new();
    for (index, (name, mode, parts)) in cases.enumerate() {
        // What is known is a good guess: then one pass is enough.
        let guess =
            known.cases.get(index).map(|case| case.greedy.iter().map(|step| TokenId(step.0)).collect());
        let guess = guess.unwrap_or_else(|| vec![TokenId(0); NUM_GREEDY]);
        let steps = oracle.greedy_from(&parts, mode.mode(), guess);
        println!("{name} ({mode:?}): {:?}", steps.iter().map(|step| step.token.0).collect::<Vec<_>>());
        found.push(GoldenCase::of(name, mode, &parts, &steps));
    }
    if is_writing {
        std::fs::write(&path, format!("{{\"cases\":[\n{}]}}\n", case_lines(&found)?))?;
        return Ok(());
    }
    compare(&found, &known.cases, &path)
}

fn compare(found: &[GoldenCase], known: &[GoldenCase], path: &Path) -> Result<(), Box<dyn Error>> {
    if found.len() != known.len() {
        return Err(format!("{} has {} cases, not {}", path.display(), known.len(), found.len()).into());
    }
    let differing =
        found.iter().zip(known).find_map(|(found, known)| Some((found, found.difference(known)?)));
    match differing {
        None => Ok(()),
        Some((case, difference)) => Err(format!(
            "{}, {} ({:?}): {difference}; `cargo xtask golden` writes it again",
            path.display(),
            case.name,
            case.mode
        )
        .into()),
    }
}

/// A closed-book question, and one over three short documents cut from the one document of `golden_embedded.json`.
fn prompts(folder: &Path) -> Result<Vec<Prompt>, Box<dyn Error>> {
    #[derive(Deserialize)]
    struct Reference {
        cases: Vec<ReferenceCase>,
    }
    #[derive(Deserialize)]
    struct ReferenceCase {
        parts: Vec<Vec<u32>>,
    }
    let bytes = std::fs::read(folder.join("golden_embedded.json"))?;
    let Reference { cases } = serde_json::from_slice(&bytes)?;
    let with = |num_parts: usize| cases.iter().find(|case| case.parts.len() == num_parts);
    let (Some(closed), Some(open)) = (with(2), with(3)) else { return Err("no such prompts".into()) };
    let text = |ids: &[u32]| Part::text(ids.iter().copied());
    let document = |ids: &[u32]| Part::document(ids.iter().copied());
    let [system, long, question] = &open.parts[..] else { return Err("no three parts".into()) };
    Ok(vec![
        ("no documents", closed.parts.iter().map(|part| text(part)).collect()),
        (
            "three documents",
            vec![
                text(system),
                document(&long[..12]),
                document(&long[12..33]),
                document(&long[33..42]),
                text(question),
            ],
        ),
    ])
}

/// The model with all its weights in float64.
fn oracle(model: &LoadedModel) -> Result<Oracle, Box<dyn Error>> {
    let config = &model.config;
    if config.rope.scaling != RopeScaling::Default || config.sliding_window.is_some() {
        return Err("the embedded model has a RoPE or a window that this example does not translate".into());
    }
    let mut weights = OracleWeights::default();
    for (name, shape) in expected_tensors(config) {
        let data = model.tensors.tensor(&name, &shape)?.to_f32();
        weights.insert(&name, &shape, data.into_iter().map(f64::from).collect());
    }
    let pairing = match config.rope.pairing {
        RopePairing::Interleaved => Pairing::Interleaved,
        RopePairing::HalfSplit => Pairing::HalfSplit,
    };
    let rope = Rope {
        theta: f64::from(config.rope.theta),
        rotary_dim: config.rope.rotary_dim,
        pairing,
        kind: RopeKind::Default,
    };
    let bias = BiasFlags { qkv: config.bias.qkv, output: config.bias.output, mlp: config.bias.mlp };
    let config = OracleConfig {
        num_layers: config.num_layers,
        hidden_size: config.hidden_size,
        ffn_size: config.intermediate_size,
        num_q_heads: config.num_q_heads,
        num_kv_heads: config.num_kv_heads,
        head_dim: config.head_dim,
        vocab_size: config.vocab_size,
        rms_eps: f64::from(config.rms_norm_eps),
        rope,
        sliding_window: None,
        bias,
        qk_norm: config.qk_norm == QkNorm::PerHead,
        tied_head: config.head == HeadWeights::Tied,
    };
    Ok(Oracle { config, weights, kv_noise: None })
}
