//! What came out, as JSON, Markdown and SVG. Shares are in percent, log-likelihoods in natural logarithms.

mod chart;
mod compare;
mod markdown;
mod summary;

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::json;

pub use chart::to_svg;
pub use compare::{Comparison, Mismatch};
pub use markdown::to_markdown;
pub use summary::{Cost, GroupResult, Intervals, LikelihoodResult, ModeResult, Stability};

use crate::Answers;
use crate::metrics::Score;

/// What was asked, of whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// The question set.
    pub dataset: String,
    /// The model.
    pub model: String,
    /// Most tokens of an answer.
    pub max_tokens: u32,
    /// Seed of orders and intervals.
    pub seed: u64,
}

/// Everything a run found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What was asked.
    #[serde(flatten)]
    pub setting: Setting,
    /// Questions that were asked in every mode.
    pub num_questions: usize,
    /// Questions that did not fit the model.
    pub num_left_out: usize,
    /// One per mode.
    pub results: Vec<ModeResult>,
    /// Each mode against those listed before it.
    pub comparisons: Vec<Comparison>,
}

impl Report {
    /// The report of `answers`.
    #[must_use]
    pub fn new(setting: Setting, answers: &Answers) -> Report {
        let scored = Scored::of(answers);
        let num_modes = answers.modes.len();
        let pairs = (0..num_modes).flat_map(|mode| (0..mode).map(move |baseline| (mode, baseline)));
        Report {
            num_questions: answers.questions.len(),
            num_left_out: answers.num_left_out,
            results: (0..num_modes).map(|mode| summary::of_mode(&scored, mode, setting.seed)).collect(),
            comparisons: pairs
                .map(|(mode, baseline)| compare::of_modes(&scored, mode, baseline, setting.seed))
                .collect(),
            setting,
        }
    }
}

/// Answers with their scores in the first order of the documents.
pub(crate) struct Scored<'a> {
    pub(crate) answers: &'a Answers,
    /// `[modes][questions]`.
    pub(crate) scores: Vec<Vec<Score>>,
}

impl Scored<'_> {
    fn of(answers: &Answers) -> Scored<'_> {
        let of_question =
            |mode: usize, (index, question)| Score::of(question, &answers.get(index, 0, mode).text);
        let of_mode = |mode: usize| {
            answers.questions.iter().enumerate().map(|asked| of_question(mode, asked)).collect()
        };
        Scored { answers, scores: (0..answers.modes.len()).map(of_mode).collect() }
    }

    /// One number per question.
    pub(crate) fn values(&self, mode: usize, value: impl Fn(&Score) -> f64) -> Vec<f64> {
        self.scores[mode].iter().map(value).collect()
    }

    /// Log-likelihood per token of the right answer, one per question, if all were scored.
    pub(crate) fn likelihoods(&self, mode: usize) -> Option<Vec<f64>> {
        let all = 0..self.answers.questions.len();
        all.map(|question| Some(self.answers.get(question, 0, mode).likelihood?.per_token())).collect()
    }
}

/// One line of JSON per answer: what was asked, what was answered, how right it is.
#[must_use]
pub fn answer_lines(answers: &Answers) -> String {
    let mut lines = String::new();
    for (index, question) in answers.questions.iter().enumerate() {
        for order in 0..answers.num_orders {
            for (mode, name) in answers.modes.iter().enumerate() {
                let answer = answers.get(index, order, mode);
                let score = Score::of(question, &answer.text);
                let mut line = json!({
                    "question": index + 1,
                    "order": order,
                    "mode": name.to_string(),
                    "group": question.group,
                    "answer": answer.text,
                    "right": question.answers,
                    "em": score.exact_match,
                    "f1": score.f1,
                    "logLikelihood": answer.likelihood.map(|likelihood| likelihood.log_probability),
                    "tokens": answer.tokens.iter().map(|token| token.0).collect::<Vec<_>>(),
                });
                if !answer.margins.is_empty() {
                    line["margins"] = json!(answer.margins);
                }
                // Writing to a string cannot fail.
                let _ = writeln!(lines, "{line}");
            }
        }
    }
    lines
}
