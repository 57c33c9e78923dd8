//! Golden files: prompts, the oracle's largest logits and its greedy continuation, one JSON file per tiny model.
//!
//! `cargo run -p lazy-attn-testkit --example write_golden` writes them; the models crate checks that the oracle still
//! says the same (so it cannot drift together with the engine) and that the engine agrees.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use lazy_attn_types::{AttentionMode, SegmentKind, TokenId};
use serde::{Deserialize, Serialize};

use crate::oracle::{GreedyStep, OracleConfig, Pairing, RopeKind, top};
use crate::part::Part;
use crate::rng::SplitMix64;
use crate::tiny::TinyModel;

/// Logits kept per case.
pub const NUM_TOP: usize = 20;
/// Greedy tokens kept per case.
pub const NUM_GREEDY: usize = 6;

/// One golden file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GoldenFile {
    /// Shape of the tiny model.
    pub config: OracleConfig,
    /// Seed of its weights.
    pub seed: u64,
    /// Its cases.
    pub cases: Vec<GoldenCase>,
}

/// One prompt in one mode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GoldenCase {
    /// What the prompt is about.
    pub name: String,
    /// `block` or `full`.
    pub mode: GoldenMode,
    /// The prompt.
    pub parts: Vec<GoldenPart>,
    /// The largest logits of the first new token: (token, logit), largest first.
    pub top: Vec<(u32, f64)>,
    /// Greedy continuation: (token, margin over the second largest logit).
    pub greedy: Vec<(u32, f64)>,
}

/// Attention mode, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are those of the modes")]
pub enum GoldenMode {
    Block,
    Full,
}

/// A part, as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are those of the segment kinds")]
pub enum GoldenPart {
    Document(Vec<u32>),
    Text(Vec<u32>),
}

impl GoldenMode {
    /// The mode.
    #[must_use]
    pub fn mode(self) -> AttentionMode {
        match self {
            GoldenMode::Block => AttentionMode::Block,
            GoldenMode::Full => AttentionMode::Full,
        }
    }
}

impl GoldenCase {
    /// What `steps`, which continue `parts`, tell.
    ///
    /// # Panics
    /// If there is no step.
    #[must_use]
    pub fn of(name: &str, mode: GoldenMode, parts: &[Part], steps: &[GreedyStep]) -> GoldenCase {
        let ids = |tokens: &[TokenId]| tokens.iter().map(|token| token.0).collect();
        let logits = &steps[0].logits;
        GoldenCase {
            name: name.to_owned(),
            mode,
            parts: parts
                .iter()
                .map(|part| match part.kind {
                    SegmentKind::Document => GoldenPart::Document(ids(&part.tokens)),
                    SegmentKind::Text => GoldenPart::Text(ids(&part.tokens)),
                })
                .collect(),
            top: top(logits, NUM_TOP).into_iter().map(|id| (id as u32, logits[id])).collect(),
            greedy: steps.iter().map(|step| (step.token.0, step.margin)).collect(),
        }
    }

    /// The first way in which `other` tells something else, beyond rounding.
    #[must_use]
    pub fn difference(&self, other: &GoldenCase) -> Option<String> {
        if (&self.name, self.mode, &self.parts) != (&other.name, other.mode, &other.parts) {
            return Some(format!("the prompt is not that of `{}`", other.name));
        }
        if self.top.len() != other.top.len() || self.greedy.len() != other.greedy.len() {
            return Some("another number of logits or tokens".to_owned());
        }
        let pairs = self.top.iter().zip(&other.top).chain(self.greedy.iter().zip(&other.greedy));
        let differs =
            |(a, b): &(&(u32, f64), &(u32, f64))| a.0 != b.0 || (a.1 - b.1).abs() > 1e-9 * b.1.abs();
        pairs.into_iter().find(differs).map(|(a, b)| format!("{a:?} is not {b:?}"))
    }

