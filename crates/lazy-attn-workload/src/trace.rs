//! A workload and a seed become requests.

use std::io::{BufRead, Write};

use lazy_attn_types::TokenId;
use serde::{Deserialize, Serialize};

use crate::rng::{Purpose, Rng};
use crate::{Load, Popularity, Shape, Workload, WorkloadError};

/// What a file begins with.
const FORMAT: &str = "lazyattn-trace-1";
/// Most requests of a trace.
const MAX_REQUESTS: usize = 1 << 24;
/// Longest line of a file.
const MAX_LINE_BYTES: usize = 1 << 20;

/// What holds for all requests of a trace: the first line of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceHeader {
    format: String,
    /// The workload it was made from.
    pub workload: String,
    /// The seed it was made from, and from which tokens follow.
    pub seed: u64,
    /// Skew of the documents' popularity.
    pub alpha: f64,
    /// Sizes.
    pub shape: Shape,
    /// When requests are sent.
    pub load: Load,
}

impl TraceHeader {
    /// Tokens of a document, for a vocabulary of `vocab_size`.
    #[must_use]
    pub fn document_tokens(&self, document: u32, vocab_size: u32) -> Vec<TokenId> {
        self.tokens(Purpose::Document, document, self.shape.document_tokens, vocab_size)
    }

    /// Tokens of a question, for a vocabulary of `vocab_size`.
    #[must_use]
    pub fn query_tokens(&self, query: u32, vocab_size: u32) -> Vec<TokenId> {
        self.tokens(Purpose::Query, query, self.shape.query_tokens, vocab_size)
    }

    fn tokens(&self, purpose: Purpose, index: u32, num_tokens: u32, vocab_size: u32) -> Vec<TokenId> {
        let mut rng = Rng::new(self.seed, purpose, u64::from(index));
        (0..num_tokens).map(|_| TokenId(rng.below(vocab_size))).collect()
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// When it is sent, in microseconds from the start; 0 where clients send when they are ready.
    pub at_us: u64,
    /// Its documents, in their order.
    pub documents: Vec<u32>,
    /// Number of its question.
    pub query: u32,
}

/// Requests to be sent in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// What holds for all.
    pub header: TraceHeader,
    /// The requests.
    pub requests: Vec<TraceRequest>,
}

impl Trace {
    /// The trace of `workload` for `seed`.
    ///
    /// # Errors
    /// [`WorkloadError::Param`] naming the number of `workload` that cannot be.
    pub fn generate(workload: &Workload, seed: u64) -> Result<Trace, WorkloadError> {
        workload.shape.validate()?;
        check_load(workload.load)?;
        let pool = Popularity::new(workload.shape.num_documents, workload.alpha, seed)?;
        let mut arrivals = Rng::new(seed, Purpose::Arrivals, 0);
        let mut at_seconds = 0.0;
        let requests = (0..workload.num_requests).map(|index| {
            if let Load::Open { rate_per_second } = workload.load {
                at_seconds += arrivals.exponential() / rate_per_second;
            }
            let mut draws = Rng::new(seed, Purpose::Requests, u64::from(index));
            TraceRequest {
                at_us: (at_seconds * 1e6) as u64,
                documents: pool.draw(workload.shape.documents_per_request, &mut draws),
                query: index,
            }
        });
        let requests = requests.collect();
        let header = TraceHeader {
            format: FORMAT.to_owned(),
            workload: workload.name.clone(),
            seed,
            alpha: workload.alpha,
            shape: workload.shape,
            load: workload.load,
        };
        Ok(Trace { header, requests })
    }

    /// Writes it, one JSON object a line.
    ///
    /// # Errors
    /// [`WorkloadError::Io`].
    pub fn write(&self, mut to: impl Write) -> Result<(), WorkloadError> {
        let io = |error: serde_json::Error| WorkloadError::Io(error.into());
        serde_json::to_writer(&mut to, &self.header).map_err(io)?;
        writeln!(to)?;
        for request in &self.requests {
            serde_json::to_writer(&mut to, request).map_err(io)?;
            writeln!(to)?;
        }
        Ok(())
    }

    /// Reads what [`Trace::write`] wrote.
    ///
    /// # Errors
    /// [`WorkloadError::Line`] for a line that does not belong there, [`WorkloadError::Param`] for numbers of the header that
    /// cannot be, [`WorkloadError::Io`].
    pub fn read(from: impl BufRead) -> Result<Trace, WorkloadError> {
        let mut header: Option<TraceHeader> = None;
        let mut requests = Vec::new();
        for (index, line) in from.lines().enumerate() {
            let (line, number) = (line?, index + 1);
            let problem = |problem: String| WorkloadError::Line { line: number, problem };
            if line.len() > MAX_LINE_BYTES || requests.len() >= MAX_REQUESTS {
                let most =
                    format!("is too much: at most {MAX_REQUESTS} lines of {MAX_LINE_BYTES} bytes are read");
                return Err(problem(most));
            }
            match &header {
                None => header = Some(read_header(&line, problem)?),
                Some(header) => requests.push(read_request(&line, header, problem)?),
            }
        }
        let nothing = || WorkloadError::Line { line: 1, problem: "is missing: the file is empty".into() };
        Ok(Trace { header: header.ok_or_else(nothing)?, requests })
    }
}

