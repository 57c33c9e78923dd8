//! Many sequences over the same documents in many orders: the device draws what the CPU would, wherever the CPU is sure. In bf16
//! that means by more than its roundings may move two logits apart, which is more than the margin that f16 is held to.
//!
//! `LAZY_ATTN_TEST_MODEL` and `LAZY_ATTN_TEST_GOLDEN` put another model of the same tokenizer, and prompts for it, in the place
//! of the embedded ones.

use std::collections::HashSet;

use lazy_attn_models::ModelParts;
use lazy_attn_models::cpu::{CpuExecutor, CpuOptions, KvBudget};
use lazy_attn_models::cuda::{CudaExecutor, CudaKvBudget, CudaOptions};
use lazy_attn_models::weights::HalfDtype;
use lazy_attn_models::{LoadedModel, Silent};
use lazy_attn_testkit::driver::{Played, greedy_token};
use lazy_attn_testkit::{Part, Player};
use lazy_attn_types::exec::OutputKind;
use lazy_attn_types::{AttentionMode, Executor, TokenId};

use crate::batch::{GREEDY, drawn, grow, step};
use crate::golden::cases;
use crate::{cpu_options, device, embedded, margin, tolerance, with_dtype};

const NUM_TOKENS: usize = 12;
const NUM_SEQUENCES: usize = 32;
/// Room for every prompt as text of its own.
const NUM_BLOCKS: u32 = 4096;
/// Below this the CPU itself is not sure: 16 bits may decide otherwise.
const SURE: f64 = 0.1;
const DTYPES: [HalfDtype; 2] = [HalfDtype::F16, HalfDtype::Bf16];

/// A token of which the CPU is sure.
struct Sure {
    token: TokenId,
    margin: f64,
    /// How far roundings to each of [`DTYPES`] may move two logits apart: of two independent errors the deviations add up as
    /// squares.
    moves: [f64; 2],
}

/// The golden prompt of `mode` with the longest documents, over those documents cut into five, in as many orders as there are
/// sequences.
fn prompts(mode: AttentionMode) -> Vec<Vec<Part>> {
    let of_documents = |prompt: &[Part]| -> Vec<TokenId> {
        prompt[1..prompt.len() - 1].iter().flat_map(|part| part.tokens.iter().copied()).collect()
    };
    let cases = cases().into_iter().filter(|case| case.mode == mode);
    let longest = cases.max_by_key(|case| of_documents(&case.prompt).len()).unwrap().prompt;
    let tokens = of_documents(&longest);
    // Uneven, so that blocks end in other places.
    let cuts = [0, 1, 3, 4, 7, 10].map(|tenth| tokens.len() * tenth / 10);
    let document = |at: usize| Part::document(tokens[cuts[at]..cuts[at + 1]].iter().map(|token| token.0));
    let prompt = |index: usize| {
        let documents = order(index).into_iter().map(document);
        let (first, last) = (longest[0].clone(), longest[longest.len() - 1].clone());
        std::iter::once(first).chain(documents).chain([last]).collect()
    };
    let prompts: Vec<Vec<Part>> = (0..NUM_SEQUENCES).map(prompt).collect();
    let documents = |prompt: &Vec<Part>| of_documents(prompt);
    let different: HashSet<Vec<TokenId>> = prompts.iter().map(documents).collect();
    assert_eq!(different.len(), NUM_SEQUENCES, "orders that are the same test nothing new");
    prompts
}

/// Order `index` of five documents, of 120.
fn order(mut index: usize) -> Vec<usize> {
    let mut left: Vec<usize> = (0..5).collect();
    let mut order = Vec::new();
    while !left.is_empty() {
        order.push(left.remove(index % left.len()));
        index /= left.len() + 1;
    }
    order
}

/// What the CPU would say: tokens of each sequence up to the first of which it is not sure.
fn on_cpu(model: &LoadedModel, prompts: &[Vec<Part>], mode: AttentionMode) -> Vec<Vec<Sure>> {
    let num_layers = model.config.num_layers;
    let options = CpuOptions { kv_budget: KvBudget::Blocks(NUM_BLOCKS), ..cpu_options() };
    let mut cpu = Player::new(CpuExecutor::new(ModelParts::from(model), &options, &Silent).unwrap(), 2);
    let mut continued = |prompt: &Vec<Part>| {
        let mut played = cpu.play(prompt, mode).unwrap();
        let mut tokens = Vec::new();
        while tokens.len() < NUM_TOKENS && margin(&played.logits) >= SURE {
            let token = greedy_token(&played.logits);
            let moves = DTYPES.map(|dtype| 2f64.sqrt() * tolerance(&played.logits, dtype, num_layers));
            tokens.push(Sure { token, margin: margin(&played.logits), moves });
            cpu.advance(&mut played, token).unwrap();
        }
        cpu.release(played);
        tokens
    };
    prompts.iter().map(&mut continued).collect()
}