    /// The prompt.
    #[must_use]
    pub fn prompt(&self) -> Vec<Part> {
        let part = |part: &GoldenPart| match part {
            GoldenPart::Document(ids) => Part::document(ids.iter().copied()),
            GoldenPart::Text(ids) => Part::text(ids.iter().copied()),
        };
        self.parts.iter().map(part).collect()
    }
}

impl GoldenFile {
    /// The tiny model it is about.
    #[must_use]
    pub fn model(&self) -> TinyModel {
        TinyModel { config: self.config.clone(), seed: self.seed }
    }

    /// Asks the oracle about every prompt in `prompts`, in both modes.
    #[must_use]
    pub fn make(model: &TinyModel, prompts: &[Prompt]) -> GoldenFile {
        let oracle = model.oracle();
        let mut cases = Vec::new();
        for (name, parts) in prompts {
            for mode in [GoldenMode::Block, GoldenMode::Full] {
                let steps = oracle.greedy(parts, mode.mode(), NUM_GREEDY);
                cases.push(GoldenCase::of(name, mode, parts, &steps));
            }
        }
        GoldenFile { config: model.config.clone(), seed: model.seed, cases }
    }

    /// JSON with one case per line, so that a change shows as the lines it changes.
    ///
    /// # Errors
    /// None in practice: the data has only string keys.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        let config = serde_json::to_string(&self.config)?;
        let cases = case_lines(&self.cases)?;
        Ok(format!("{{\"config\":{config},\n\"seed\":{},\n\"cases\":[\n{cases}]}}\n", self.seed))
    }

    /// Reads a golden file.
    ///
    /// # Errors
    /// If it cannot be read or is not one.
    pub fn read(path: &Path) -> io::Result<GoldenFile> {
        Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
    }
}

/// One case per line.
///
/// # Errors
/// None in practice: the data has only string keys.
pub fn case_lines(cases: &[GoldenCase]) -> Result<String, serde_json::Error> {
    let mut text = String::new();
    for (index, case) in cases.iter().enumerate() {
        let comma = if index + 1 < cases.len() { "," } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}{comma}", serde_json::to_string(case)?);
    }
    Ok(text)
}

/// Every golden file by name: the models, and the prompts each is asked.
#[must_use]
pub fn golden_set() -> Vec<(String, TinyModel, Vec<Prompt>)> {
    let few = || vec![prompt("interleaved"), prompt("eight_documents")];
    let one = || vec![prompt("interleaved")];
    let mut set = vec![("base".to_owned(), TinyModel::base(), prompts())];
    for (name, kind) in rope_kinds() {
        set.push((format!("rope_{name}"), TinyModel::rope(kind), few()));
    }
    set.push(("rope_partial".into(), TinyModel::base().with(|c| c.rope.rotary_dim = 8), few()));
    let interleaved = TinyModel::base().with(|c| c.rope.pairing = Pairing::Interleaved);
    set.push(("rope_interleaved".into(), interleaved, few()));
    for group in [1, 2, 3, 4, 7, 8] {
        set.push((format!("gqa_{group}"), TinyModel::gqa(group), one()));
    }
    for head_dim in [32, 64] {
        set.push((format!("head_dim_{head_dim}"), TinyModel::head_dim(head_dim), one()));
    }
    let window = TinyModel::base().with(|c| c.sliding_window = Some(WINDOW));
    set.push(("sliding_window".into(), window, vec![prompt("window_edges"), prompt("interleaved")]));
    set.push(("qkv_bias".into(), TinyModel::base().with(|c| c.bias.qkv = true), one()));
    let all_bias = |c: &mut OracleConfig| (c.bias.output, c.bias.mlp) = (true, true);
    set.push(("output_mlp_bias".into(), TinyModel::base().with(all_bias), one()));
    set.push(("qk_norm".into(), TinyModel::base().with(|c| c.qk_norm = true), one()));
    set.push(("tied_head".into(), TinyModel::base().with(|c| c.tied_head = true), one()));
    set
}

