//! The best tokens of a row, best first, without sorting the rest.

use super::softmax::{Row, total_weight};

/// A token and its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) logit: f32,
    pub(super) token: u32,
}

impl Candidate {
    /// Best first: the larger logit, of equal ones the lower id.
    fn order(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
        // Rows are checked for NaN, so two logits always compare; zeros of either sign are equal.
        b.logit.partial_cmp(&a.logit).unwrap_or(std::cmp::Ordering::Equal).then(a.token.cmp(&b.token))
    }
}

/// Puts the `num_best` best tokens of `logits` into `out`, best first; all of them if there are no more.
///
/// One pass: a buffer of twice that size is cut to the best half whenever it is full, and its worst entry is then the
/// bar for what follows. Later tokens have higher ids, so an equal logit does not pass the bar.
pub(super) fn best(logits: &[f32], num_best: usize, out: &mut Vec<Candidate>) {
    out.clear();
    let num_best = num_best.min(logits.len());
    if num_best == 0 {
        return;
    }
    let capacity = (2 * num_best).min(logits.len());
    let mut bar = f32::NEG_INFINITY;
    for (token, &logit) in (0u32..).zip(logits) {
        if logit > bar || out.len() < num_best {
            out.push(Candidate { logit, token });
            if out.len() == capacity && capacity > num_best {
                out.select_nth_unstable_by(num_best - 1, Candidate::order);
                out.truncate(num_best);
                bar = out[num_best - 1].logit;
            }
        }
    }
    out.sort_unstable_by(Candidate::order);
    out.truncate(num_best);
}

/// The smallest set of best tokens that together hold `share` of all weight, best first.
///
/// Most rows concentrate their weight, so a few best tokens are looked at first, then eight times as many, and so on.
pub(super) fn nucleus(row: &Row<'_>, share: f64, out: &mut Vec<Candidate>) {
    const FIRST_LOOK: usize = 64;
    const GROWTH: usize = 8;
    let target = share * total_weight(row);
    let mut num_best = FIRST_LOOK;
    loop {
        best(row.logits, num_best, out);
        let (num_kept, is_reached) = num_reaching(row, out, target);
        if is_reached || out.len() == row.logits.len() {
            out.truncate(num_kept);
            return;
        }
        num_best *= GROWTH;
    }
}

/// How many of `candidates`, best first, it takes to reach `target` weight, and whether they reach it.
pub(super) fn num_reaching(row: &Row<'_>, candidates: &[Candidate], target: f64) -> (usize, bool) {
    let mut reached = 0.0f64;
    for (index, candidate) in candidates.iter().enumerate() {
        reached += f64::from(row.weight(candidate.logit));
        if reached >= target {
            return (index + 1, true);
        }
    }
    (candidates.len(), false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sorted(logits: &[f32]) -> Vec<Candidate> {
        let mut all: Vec<Candidate> =
            (0u32..).zip(logits).map(|(token, &logit)| Candidate { logit, token }).collect();
        all.sort_by(Candidate::order);
        all
    }

    /// Few distinct values, so that ties are common.
    fn logits() -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec(prop_oneof![(-4i8..4).prop_map(f32::from), Just(f32::NEG_INFINITY)], 1..300)
    }

    proptest! {
        #[test]
        fn the_best_are_the_front_of_a_full_sort(logits in logits(), num_best in 0usize..310) {
            let mut out = Vec::new();
            best(&logits, num_best, &mut out);
            prop_assert_eq!(&out[..], &sorted(&logits)[..num_best.min(logits.len())]);
        }

        #[test]
        fn a_nucleus_is_the_shortest_front_that_holds_its_share(
            logits in prop::collection::vec(-9.0f32..9.0, 1..900), share in 0.01f64..0.999, temperature in 0.1f32..3.0,
        ) {
            let max = sorted(&logits)[0].logit;
            let row = Row { logits: &logits, max, temperature };
            let mut out = Vec::new();
            nucleus(&row, share, &mut out);
            let weight_of = |kept: &[Candidate]| kept.iter().map(|c| f64::from(row.weight(c.logit))).sum::<f64>();
            let all = sorted(&logits);
            prop_assert_eq!(&out[..], &all[..out.len()]);
            // 900 f64 additions in two orders differ by less than this share of the total.
            let slack = 900.0 * f64::EPSILON;
            let total = weight_of(&all);
            prop_assert!(weight_of(&out) >= (share - slack) * total);
            prop_assert!(weight_of(&out[..out.len() - 1]) < (share + slack) * total);
        }
    }
}
