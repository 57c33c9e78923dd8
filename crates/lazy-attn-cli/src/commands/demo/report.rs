//! What the demo found, as lines and as JSON.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::collection::Question;
use crate::ui::{Table, millis};

/// Whether an answer used the document cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Cache {
    /// Everything was computed for this answer.
    Bypassed,
    /// Resident documents were reused.
    InUse,
}

/// One answer.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    pub(super) cache: Cache,
    pub(super) text: String,
    pub(super) is_right: bool,
    #[serde(rename = "timeToFirstTokenSeconds", serialize_with = "seconds")]
    pub(super) time_to_first_token: Duration,
    pub(super) prompt_tokens: u32,
    pub(super) reused_tokens: u32,
    pub(super) num_documents: u32,
    pub(super) num_reused_documents: u32,
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

impl Answer {
    fn has_computed_a_document(&self) -> bool {
        self.num_reused_documents < self.num_documents
    }
}

/// The answers to one question.
#[derive(Debug, Serialize)]
struct Asked {
    question: String,
    answers: Vec<Answer>,
}

/// All answers.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    questions: Vec<Asked>,
}

/// The lines of one question.
pub(super) fn question_lines(number: usize, question: &Question, answers: &[Answer]) -> Vec<String> {
    let mut table = Table::new(&["", "first token", "documents reused", "tokens reused", "answer", ""]);
    let mut order = 0;
    for answer in answers {
        let name = match answer.cache {
            Cache::Bypassed => "  everything computed".to_owned(),
            Cache::InUse => {
                order += 1;
                format!("  order {order}")
            }
        };
        table.row([
            name,
            millis(answer.time_to_first_token),
            format!("{} of {}", answer.num_reused_documents, answer.num_documents),
            format!("{} of {}", answer.reused_tokens, answer.prompt_tokens),
            answer.text.clone(),
            if answer.is_right { "right" } else { "WRONG" }.to_owned(),
        ]);
    }
    let title = format!("\n{number}. {}", question.question);
    [title].into_iter().chain(table.lines()).collect()
}

impl Report {
    pub(super) fn add(&mut self, question: &Question, answers: Vec<Answer>) {
        self.questions.push(Asked { question: question.question.clone(), answers });
    }

    /// Every answer is right, and no document was computed after the first answer that filled the cache.
    pub(super) fn is_good(&self) -> bool {
        self.answers().all(|answer| answer.is_right) && self.num_recomputing() == 0
    }

    fn answers(&self) -> impl Iterator<Item = &Answer> {
        self.questions.iter().flat_map(|asked| &asked.answers)
    }

    /// Answers that computed a document although the cache had been filled.
    fn num_recomputing(&self) -> usize {
        self.resident().filter(|answer| answer.has_computed_a_document()).count()
    }

    /// Answers over resident documents: all that used the cache but the first, which filled it.
    fn resident(&self) -> impl Iterator<Item = &Answer> {
        self.answers().filter(|answer| answer.cache == Cache::InUse).skip(1)
    }

    pub(super) fn closing_lines(&self) -> Vec<String> {
        let mut table = Table::new(&["question", "right", "computed", "resident", "faster"]);
        for (index, asked) in self.questions.iter().enumerate() {
            let of = |cache| asked.answers.iter().filter(move |answer| answer.cache == cache);
            let computed = median(of(Cache::Bypassed));
            let resident = median(of(Cache::InUse).skip(usize::from(index == 0)));
            let num_right = asked.answers.iter().filter(|answer| answer.is_right).count();
            table.row([
                asked.question.clone(),
                format!("{num_right} of {}", asked.answers.len()),
                millis(computed),
                millis(resident),
                format!("{:.0}x", ratio(computed, resident)),
            ]);
        }
        let mut lines = vec![String::new(), "Time to the first token, median over the orders:".to_owned()];
        lines.extend(table.lines());
        lines.push(String::new());
        lines.push(self.verdict());
        lines
    }

    fn verdict(&self) -> String {
        let num_right = self.answers().filter(|answer| answer.is_right).count();
        let computed = median(self.answers().filter(|answer| answer.cache == Cache::Bypassed));
        let resident = median(self.resident());
        let recomputed = match self.num_recomputing() {
            0 => "no document was computed twice".to_owned(),
            count => format!("{count} ANSWERS COMPUTED A DOCUMENT AGAIN"),
        };
        format!(
            "{num_right} of {} answers right; {recomputed}; first token after {} instead of {} ({:.0}x faster)",
            self.answers().count(),
            millis(resident),
            millis(computed),
            ratio(computed, resident),
        )
    }
}

fn median<'a>(answers: impl Iterator<Item = &'a Answer>) -> Duration {
    let mut times: Vec<Duration> = answers.map(|answer| answer.time_to_first_token).collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn ratio(slow: Duration, fast: Duration) -> f64 {
    if fast.is_zero() { 0.0 } else { slow.as_secs_f64() / fast.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(cache: Cache, is_right: bool, num_reused_documents: u32) -> Answer {
        Answer {
            cache,
            text: "x".into(),
            is_right,
            time_to_first_token: Duration::from_millis(if cache == Cache::Bypassed { 90 } else { 3 }),
            prompt_tokens: 100,
            reused_tokens: 0,
            num_documents: 2,
            num_reused_documents,
        }
    }

    fn report(answers: Vec<Answer>) -> Report {
        Report { questions: vec![Asked { question: "q".into(), answers }] }
    }

    #[test]
    fn a_wrong_answer_or_a_recomputed_document_makes_the_report_bad() {
        let start = || vec![answer(Cache::Bypassed, true, 0), answer(Cache::InUse, true, 0)];
        let with = |last: Answer| report(start().into_iter().chain([last]).collect());
        assert!(with(answer(Cache::InUse, true, 2)).is_good());
        assert!(!with(answer(Cache::InUse, false, 2)).is_good());
        assert!(!with(answer(Cache::InUse, true, 1)).is_good());
        assert!(with(answer(Cache::InUse, true, 2)).verdict().contains("3 of 3 answers right; no document was computed twice; first token after 3.0 ms instead of 90 ms (30x faster)"));
    }
}
