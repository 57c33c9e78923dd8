//! Deferred rotation over scattered blocks equals rotated keys under a dense mask.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use lazy_attn_testkit::fixture::golden_set;
use lazy_attn_testkit::generate::{self, Limits};
use lazy_attn_testkit::part::place;
use lazy_attn_testkit::{DeferredExecutor, Oracle, Placed, Player, TinyModel};
use lazy_attn_types::{AttentionMode, BlockSize};
use proptest::prelude::*;

fn player(oracle: &Oracle, block_size: BlockSize) -> Player<DeferredExecutor> {
    Player::new(DeferredExecutor::new(oracle.clone(), 16384 / block_size.get(), block_size), 7)
}

fn check(player: &mut Player<DeferredExecutor>, oracle: &Oracle, context: &[Placed], at: &str) {
    let played = player.play_placed(context).unwrap();
    for (got, expected) in played.logits.iter().zip(oracle.forward_placed(context)) {
        // Logits leave the executor as float32; everything before is float64 to far below that.
        let bound = expected.abs() * f64::from(f32::EPSILON) + 1e-8;
        assert!((f64::from(*got) - expected).abs() <= bound, "{at}: {got} is not {expected}");
    }
    player.release(played);
}

#[test]
fn every_golden_prompt_comes_out_the_same_in_both_modes() {
    for (name, model, prompts) in golden_set() {
        let oracle = model.oracle();
        let mut player = player(&oracle, BlockSize::DEFAULT);
        for (prompt, parts) in prompts {
            for mode in [AttentionMode::Block, AttentionMode::Full] {
                check(&mut player, &oracle, &place(&parts, mode), &format!("{name}, {prompt} ({mode:?})"));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn starts_may_be_anything(
        requests in generate::requests(Limits { max_part_tokens: 12, ..Limits::default() }),
        block_size in generate::block_size(),
        gaps in prop::collection::vec(0u32..50, 8),
        window in prop::option::of(1u32..40),
    ) {
        let oracle = TinyModel::gqa(3).with(|c| c.sliding_window = window).oracle();
        let mut player = player(&oracle, block_size);
        for request in requests {
            let mut context = place(&request, AttentionMode::Block);
            // Documents in parallel, with gaps, or in another order than listed; the question behind them all.
            let end = context.len() - 1;
            for (part, gap) in context[..end].iter_mut().zip(&gaps) {
                part.start = *gap;
            }
            context[end].start += 100;
            check(&mut player, &oracle, &context, "random starts");
        }
    }
}