fn read_header(line: &str, problem: impl Fn(String) -> WorkloadError) -> Result<TraceHeader, WorkloadError> {
    let header: TraceHeader =
        serde_json::from_str(line).map_err(|error| problem(format!("is no header: {error}")))?;
    if header.format != FORMAT {
        return Err(problem(format!("has the format {:?}, but {FORMAT:?} is read", header.format)));
    }
    header.shape.validate()?;
    check_load(header.load)?;
    Ok(header)
}

fn read_request(
    line: &str,
    header: &TraceHeader,
    problem: impl Fn(String) -> WorkloadError,
) -> Result<TraceRequest, WorkloadError> {
    let request: TraceRequest =
        serde_json::from_str(line).map_err(|error| problem(format!("is no request: {error}")))?;
    let shape = &header.shape;
    match request.documents.iter().find(|&&document| document >= shape.num_documents) {
        Some(document) => {
            Err(problem(format!("has document {document}, but the pool has {}", shape.num_documents)))
        }
        None if request.documents.len() > shape.documents_per_request as usize => {
            Err(problem(format!("has {} documents, more than the header says", request.documents.len())))
        }
        None => Ok(request),
    }
}

fn check_load(load: Load) -> Result<(), WorkloadError> {
    let (field, value, allowed) = match load {
        Load::Open { rate_per_second } if !(1e-6..=1e6).contains(&rate_per_second) => {
            ("rate_per_second", rate_per_second.to_string(), "from 0.000001 to 1000000")
        }
        Load::Closed { clients } if !(1..=65_536).contains(&clients) => {
            ("clients", clients.to_string(), "from 1 to 65536")
        }
        Load::Open { .. } | Load::Closed { .. } => return Ok(()),
    };
    Err(WorkloadError::Param { field, value, allowed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(seed: u64) -> Trace {
        Trace::generate(&Workload::named("ttft-small").unwrap(), seed).unwrap()
    }

    fn read(text: &str) -> Result<Trace, WorkloadError> {
        Trace::read(text.as_bytes())
    }

    #[test]
    fn a_seed_is_a_trace_and_another_seed_another() {
        assert_eq!(trace(3), trace(3));
        assert_ne!(trace(3).requests, trace(4).requests);
        assert_ne!(trace(3).header.document_tokens(0, 1000), trace(4).header.document_tokens(0, 1000));
    }

    #[test]
    fn arrivals_of_an_open_load_have_the_rate_and_clients_have_none() {
        let workload = Workload { num_requests: 4000, ..Workload::named("ttft-small").unwrap() };
        let arrivals = Trace::generate(&workload, 5).unwrap().requests;
        assert!(arrivals.is_sorted_by_key(|request| request.at_us));
        let rate = 4000.0 / (arrivals[3999].at_us as f64 * 1e-6);
        // The relative standard error of a sum of 4000 exponentials is 1.6 %.
        assert!((rate - 2.0).abs() < 2.0 * 0.064, "{rate}");
        let closed = Trace::generate(&Workload::named("hit-small").unwrap(), 5).unwrap();
        assert!(closed.requests.iter().all(|request| request.at_us == 0));
    }

    #[test]
    fn tokens_lie_in_the_vocabulary_and_differ_between_documents_and_questions() {
        let header = trace(3).header;
        let (a, b, query) =
            (header.document_tokens(0, 97), header.document_tokens(1, 97), header.query_tokens(0, 97));
        assert_eq!((a.len(), query.len()), (128, 32));
        assert!(a.iter().chain(&b).chain(&query).all(|token| token.0 < 97));
        assert!(a != b && a[..32] != query[..]);
    }

    #[test]
    fn a_written_trace_reads_as_it_was() {
        let mut lines = Vec::new();
        trace(3).write(&mut lines).unwrap();
        assert_eq!(Trace::read(lines.as_slice()).unwrap(), trace(3));
    }

    #[test]
    fn lines_that_do_not_belong_there_are_refused_by_number() {
        let mut lines = Vec::new();
        trace(3).write(&mut lines).unwrap();
        let text = String::from_utf8(lines).unwrap();
        let header = text.lines().next().unwrap();
        let with = |line: &str| read(&format!("{header}\n{line}\n")).unwrap_err().to_string();
        assert!(with("{}").starts_with("line 2 of the trace is no request"));
        assert!(
            with(r#"{"at_us":0,"documents":[100],"query":0}"#)
                .contains("has document 100, but the pool has 100")
        );
        assert!(
            with(r#"{"at_us":0,"documents":[1,2,3,4,5,6],"query":0}"#).contains("more than the header says")
        );
        assert!(read("").unwrap_err().to_string().contains("the file is empty"));
        assert!(
            read(&header.replace("trace-1", "trace-9")).unwrap_err().to_string().contains("lazyattn-trace-9")
        );
        assert!(read(&header.replace("\"documents_per_request\":5", "\"documents_per_request\":0")).is_err());
        assert!(read(&header.replace("2.0", "-1.0")).unwrap_err().to_string().contains("rate_per_second"));
    }
}
