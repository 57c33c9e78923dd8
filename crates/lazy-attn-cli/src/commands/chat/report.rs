//! The numbers of a chat.

use lazy_attn_proto::v1;

use crate::commands::run::{decode_rate, duration};
use crate::ui::{Table, millis};

/// Tokens and times of the last answer and of all.
#[derive(Debug, Default)]
pub(super) struct Report {
    num_answers: u32,
    last: (v1::Usage, v1::Timing),
    total: Totals,
}

#[derive(Debug, Default)]
struct Totals {
    prompt: u64,
    reused: u64,
    computed: u64,
    generated: u64,
    documents: u64,
    documents_reused: u64,
}

impl Report {
    /// Counts one answer.
    pub(super) fn add(&mut self, response: &v1::CollectedResponse) {
        let usage = response.usage.unwrap_or_default();
        let total = &mut self.total;
        total.prompt += u64::from(usage.prompt_tokens);
        total.reused += u64::from(usage.cached_prompt_tokens);
        total.computed += u64::from(usage.computed_prompt_tokens);
        total.generated += u64::from(usage.completion_tokens);
        total.documents += u64::from(usage.documents_total);
        total.documents_reused += u64::from(usage.documents_reused);
        self.num_answers += 1;
        self.last = (usage, response.timing.unwrap_or_default());
    }

    /// A table of them.
    pub(super) fn lines(&self) -> Vec<String> {
        if self.num_answers == 0 {
            return vec!["nothing was answered yet".to_owned()];
        }
        let (usage, timing) = &self.last;
        let total = &self.total;
        let all = format!("all {}", self.num_answers);
        let mut table = Table::new(&["", "last", &all]);
        for (name, last, all) in [
            ("prompt tokens", usage.prompt_tokens, total.prompt),
            ("of them reused", usage.cached_prompt_tokens, total.reused),
            ("of them computed", usage.computed_prompt_tokens, total.computed),
            ("documents", usage.documents_total, total.documents),
            ("of them reused", usage.documents_reused, total.documents_reused),
            ("tokens generated", usage.completion_tokens, total.generated),
        ] {
            table.row([name.to_owned(), last.to_string(), all.to_string()]);
        }
        let share = share(total.reused, total.prompt);
        let last_share = self::share(u64::from(usage.cached_prompt_tokens), u64::from(usage.prompt_tokens));
        table.row(["reused share".to_owned(), last_share, share]);
        let first_token = millis(duration(timing.time_to_first_token));
        table.row(["first token after".to_owned(), first_token, String::new()]);
        if let Some(rate) = decode_rate(usage, timing) {
            table.row(["tokens per second".to_owned(), format!("{rate:.0}"), String::new()]);
        }
        table.lines()
    }
}

fn share(part: u64, whole: u64) -> String {
    let percent = part.saturating_mul(100).checked_div(whole).unwrap_or(0);
    format!("{percent} %")
}

#[cfg(test)]
mod tests {
    use lazy_attn_proto::from_json;

    use super::*;

    #[test]
    fn the_report_adds_up_answers_and_shows_the_last() {
        let mut report = Report::default();
        assert_eq!(report.lines(), ["nothing was answered yet"]);
        for cached in [0, 75] {
            let response = format!(
                r#"{{"usage": {{"promptTokens": 100, "cachedPromptTokens": {cached}, "computedPromptTokens": {},
                    "completionTokens": 5, "documentsTotal": 2, "documentsReused": {}}}}}"#,
                100 - cached,
                cached / 37,
            );
            report.add(&from_json(response.as_bytes()).unwrap());
        }
        let lines = report.lines().join("\n");
        for row in [
            "prompt tokens         100    200",
            "of them computed       25    125",
            "reused share         75 %   37 %",
        ] {
            assert!(lines.contains(row), "{row:?} is missing from\n{lines}");
        }
    }
}
