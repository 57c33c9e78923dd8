//! Two modes over the same questions.

use serde::Serialize;

use super::Scored;
use super::summary::PERCENT;
use crate::metrics::Score;
use crate::statistics::{Difference, mean};

/// One mode less another, question by question.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// The mode.
    pub mode: String,
    /// What it is compared with.
    pub baseline: String,
    /// Of exact matches, in percentage points.
    pub em: Difference,
    /// Of F1, in percentage points.
    pub f1: Difference,
    /// Of the log-likelihood per answer token, if it was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_likelihood: Option<Difference>,
    /// Answers that are the same token for token, over all orders, in percent.
    pub identical: f64,
    /// The first answer that is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_mismatch: Option<Mismatch>,
}

/// Where two modes answer differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// Number of the question, from 1.
    pub question: usize,
    /// The order of its documents.
    pub order: usize,
}

pub(super) fn of_modes(scored: &Scored<'_>, mode: usize, baseline: usize, seed: u64) -> Comparison {
    let difference = |value: fn(&Score) -> f64| {
        Difference::of(&scored.values(mode, value), &scored.values(baseline, value), seed).times(PERCENT)
    };
    let likelihoods = scored.likelihoods(mode).zip(scored.likelihoods(baseline));
    let answers = scored.answers;
    let places = (0..answers.questions.len())
        .flat_map(|question| (0..answers.num_orders).map(move |order| (question, order)));
    let is_same = |&(question, order): &(usize, usize)| {
        answers.get(question, order, mode).tokens == answers.get(question, order, baseline).tokens
    };
    let same: Vec<f64> = places.clone().map(|place| f64::from(u8::from(is_same(&place)))).collect();
    let mismatch = places.clone().find(|place| !is_same(place));
    Comparison {
        mode: answers.modes[mode].to_string(),
        baseline: answers.modes[baseline].to_string(),
        em: difference(|score| score.exact_match),
        f1: difference(|score| score.f1),
        log_likelihood: likelihoods.map(|(first, second)| Difference::of(&first, &second, seed)),
        identical: mean(&same) * PERCENT,
        first_mismatch: mismatch.map(|(question, order)| Mismatch { question: question + 1, order }),
    }
}