/// Continues `prompts` in steps of `batch` sequences.
fn on_device(
    model: &LoadedModel,
    options: CudaOptions,
    (prompts, mode): (&[Vec<Part>], AttentionMode),
    batch: usize,
) -> Vec<Vec<TokenId>> {
    let options =
        CudaOptions { kv_budget: CudaKvBudget::Blocks(NUM_BLOCKS), max_step_tokens: 1024, ..options };
    let executor = CudaExecutor::new(&device(), ModelParts::from(model), &options, &Silent).unwrap();
    let mut player = Player::new(executor, 5);
    let mut all = Vec::new();
    for prompts in prompts.chunks(batch) {
        let mut played: Vec<Played> =
            prompts.iter().map(|prompt| player.play(prompt, mode).unwrap()).collect();
        let mut tokens: Vec<TokenId> = played.iter().map(|played| greedy_token(&played.logits)).collect();
        let mut continued: Vec<Vec<TokenId>> = tokens.iter().map(|&token| vec![token]).collect();
        for _ in 1..NUM_TOKENS {
            let mut input = step(&played, &tokens);
            input.outputs = vec![OutputKind::Token(GREEDY); prompts.len()];
            tokens = drawn(&player.executor.execute(&input).unwrap());
            grow(&mut played);
            continued.iter_mut().zip(&tokens).for_each(|(all, &token)| all.push(token));
        }
        all.append(&mut continued);
        played.into_iter().for_each(|played| player.release(played));
    }
    all
}

/// How a device's tokens compare with those of which the CPU is sure, each sequence up to where it leaves the CPU's way.
#[derive(Default)]
struct Tally {
    num_equal: usize,
    /// Tokens that are others although the margin is larger than what roundings may move.
    wrong: Vec<String>,
    /// Others where roundings may decide.
    rounded: Vec<String>,
}

impl Tally {
    fn add(&mut self, got: &[TokenId], want: &[Sure], dtype: usize, at: &str) {
        let differs = got.iter().zip(want).position(|(got, want)| *got != want.token);
        self.num_equal += differs.unwrap_or(want.len());
        if let Some(place) = differs {
            let Sure { token, margin, moves } = &want[place];
            let told = format!("{at}, token {place}: {:?} for {token:?}, margin {margin:.3}", got[place]);
            let list = if *margin > moves[dtype] { &mut self.wrong } else { &mut self.rounded };
            list.push(told);
        }
    }
}

fn check(mode: AttentionMode) {
    let (model, prompts) = (embedded(), prompts(mode));
    let want = on_cpu(&model, &prompts, mode);
    let num_sure: usize = want.iter().map(Vec::len).sum();
    println!("{mode:?}: the CPU is sure of {num_sure} of {} tokens", NUM_SEQUENCES * NUM_TOKENS);
    // A model that is sure of nothing would prove nothing.
    assert!(num_sure >= 2 * NUM_SEQUENCES, "{num_sure}");
    let mut wrong = Vec::new();
    for (index, dtype) in DTYPES.into_iter().enumerate() {
        let beyond = want.iter().flatten().filter(|sure| sure.margin > sure.moves[index]).count();
        println!("{mode:?} {dtype:?}: of {beyond} of them more than roundings may move");
        assert!(beyond >= NUM_SEQUENCES, "{beyond}");
        for (graphs, batch) in [(true, 1), (false, 1), (true, NUM_SEQUENCES), (false, NUM_SEQUENCES)] {
            let options = CudaOptions { graphs, ..with_dtype(dtype) };
            let got = on_device(&model, options, (&prompts, mode), batch);
            let at = format!("{mode:?} {dtype:?}, graphs {graphs}, batch {batch}");
            let mut tally = Tally::default();
            for (sequence, (got, want)) in got.iter().zip(&want).enumerate() {
                tally.add(got, want, index, &format!("{at}, sequence {sequence}"));
            }
            println!("{at}: {} tokens as on the CPU; others: {:?}", tally.num_equal, tally.rounded);
            // f16 is close enough to be held to the CPU wherever that is sure.
            wrong.extend(if dtype == HalfDtype::F16 { tally.rounded } else { Vec::new() });
            wrong.append(&mut tally.wrong);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn sequences_over_documents_in_any_order_are_continued_as_on_the_cpu() {
    check(AttentionMode::Block);
}

#[test]
fn sequences_over_one_causal_context_are_continued_as_on_the_cpu() {
    check(AttentionMode::Full);
}
