//! What is noted of one request while it runs.

use std::time::{Duration, Instant};

use lazy_attn_types::TokenId;

/// A document of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentUse {
    /// Its tokens.
    pub num_tokens: u32,
    /// How it was found.
    pub outcome: DocumentOutcome,
}

/// How a document was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentOutcome {
    /// As it is needed: resident, or another request was at it.
    Hit,
    /// Resident at another position, and its keys were rotated to this one.
    Reencoded,
    /// Not at all: this request computed it.
    Computed,
}

/// Tokens that came at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Tokens {
    /// When, from the start of the trace.
    pub at: Duration,
    /// Which.
    pub ids: Vec<TokenId>,
    /// Log-probability of each above the next best, where that was asked for.
    pub margins: Vec<f32>,
}

/// What became of one request.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestRecord {
    /// Its place in the trace.
    pub index: usize,
    /// When it was sent, from the start of the trace.
    pub sent: Duration,
    /// How much later that was than the trace says.
    pub late: Duration,
    /// When it ended.
    pub ended: Duration,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// How its documents were found, in their order.
    pub documents: Vec<DocumentUse>,
    /// What it generated, as it came.
    pub output: Vec<Tokens>,
    /// Why it failed.
    pub error: Option<String>,
}

impl RequestRecord {
    /// Time to the first token.
    #[must_use]
    pub fn time_to_first_token(&self) -> Option<Duration> {
        self.output.first().map(|first| first.at.saturating_sub(self.sent))
    }

    /// Tokens generated.
    #[must_use]
    pub fn num_output_tokens(&self) -> usize {
        self.output.iter().map(|tokens| tokens.ids.len()).sum()
    }

    /// The tokens generated.
    #[must_use]
    pub fn output_ids(&self) -> Vec<TokenId> {
        self.output.iter().flat_map(|tokens| tokens.ids.iter().copied()).collect()
    }

    /// Times between tokens that came after each other; those that came at once count as one arrival, as with other load
    /// generators.
    pub fn inter_token_times(&self) -> impl Iterator<Item = Duration> {
        self.output.windows(2).map(|pair| pair[1].at.saturating_sub(pair[0].at))
    }

    /// Mean time of a token after the first, if there is one.
    #[must_use]
    pub fn time_per_output_token(&self) -> Option<Duration> {
        let (first, last) = (self.output.first()?, self.output.last()?);
        let later = u32::try_from(self.num_output_tokens().checked_sub(first.ids.len())?).ok()?;
        last.at.saturating_sub(first.at).checked_div(later)
    }

    /// Whether it computed a document itself.
    #[must_use]
    pub fn encodes(&self) -> bool {
        self.documents.iter().any(|document| document.outcome == DocumentOutcome::Computed)
    }

    /// Tokens of its documents that were found in one way.
    #[must_use]
    pub fn tokens_found(&self, outcome: DocumentOutcome) -> u64 {
        let found = self.documents.iter().filter(|document| document.outcome == outcome);
        found.map(|document| u64::from(document.num_tokens)).sum()
    }

    /// Tokens of its documents that were found as they are needed.
    #[must_use]
    pub fn hit_tokens(&self) -> u64 {
        self.tokens_found(DocumentOutcome::Hit)
    }

    /// Tokens of its documents.
    #[must_use]
    pub fn document_tokens(&self) -> u64 {
        self.documents.iter().map(|document| u64::from(document.num_tokens)).sum()
    }
}

/// Notes what happens to one request, and when.
#[derive(Debug)]
pub struct Recorder {
    start: Instant,
    record: RequestRecord,
}

impl Recorder {
    /// For the request at `index` of a trace that began at `start`, which is sent now, `late` after its time.
    #[must_use]
    pub fn new(start: Instant, index: usize, late: Duration) -> Recorder {
        let sent = start.elapsed();
        let record = RequestRecord {
            index,
            sent,
            late,
            ended: sent,
            prompt_tokens: 0,
            documents: Vec::new(),
            output: Vec::new(),
            error: None,
        };
        Recorder { start, record }
    }

    /// The request was admitted, with this prompt.
    pub fn started(&mut self, prompt_tokens: u32, documents: Vec<DocumentUse>) {
        self.record.prompt_tokens = prompt_tokens;
        self.record.documents = documents;
    }

    /// Tokens came; `margins` may be empty.
    pub fn tokens(&mut self, ids: Vec<TokenId>, margins: Vec<f32>) {
        if !ids.is_empty() {
            self.record.output.push(Tokens { at: self.start.elapsed(), ids, margins });
        }
    }

    /// The request failed.
    pub fn failed(&mut self, error: String) {
        self.record.error = Some(error);
    }

    /// The request ended.
    #[must_use]
    pub fn finish(mut self) -> RequestRecord {
        self.record.ended = self.start.elapsed();
        self.record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(output: &[(u64, usize)]) -> RequestRecord {
        let tokens = |&(ms, count): &(u64, usize)| Tokens {
            at: Duration::from_millis(ms),
            ids: vec![TokenId(1); count],
            margins: Vec::new(),
        };
        RequestRecord {
            index: 0,
            sent: Duration::from_millis(10),
            late: Duration::ZERO,
            ended: Duration::from_millis(99),
            prompt_tokens: 9,
            documents: vec![
                DocumentUse { num_tokens: 4, outcome: DocumentOutcome::Hit },
                DocumentUse { num_tokens: 3, outcome: DocumentOutcome::Computed },
            ],
            output: output.iter().map(tokens).collect(),
            error: None,
        }
    }

    #[test]
    fn times_are_those_of_a_reader() {
        let record = record(&[(15, 1), (25, 2), (31, 1)]);
        let ms = Duration::from_millis;
        assert_eq!(record.time_to_first_token(), Some(ms(5)));
        assert_eq!(record.inter_token_times().collect::<Vec<_>>(), [ms(10), ms(6)]);
        assert_eq!(record.time_per_output_token(), Some(ms(16) / 3));
        assert_eq!((record.num_output_tokens(), record.hit_tokens(), record.document_tokens()), (4, 4, 7));
        assert!(record.encodes());
    }

    #[test]
    fn a_single_token_has_no_time_per_token() {
        assert_eq!(record(&[(15, 1)]).time_per_output_token(), None);
        assert_eq!(record(&[]).time_to_first_token(), None);
    }
}
