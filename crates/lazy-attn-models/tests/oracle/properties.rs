//! The same tokens must come out however they are driven: bit for bit.

use lazy_attn_testkit::driver::{Played, RunSpec};
use lazy_attn_testkit::generate::{self, Limits};
use lazy_attn_testkit::part::place;
use lazy_attn_testkit::{Part, TinyModel};
use lazy_attn_types::AttentionMode::{self, Block};
use lazy_attn_types::SegmentKind;
use proptest::prelude::*;

use crate::support::{Setup, Stored, TinyPlayer, player};

fn limits() -> Limits {
    Limits { vocab_size: 97, max_parts: 5, max_part_tokens: 24, max_requests: 4 }
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// A player in the cheapest model that has every feature of attention: a window, biases, a partial rotation.
fn featured() -> TinyModel {
    TinyModel::gqa(3).with(|c| {
        c.sliding_window = Some(37);
        c.bias.qkv = true;
        c.rope.rotary_dim = 8;
    })
}

fn fresh_bits(setup: Setup, parts: &[Part], mode: AttentionMode) -> Vec<u32> {
    bits(&player(&featured(), setup).play(parts, mode).unwrap().logits)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn resident_documents_give_the_bits_of_fresh_ones_in_any_order(
        requests in generate::requests(limits()),
        kv in prop_oneof![Just(Stored::F32), Just(Stored::Bf16), Just(Stored::F16)],
        block_size in generate::block_size(),
    ) {
        let setup = Setup { kv, block_size: block_size.get(), ..Setup::default() };
        let mut warm = player(&featured(), setup);
        for request in &requests {
            let mut request = request.clone();
            for _ in 0..2 {
                let played = warm.play(&request, Block).unwrap();
                prop_assert_eq!(bits(&played.logits), fresh_bits(setup, &request, Block));
                warm.release(played);
                // Documents lie between an optional first text and the question.
                let first = usize::from(request[0].kind == SegmentKind::Text && request.len() > 1);
                let end = request.len() - 1;
                request[first..end].reverse();
            }
        }
    }

    #[test]
    fn shifting_a_whole_context_changes_no_bit(parts in generate::parts(limits()), shift in 1u32..100_000) {
        let mut player = player(&featured(), Setup::default());
        let context = place(&parts, Block);
        let here = player.play_placed(&context).unwrap();
        let mut shifted = context;
        shifted.iter_mut().for_each(|part| part.start += shift);
        let there = player.play_placed(&shifted).unwrap();
        prop_assert_eq!(bits(&here.logits), bits(&there.logits));
    }

    #[test]
    fn a_prompt_run_in_pieces_gives_the_bits_of_one_run(
        parts in generate::parts(limits()),
        mode in generate::mode(),
        max_run_tokens in 1usize..24,
    ) {
        let mut pieces = player(&featured(), Setup::default());
        pieces.max_run_tokens = max_run_tokens;
        let logits = pieces.play(&parts, mode).unwrap().logits;
        prop_assert_eq!(bits(&logits), fresh_bits(Setup::default(), &parts, mode));
    }

    #[test]
    fn a_sequence_in_a_batch_gives_its_bits_alone(requests in generate::requests(limits())) {
        let mut together = player(&featured(), Setup::default());
        let batched = last_texts_in_one_step(&mut together, &requests);
        for (request, logits) in requests.iter().zip(batched) {
            prop_assert_eq!(bits(&logits), fresh_bits(Setup::default(), request, Block));
        }
    }
}

/// Plays everything but the questions, then all questions, of different lengths, in one step.
fn last_texts_in_one_step(player: &mut TinyPlayer, requests: &[Vec<Part>]) -> Vec<Vec<f32>> {
    let mut contexts: Vec<Played> = Vec::new();
    for request in requests {
        let context = place(request, Block);
        let (question, earlier) = context.split_last().unwrap();
        let mut played = player.play_placed(earlier).unwrap();
        let room = player.pool.allocate(question.tokens.len() as u32);
        played.segments.push((room, question.start));
        contexts.push(played);
    }
    let runs: Vec<RunSpec<'_>> =
        contexts.iter().zip(requests).map(|(played, request)| question_run(played, request)).collect();
    player.step(&runs).unwrap()
}

fn question_run<'a>(played: &'a Played, request: &'a [Part]) -> RunSpec<'a> {
    let tokens = &request.last().unwrap().tokens;
    RunSpec {
        context: played.segments.iter().map(|(segment, start)| (segment, *start)).collect(),
        tokens,
        first_local: 0,
        outputs: vec![tokens.len() as u32 - 1],
    }
}

#[test]
fn a_document_and_its_readers_may_run_in_one_step() {
    let request = [Part::document(10..31), Part::text(40..45)];
    let mut player = player(&featured(), Setup::default());
    let mut document = player.pool.allocate(21);
    let [first, second] = [5, 5].map(|tokens| player.pool.allocate(tokens));
    // What readers see of it is what the step leaves, wherever its run stands in the step.
    document.num_tokens = 21;
    let document_run = RunSpec {
        context: vec![(&document, 0)],
        tokens: &request[0].tokens,
        first_local: 0,
        outputs: Vec::new(),
    };
    let question = |own| RunSpec {
        context: vec![(&document, 0), (own, 21)],
        tokens: &request[1].tokens,
        first_local: 0,
        outputs: vec![4],
    };
    let logits = player.step(&[question(&first), document_run, question(&second)]).unwrap();
    let expected = fresh_bits(Setup::default(), &request, Block);
    for row in logits {
        assert_eq!(bits(&row), expected);
    }
}

#[test]
fn exact_weights_give_the_same_bits_from_any_file_dtype_and_any_number_of_threads() {
    let request = [Part::document(10..31), Part::text(40..45)];
    let expected = fresh_bits(Setup::default(), &request, Block);
    let files =
        [Stored::Bf16, Stored::F16, Stored::Q8_0].map(|weights| Setup { weights, ..Setup::default() });
    let threads = [1, 3].map(|num_threads| Setup { num_threads, ..Setup::default() });
    for setup in files.into_iter().chain(threads) {
        assert_eq!(fresh_bits(setup, &request, Block), expected, "{setup:?}");
    }
}
