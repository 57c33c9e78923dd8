//! The fake executor must equal its reference when driven rightly, and differ when driven wrongly.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use lazy_attn_testkit::fake::reference::expected_placed;
use lazy_attn_testkit::generate::{self, Limits};
use lazy_attn_testkit::part::place;
use lazy_attn_testkit::{FakeConfig, FakeExecutor, Part, Player, expected_tokens};
use lazy_attn_types::{AttentionMode, BlockSize, ExecError, Executor, TokenId};
use proptest::prelude::*;

const VOCAB: u32 = 1000;

fn config() -> FakeConfig {
    FakeConfig { vocab_size: VOCAB, ..FakeConfig::default() }
}

fn player(config: FakeConfig, seed: u64) -> Player<FakeExecutor> {
    Player::new(FakeExecutor::new(config), seed)
}

fn parts() -> Vec<Part> {
    vec![
        Part::text(0..5),
        Part::document(10..40),
        Part::document([7]),
        Part::document(50..66),
        Part::text(70..75),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rightly_driven_requests_give_the_reference_tokens(
        requests in generate::requests(Limits::default()),
        mode in generate::mode(),
        block_size in generate::block_size(),
        window in prop::option::of(1u32..60),
        max_run_tokens in 1usize..50,
        seed: u64,
    ) {
        let config = FakeConfig { block_size, num_blocks: 4096, sliding_window: window, ..config() };
        let mut player = player(config, seed);
        player.max_run_tokens = max_run_tokens;
        for request in requests {
            let expected = expected_placed(place(&request, mode), window, VOCAB, 4);
            prop_assert_eq!(player.greedy(&request, mode, 4).unwrap(), expected);
        }
    }

    #[test]
    fn generated_steps_are_valid(step in generate::step(Limits::default())) {
        let executor = FakeExecutor::new(FakeConfig {
            num_blocks: step.num_blocks,
            block_size: step.block_size,
            ..FakeConfig::default()
        });
        prop_assert!(step.input.validate(executor.info()).is_ok());
    }
}

/// The greedy token of the last row when the context is played with a changed view of it.
fn token_of(change: impl FnOnce(&mut lazy_attn_testkit::driver::Played)) -> TokenId {
    let mut player = player(config(), 1);
    let mut played = player.play(&parts(), AttentionMode::Block).unwrap();
    change(&mut played);
    player.advance(&mut played, TokenId(3)).unwrap();
    lazy_attn_testkit::driver::greedy_token(&played.logits)
}

#[test]
fn a_wrong_start_order_or_missing_segment_changes_the_token() {
    let right = token_of(|_| {});
    let wrong: [(&str, TokenId); 5] = [
        ("a start one too far", token_of(|played| played.segments[1].1 += 1)),
        (
            "two starts exchanged",
            token_of(|played| {
                let starts = (played.segments[1].1, played.segments[3].1);
                (played.segments[3].1, played.segments[1].1) = starts;
            }),
        ),
        ("a document left out", token_of(|played| drop(played.segments.remove(2)))),
        ("a document cut short", token_of(|played| played.segments[3].0.num_tokens -= 1)),
        (
            "two documents' blocks exchanged",
            token_of(|played| {
                let blocks = played.segments[1].0.blocks[0];
                played.segments[1].0.blocks[0] = played.segments[3].0.blocks[0];
                played.segments[3].0.blocks[0] = blocks;
            }),
        ),
    ];
    for (what, token) in wrong {
        assert_ne!(token, right, "{what}");
    }
}

#[test]
fn reordering_documents_runs_no_document_again() {
    let mut player = player(config(), 2);
    let probe = player.executor.probe();
    let mut request = parts();
    player.greedy(&request, AttentionMode::Block, 1).unwrap();
    let before = probe.num_tokens_run();
    request.swap(1, 3);
    let tokens = player.greedy(&request, AttentionMode::Block, 1).unwrap();
    assert_eq!(tokens, expected_tokens(&request, AttentionMode::Block, VOCAB, 1));
    assert_eq!(probe.num_tokens_run() - before, 10, "only the text around the documents");
}

#[test]
fn an_unwritten_or_stale_slot_is_reported() {
    let mut player = player(FakeConfig { block_size: BlockSize::new(4).unwrap(), ..config() }, 3);
    let mut played = player.play(&parts(), AttentionMode::Block).unwrap();
    played.segments[1].0.blocks.swap(0, 1);
    played.segments[2].0.blocks = player.pool.allocate(1).blocks;
    let failed = player.advance(&mut played, TokenId(3));
    assert!(matches!(failed, Err(ExecError::InvalidStep(_))), "{failed:?}");
}

#[test]
fn a_scripted_failure_happens_once_and_invalidates_what_the_step_wrote() {
    let mut player = player(config(), 4);
    player.executor.probe().fail_at(1, ExecError::Failed("scripted".into()));
    let mut played = player.play(&parts()[4..], AttentionMode::Block).unwrap();
    let kept = played.clone();
    assert!(player.advance(&mut played, TokenId(3)).is_err());
    let mut trusting = kept.clone();
    trusting.segments[0].0.num_tokens += 1;
    let failed = player.advance(&mut trusting, TokenId(3));
    assert!(
        matches!(failed, Err(ExecError::InvalidStep(_))),
        "the failed step's token was readable: {failed:?}"
    );
    let mut retried = kept;
    player.advance(&mut retried, TokenId(3)).unwrap();
    assert_eq!(player.executor.probe().num_steps(), 4);
}

#[test]
fn forced_tokens_win_over_hashed_ones() {
    let mut player = player(config(), 5);
    let probe = player.executor.probe();
    probe.force_chain(&[TokenId(74), TokenId(11), TokenId(12)]);
    let tokens = player.greedy(&parts(), AttentionMode::Full, 2).unwrap();
    assert_eq!(tokens, [TokenId(11), TokenId(12)]);
    // Every run of text asks for one row, and there are five in full mode.
    probe.force((0..5).map(|_| TokenId(42)));
    assert_eq!(player.greedy(&parts(), AttentionMode::Full, 1).unwrap(), [TokenId(42)]);
}
