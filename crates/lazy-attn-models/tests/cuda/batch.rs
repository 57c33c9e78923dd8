//! Many sequences a step: graphs or launches, drawn on the device or on the host, the tokens are the same.

use lazy_attn_models::cuda::{CudaExecutor, CudaOptions};
use lazy_attn_models::weights::HalfDtype;
use lazy_attn_testkit::driver::{Played, RunSpec, StepBuilder, greedy_token};
use lazy_attn_testkit::{Part, Player};
use lazy_attn_types::exec::{CarriedToken, OutputKind, RowSampling, SampledRow};
use lazy_attn_types::{AttentionMode, Executor, StepInput, StepOutput, TokenId};

use crate::golden::cases;
use crate::{embedded, on_device, with_dtype};

pub(crate) const GREEDY: RowSampling =
    RowSampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0, draw: 0 };

/// Contexts over the documents of the golden prompts, each with a text of its own.
fn prompts(count: usize) -> Vec<Vec<Part>> {
    let cases: Vec<_> = cases().into_iter().filter(|case| case.mode == AttentionMode::Block).collect();
    let prompt = |index: usize| {
        let mut prompt = cases[index % cases.len()].prompt.clone();
        let last = prompt.len() - 1;
        prompt[1..last].rotate_left(index % (last - 1).max(1));
        prompt[last].tokens.rotate_left(index / cases.len());
        prompt
    };
    (0..count).map(prompt).collect()
}

/// One token of every sequence.
pub(crate) fn step(played: &[Played], tokens: &[TokenId]) -> StepInput {
    let mut builder = StepBuilder::new();
    for (played, token) in played.iter().zip(tokens) {
        let context: Vec<_> = played.segments.iter().map(|(segment, start)| (segment, *start)).collect();
        let first_local = played.segments[played.segments.len() - 1].0.num_tokens;
        let tokens = std::slice::from_ref(token);
        builder.push(&RunSpec { context, tokens, first_local, outputs: vec![0] });
    }
    builder.finish()
}

pub(crate) fn drawn(output: &StepOutput) -> Vec<TokenId> {
    let token = |row: &SampledRow| if let SampledRow::Token(token) = row { Some(*token) } else { None };
    output.tokens.iter().map(|row| token(row).unwrap()).collect()
}

pub(crate) fn grow(played: &mut [Played]) {
    for played in played {
        played.segments.last_mut().unwrap().0.num_tokens += 1;
    }
}

/// Continues `count` sequences by `num_tokens`; drawn on the host from logits, or by the device.
fn continued(options: CudaOptions, count: usize, on_host: bool) -> Vec<Vec<TokenId>> {
    let model = embedded();
    let mut player: Player<CudaExecutor> = Player::new(on_device(&model, options), 5);
    let mut played: Vec<Played> =
        prompts(count).iter().map(|prompt| player.play(prompt, AttentionMode::Block).unwrap()).collect();
    let mut tokens: Vec<TokenId> = played.iter().map(|played| greedy_token(&played.logits)).collect();
    let vocab = player.executor.info().vocab_size as usize;
    let mut all = vec![tokens.clone()];
    for _ in 0..12 {
        let mut input = step(&played, &tokens);
        if !on_host {
            input.outputs = vec![OutputKind::Token(GREEDY); count];
        }
        let output = player.executor.execute(&input).unwrap();
        tokens = if on_host {
            output.logits.chunks_exact(vocab).map(greedy_token).collect()
        } else {
            let token =
                |row: &SampledRow| if let SampledRow::Token(token) = row { Some(*token) } else { None };
            output.tokens.iter().map(|row| token(row).unwrap()).collect()
        };
        grow(&mut played);
        all.push(tokens.clone());
    }
    all
}

#[test]
fn graphs_and_launches_draw_the_same_tokens_at_every_batch() {
    for count in [1, 7, 32] {
        let graphs = CudaOptions { graphs: true, ..with_dtype(HalfDtype::F16) };
        let eager = CudaOptions { graphs: false, ..with_dtype(HalfDtype::F16) };
        let want = continued(eager, count, true);
        assert_eq!(want.len(), 13);
        assert_eq!(continued(graphs, count, true), want, "{count} sequences, graphs");
        assert_eq!(continued(graphs, count, false), want, "{count} sequences, graphs, drawn on the device");
        assert_eq!(continued(eager, count, false), want, "{count} sequences, drawn on the device");
    }
}

#[test]
fn rows_of_logits_and_drawn_rows_mix_in_a_step_of_prompts_and_continuations() {
    let model = embedded();
    let options = CudaOptions { max_logit_rows: 4, ..with_dtype(HalfDtype::F16) };
    let mut player = Player::new(on_device(&model, options), 5);
    let prompts = prompts(9);
    let played: Vec<Played> =
        prompts.iter().map(|prompt| player.play(prompt, AttentionMode::Block).unwrap()).collect();
    let tokens: Vec<TokenId> = played.iter().map(|played| greedy_token(&played.logits)).collect();
    let plain = step(&played, &tokens);
    let want = player.executor.execute(&plain).unwrap();
    let vocab = player.executor.info().vocab_size as usize;
    let mut mixed = plain.clone();
    mixed.outputs = vec![OutputKind::Token(GREEDY); 9];
    mixed.outputs[1] = OutputKind::Logits;
    mixed.outputs[8] = OutputKind::Logits;
    let got = player.executor.execute(&mixed).unwrap();
    let rows: Vec<&[f32]> = want.logits.chunks_exact(vocab).collect();
    assert_eq!(got.logits, [rows[1], rows[8]].concat());
    let drawn = [0, 2, 3, 4, 5, 6, 7].map(|row| SampledRow::Token(greedy_token(rows[row])));
    assert_eq!(got.tokens, drawn);
}

#[test]
fn steps_submitted_ahead_with_carried_tokens_are_those_run_one_by_one() {
    for count in [1, 7, 32] {
        let options = with_dtype(HalfDtype::F16);
        let want = continued(options, count, false);
        let model = embedded();
        let mut player = Player::new(on_device(&model, options), 5);
        let mut played: Vec<Played> =
            prompts(count).iter().map(|prompt| player.play(prompt, AttentionMode::Block).unwrap()).collect();
        let first: Vec<TokenId> = played.iter().map(|played| greedy_token(&played.logits)).collect();
        let mut got = vec![first.clone()];
        for turn in 0..12 {
            let mut input = step(&played, &first);
            input.outputs = vec![OutputKind::Token(GREEDY); count];
            if turn > 0 {
                // What stands in `tokens` is wrong on purpose.
                input.carried = (0..count as u32).map(|at| CarriedToken { token: at, row: at }).collect();
            }
            player.executor.submit(&input).unwrap();
            grow(&mut played);
            if turn > 0 {
                got.push(drawn(&player.executor.wait().unwrap()));
            }
        }
        got.push(drawn(&player.executor.wait().unwrap()));
        assert_eq!(got, want, "{count} sequences");
    }
}