/// A prompt and what it is about.
pub type Prompt = (&'static str, Vec<Part>);

/// Window of the `sliding_window` file.
pub const WINDOW: u32 = 12;

/// One of each scaled type. The original context is short so that every branch of every ramp is taken by some pair of
/// 16 dimensions, and all parameters are exact in float32.
#[must_use]
pub fn rope_kinds() -> Vec<(&'static str, RopeKind)> {
    let original_context = 64.0;
    let yarn = |truncate| RopeKind::Yarn {
        factor: 4.0,
        original_context,
        beta_fast: 4.0,
        beta_slow: 0.5,
        attention_factor: 1.125,
        truncate,
    };
    let (low_freq_factor, high_freq_factor) = (1.0, 4.0);
    vec![
        ("linear", RopeKind::Linear { factor: 2.5 }),
        ("llama3", RopeKind::Llama3 { factor: 8.0, low_freq_factor, high_freq_factor, original_context }),
        ("yarn", yarn(true)),
        ("yarn_untruncated", yarn(false)),
    ]
}

/// All prompts by name.
#[must_use]
pub fn prompts() -> Vec<Prompt> {
    let w = WINDOW as usize;
    let many: Vec<usize> = (0..64).map(|index| 1 + index * 5 % 9).collect();
    [
        ("no_documents", Shape { before: 0, documents: &[], between: 0, question: 21 }),
        ("one_document", Shape { before: 0, documents: &[24], between: 0, question: 7 }),
        ("one_token_document", Shape { before: 0, documents: &[1, 10], between: 0, question: 5 }),
        ("one_token_question", Shape { before: 0, documents: &[9, 10], between: 0, question: 1 }),
        ("block_size_edges", Shape { before: 0, documents: &[15, 16, 17], between: 0, question: 6 }),
        ("interleaved", Shape { before: 5, documents: &[9, 20, 3], between: 4, question: 6 }),
        (
            "eight_documents",
            Shape { before: 3, documents: &[3, 24, 8, 1, 16, 5, 12, 7], between: 0, question: 8 },
        ),
        ("sixty_four_documents", Shape { before: 0, documents: &many, between: 0, question: 9 }),
        ("window_edges", Shape { before: 0, documents: &[w - 1, w, w + 1], between: 0, question: w + 1 }),
    ]
    .into_iter()
    .enumerate()
    .map(|(seed, (name, shape))| (name, shape.parts(seed as u64)))
    .chain([("same_document_twice", same_document_twice())])
    .collect()
}

fn prompt(name: &str) -> Prompt {
    let found = prompts().into_iter().find(|(known, _)| *known == name);
    assert!(found.is_some(), "there is no prompt {name}");
    found.unwrap_or_default()
}

fn same_document_twice() -> Vec<Part> {
    let mut rng = SplitMix64::new(99);
    let document = Part::document(ids(13, &mut rng));
    vec![document.clone(), Part::document(ids(4, &mut rng)), document, Part::text(ids(5, &mut rng))]
}

/// Lengths of a prompt's parts; zero leaves a part out.
struct Shape<'a> {
    before: usize,
    documents: &'a [usize],
    between: usize,
    question: usize,
}

impl Shape<'_> {
    fn parts(&self, seed: u64) -> Vec<Part> {
        let mut rng = SplitMix64::new(seed);
        let mut parts = vec![Part::text(ids(self.before, &mut rng))];
        for (index, &length) in self.documents.iter().enumerate() {
            if index > 0 {
                parts.push(Part::text(ids(self.between, &mut rng)));
            }
            parts.push(Part::document(ids(length, &mut rng)));
        }
        parts.push(Part::text(ids(self.question, &mut rng)));
        parts.retain(|part| !part.tokens.is_empty());
        parts
    }
}

fn ids(count: usize, rng: &mut SplitMix64) -> Vec<u32> {
    (0..count).map(|_| rng.below(97) as u32).collect()
}
