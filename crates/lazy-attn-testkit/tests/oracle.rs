//! Facts about attention that the oracle must satisfy whatever the weights are.

use lazy_attn_testkit::fixture::{golden_set, prompts};
use lazy_attn_testkit::oracle::Oracle;
use lazy_attn_testkit::part::place;
use lazy_attn_testkit::{Part, TinyModel};
use lazy_attn_types::AttentionMode::{Block, Full};
use lazy_attn_types::TokenId;

fn difference(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

fn oracle() -> Oracle {
    TinyModel::base().oracle()
}

#[test]
fn shifting_a_whole_context_changes_nothing_but_rounding() {
    for (name, model, _) in golden_set() {
        let oracle = model.oracle();
        let parts = [Part::text(0..4), Part::document(20..30), Part::document([9]), Part::text(40..45)];
        let placed = place(&parts, Block);
        let mut shifted = placed.clone();
        shifted.iter_mut().for_each(|part| part.start += 1000);
        // sin and cos of angles near 1000 lose about 1000 ulp.
        let change = difference(&oracle.forward_placed(&placed), &oracle.forward_placed(&shifted));
        assert!(change < 1e-9, "{name}: {change}");
    }
}

#[test]
fn moving_one_document_changes_the_logits_visibly() {
    let placed = place(&[Part::document(20..30), Part::document(50..57), Part::text(40..45)], Block);
    let mut moved = placed.clone();
    moved[0].start += 1;
    let change = difference(&oracle().forward_placed(&placed), &oracle().forward_placed(&moved));
    assert!(change > 1e-3, "{change}");
}

#[test]
fn modes_agree_on_one_leading_document_and_differ_on_two() {
    let one = [Part::document(20..30), Part::text(40..45)];
    assert!(difference(&oracle().forward(&one, Block), &oracle().forward(&one, Full)) < 1e-12);
    let two = [Part::document(20..30), Part::document(50..57), Part::text(40..45)];
    assert!(difference(&oracle().forward(&two, Block), &oracle().forward(&two, Full)) > 1e-3);
}

#[test]
fn a_window_longer_than_the_context_hides_nothing() {
    let windowed = |window| TinyModel::base().with(|c| c.sliding_window = Some(window)).oracle();
    let parts = [Part::document(20..30), Part::text(40..45)];
    let whole = oracle().forward(&parts, Block);
    assert_eq!(windowed(15).forward(&parts, Block), whole);
    assert!(difference(&windowed(14).forward(&parts, Block), &whole) > 1e-6, "position 0 is out of sight");
}

#[test]
fn greedy_continuation_is_that_of_the_prompt_with_its_tokens_appended() {
    for (_, parts) in prompts().into_iter().take(3) {
        let steps = oracle().greedy(&parts, Block, 2);
        let mut longer = parts;
        longer.push(Part::text([steps[0].token.0]));
        assert!(difference(&oracle().forward(&longer, Block), &steps[1].logits) < 1e-12);
        assert!(steps.iter().all(|step| step.margin >= 0.0));
    }
}

#[test]
fn greedy_tokens_from_a_guess_are_those_of_one_after_the_other_however_wrong_it_is() {
    for (name, parts) in prompts().into_iter().take(4) {
        for mode in [Block, Full] {
            let steps = oracle().greedy(&parts, mode, 4);
            let right: Vec<TokenId> = steps.iter().map(|step| step.token).collect();
            let half = [&right[..2], &[TokenId(1), TokenId(1)]].concat();
            for guess in [right.clone(), half, vec![TokenId(0); 4]] {
                let again = oracle().greedy_from(&parts, mode, guess);
                assert_eq!(again.iter().map(|step| step.token).collect::<Vec<_>>(), right, "{name}");
                // The same sums in the same order: later tokens change nothing for earlier ones.
                assert_eq!(again, steps, "{name}");
            }
        }
    }
}
