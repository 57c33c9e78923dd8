//! What must not change a result, or not by more than rounding, whatever computes it. `run` gives the result of a scenario:
//! `[num_tokens, num_q_heads * head_dim]`.

use lazy_attn::KvDtype;

use super::{Scenario, Shape, bits, cases, first_difference, relative_error};

/// Documents read by requests that decode and by one that does not; f16, whose rounding hides least.
fn scenario() -> Scenario {
    let scenario = Scenario::new(Shape { dtype: KvDtype::F16, ..cases::SHAPE }, &[300, 133, 64]);
    let scenario = scenario.request(0, &[0, 1, 2], 3, 1).request(40, &[1, 0], 70, 1);
    scenario.request(5, &[2, 0, 1], 0, 30)
}

/// The results of two scenarios that mean the same must be one result, each with its own rounding.
fn assert_same(run: impl Fn(&Scenario) -> Vec<f32>, one: &Scenario, other: &Scenario) {
    let (oracle, want) = (one.oracle(), other.oracle());
    for ((a, _), (b, _)) in oracle.into_iter().zip(want) {
        assert!((a - b).abs() < 1e-6, "{a} and {b}: {one:?} and {other:?} do not mean the same");
    }
    let other_result: Vec<f64> = run(other).into_iter().map(f64::from).collect();
    let relative = relative_error(&run(one), &other_result);
    let most = 2f64.sqrt() * one.relative_error_max();
    assert!(relative <= most, "{relative:.2e} between {one:?} and {other:?}");
}

/// Only distances count, so a context may begin anywhere.
pub(crate) fn assert_shifts_change_no_bit(run: impl Fn(&Scenario) -> Vec<f32>) {
    let want = bits(&run(&scenario()));
    for shift in [1, 63, 100_003, 1 << 29] {
        let mut shifted = scenario();
        for request in &mut shifted.requests {
            request.tail_start += shift;
            for (_, start) in &mut request.documents {
                *start += shift;
            }
        }
        assert_eq!(first_difference(&want, &bits(&run(&shifted))), None, "shifted by {shift}");
    }
}

/// A document is one segment or two: their keys are rotated to other local positions, but to the same places in the end.
pub(crate) fn assert_segments_may_be_split(run: impl Fn(&Scenario) -> Vec<f32>) {
    for cut in [1, 15, 16, 17, 64, 150, 299] {
        let mut split = scenario();
        let (seed, first) = split.sources[0];
        let rest = split.documents[0] - cut;
        let piece = split.documents.len();
        split.documents[0] = cut;
        split.documents.push(rest);
        split.sources.push((seed, first + cut));
        for request in &mut split.requests {
            let places = request.documents.iter().flat_map(|&(document, start)| {
                let second = (document == 0).then_some((piece, start + cut));
                [(document, start)].into_iter().chain(second)
            });
            request.documents = places.collect();
        }
        assert_same(&run, &scenario(), &split);
    }
}

/// The order in which segments are listed is no position.
pub(crate) fn assert_segments_may_be_listed_in_any_order(run: impl Fn(&Scenario) -> Vec<f32>) {
    let mut reversed = scenario();
    for request in &mut reversed.requests {
        request.documents.reverse();
    }
    assert_same(run, &scenario(), &reversed);
}

/// What nobody reads may be any number: the pool is larger, and blocks lie elsewhere, when another document joins it.
pub(crate) fn assert_other_documents_change_no_bit(run: impl Fn(&Scenario) -> Vec<f32>) {
    let mut joined = scenario();
    joined.documents.push(900);
    joined.sources.push((77, 0));
    assert_eq!(first_difference(&bits(&run(&scenario())), &bits(&run(&joined))), None);
}
