//! Against the golden files and the oracle that wrote them.

use std::path::Path;

use lazy_attn_models::cpu::WeightDtype;
use lazy_attn_testkit::Oracle;
use lazy_attn_testkit::driver::greedy_token;
use lazy_attn_testkit::fixture::{GoldenCase, GoldenFile, GoldenMode, golden_set};
use lazy_attn_testkit::part::{Placed, place};
use lazy_attn_types::SegmentKind;

use crate::support::{Setup, Stored, TinyPlayer, as_f64, player};
use crate::tolerance::{self, max_difference};

fn golden_files() -> Vec<(String, GoldenFile)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let read = |name: &str| GoldenFile::read(&directory.join(format!("{name}.json"))).unwrap();
    golden_set().into_iter().map(|(name, _, _)| (name.clone(), read(&name))).collect()
}

#[test]
fn the_oracle_still_says_what_the_golden_files_say() {
    for ((name, file), (_, model, prompts)) in golden_files().into_iter().zip(golden_set()) {
        assert_eq!(
            file.model(),
            model,
            "{name}: the file is about another model; write the golden files again"
        );
        let again = GoldenFile::make(&model, &prompts);
        assert_eq!(again.cases.len(), file.cases.len(), "{name}");
        for (new, old) in again.cases.iter().zip(&file.cases) {
            assert_eq!(new.difference(old), None, "{name}, {} ({:?})", old.name, old.mode);
        }
    }
}

#[test]
fn logits_and_greedy_tokens_are_those_of_the_golden_files() {
    let (mut compared, mut all) = (0, 0);
    // Tiny weights are exact in bfloat16 and its products are taken in float32: one tolerance for both.
    for weight_dtype in [WeightDtype::F32, WeightDtype::Bf16] {
        for (name, file) in golden_files() {
            let mut player = player(&file.model(), Setup { weight_dtype, ..Setup::default() });
            for case in &file.cases {
                let at = format!("{name}, {} ({:?}), {weight_dtype:?}", case.name, case.mode);
                compared += check_case(&mut player, &file, case, &at);
                all += case.greedy.len();
            }
        }
    }
    assert!(10 * compared > 9 * all, "only {compared} of {all} greedy tokens have a margin to compare by");
}

/// Checks one golden case; returns how many greedy tokens had a margin to compare by.
fn check_case(player: &mut TinyPlayer, file: &GoldenFile, case: &GoldenCase, at: &str) -> usize {
    let tolerance = tolerance::of_case(&file.config, case);
    let mut played = player.play(&case.prompt(), case.mode.mode()).unwrap();
    for &(token, logit) in &case.top {
        let got = f64::from(played.logits[token as usize]);
        assert!((got - logit).abs() <= tolerance, "{at}: {got} is not {logit} within {tolerance}");
    }
    // Both logits of a margin may be off; behind a closer call the two may rightly go separate ways.
    let clear = case.greedy.iter().take_while(|(_, margin)| *margin > 2.0 * tolerance);
    let mut compared = 0;
    for &(token, margin) in clear {
        let got = greedy_token(&played.logits);
        assert_eq!(got.0, token, "{at}: greedy token {compared}, margin {margin}");
        compared += 1;
        player.advance(&mut played, got).unwrap();
    }
    player.release(played);
    compared
}

/// `context` with its document `index` moved by one position.
fn moved(context: &[Placed], index: usize) -> Vec<Placed> {
    let mut moved = context.to_vec();
    moved[index].start += 1;
    moved
}

#[test]
fn one_wrong_position_is_far_outside_the_tolerance_and_where_the_oracle_puts_it() {
    for (name, file) in golden_files() {
        let oracle = file.model().oracle();
        let mut player = player(&file.model(), Setup::default());
        for case in file.cases.iter().filter(|case| case.mode == GoldenMode::Block) {
            let at = format!("{name}, {}", case.name);
            let tolerance = tolerance::of_case(&file.config, case);
            let context = place(&case.prompt(), case.mode.mode());
            let right = oracle.forward_placed(&context);
            let documents = (0..context.len()).filter(|&i| context[i].kind == SegmentKind::Document);
            let mut largest: Option<f64> = None;
            // A document of one token may hardly matter, so the one that matters most is asked for.
            for index in documents.take(8) {
                let wrong = moved(&context, index);
                let played = player.play_placed(&wrong).unwrap();
                let logits = as_f64(&played.logits);
                player.release(played);
                let difference = max_difference(&logits, &oracle.forward_placed(&wrong));
                assert!(difference <= tolerance, "{at}: {difference} within {tolerance}");
                let effect = max_difference(&logits, &right);
                largest = Some(largest.map_or(effect, |largest| largest.max(effect)));
            }
            if let Some(effect) = largest {
                assert!(effect > 100.0 * tolerance, "{at}: {effect} against a tolerance of {tolerance}");
            }
        }
    }
}

#[test]
fn rounded_keys_and_values_change_the_logits_no_more_than_their_roundoff_explains() {
    let dtypes = [(Stored::F16, tolerance::F16_ROUNDOFF), (Stored::Bf16, tolerance::BF16_ROUNDOFF)];
    let totals = dtypes.map(|(kv, roundoff)| {
        let files = golden_files();
        files.iter().map(|(name, file)| check_kv_dtype(name, file, kv, roundoff)).sum::<f64>()
    });
    // Three bits fewer: eight times the error, give or take half of it. Zero would mean that nothing was rounded.
    assert!(totals[0] > 0.0 && (4.0..16.0).contains(&(totals[1] / totals[0])), "f16, bf16: {totals:?}");
}

/// Checks every short prompt of `file` with the KV store in `kv`; returns the sum of the differences.
fn check_kv_dtype(name: &str, file: &GoldenFile, kv: Stored, roundoff: f64) -> f64 {
    let oracle = file.model().oracle();
    let mut player = player(&file.model(), Setup { kv, ..Setup::default() });
    let mut total = 0.0;
    for case in file.cases.iter().filter(|case| case.parts.len() < 10) {
        let at = format!("{name}, {} ({:?}) with KV in {kv:?}", case.name, case.mode);
        let forward = |oracle: &Oracle| oracle.forward(&case.prompt(), case.mode.mode());
        let tolerance =
            tolerance::of_case(&file.config, case) + tolerance::of_kv_dtype(&oracle, roundoff, forward);
        let played = player.play(&case.prompt(), case.mode.mode()).unwrap();
        let difference = max_difference(&as_f64(&played.logits), &forward(&oracle));
        assert!(difference <= tolerance, "{at}: {difference} within {tolerance}");
        player.release(played);
        total += difference;
    }
    total
}
