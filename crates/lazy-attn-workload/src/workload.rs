//! The named workloads, as data.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::WorkloadError;

/// Sizes of a pool and of the requests over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Documents of the pool.
    pub num_documents: u32,
    /// Tokens of each.
    pub document_tokens: u32,
    /// Different documents of a request.
    pub documents_per_request: u32,
    /// Tokens of its question, at least one.
    pub query_tokens: u32,
    /// Tokens generated, whatever they are.
    pub output_tokens: u32,
}

impl Shape {
    /// Tokens of the whole pool.
    #[must_use]
    pub fn pool_tokens(&self) -> u64 {
        u64::from(self.num_documents) * u64::from(self.document_tokens)
    }

    /// Tokens of a prompt.
    #[must_use]
    pub fn prompt_tokens(&self) -> u64 {
        u64::from(self.documents_per_request) * u64::from(self.document_tokens) + u64::from(self.query_tokens)
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// [`WorkloadError::Param`] naming the first that cannot be.
    pub fn validate(&self) -> Result<(), WorkloadError> {
        let positive = [
            ("num_documents", self.num_documents),
            ("document_tokens", self.document_tokens),
            ("documents_per_request", self.documents_per_request),
            ("query_tokens", self.query_tokens),
            ("output_tokens", self.output_tokens),
        ];
        for (field, value) in positive {
            if value == 0 {
                return Err(WorkloadError::Param { field, value: "0".into(), allowed: "at least 1" });
            }
        }
        if self.documents_per_request > self.num_documents {
            let (field, value) = ("documents_per_request", self.documents_per_request.to_string());
            return Err(WorkloadError::Param { field, value, allowed: "at most num_documents" });
        }
        Ok(())
    }
}

/// When the next request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// At random moments, whatever the server does: a Poisson process.
    Open {
        /// Mean requests per second.
        rate_per_second: f64,
    },
    /// When one of so many clients has its answer.
    Closed {
        /// How many.
        clients: u32,
    },
}

/// Memory for keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvBudget {
    /// All there is.
    All,
    /// A part, in percent, of what the whole pool takes, but never less than one request needs.
    PoolPercent(u32),
    /// So many tokens.
    Tokens(u64),
}

impl KvBudget {
    /// Tokens, or nothing for all there is.
    #[must_use]
    pub fn tokens(self, shape: &Shape) -> Option<u64> {
        match self {
            KvBudget::All => None,
            KvBudget::Tokens(tokens) => Some(tokens),
            KvBudget::PoolPercent(percent) => {
                let part = (shape.pool_tokens() * u64::from(percent)).div_ceil(100);
                Some(part.max(shape.prompt_tokens() + u64::from(shape.output_tokens)))
            }
        }
    }
}

impl fmt::Display for KvBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KvBudget::All => f.write_str("all"),
            KvBudget::PoolPercent(percent) => write!(f, "{percent}%"),
            KvBudget::Tokens(tokens) => write!(f, "{tokens}"),
        }
    }
}

impl FromStr for KvBudget {
    type Err = String;

    fn from_str(text: &str) -> Result<KvBudget, String> {
        let budget = match text.strip_suffix('%') {
            _ if text == "all" => Some(KvBudget::All),
            Some(percent) => percent.parse().ok().filter(|&percent| percent > 0).map(KvBudget::PoolPercent),
            None => text.parse().ok().filter(|&tokens| tokens > 0).map(KvBudget::Tokens),
        };
        budget.ok_or_else(|| "write all, a part of the pool such as 25%, or a number of tokens".to_owned())
    }
}

/// A named kind of traffic.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Its name.
    pub name: String,
    /// The sizes.
    pub shape: Shape,
    /// Skew of the documents' popularity.
    pub alpha: f64,
    /// Requests of a trace.
    pub num_requests: u32,
    /// When they are sent.
    pub load: Load,
    /// Memory for keys and values.
    pub kv_budget: KvBudget,
}

/// The suffix of a workload whose documents are [`SMALL_DIVISOR`] times shorter.
pub const SMALL: &str = "-small";
/// What the length of documents is divided by for the CPU.
pub const SMALL_DIVISOR: u32 = 16;

/// A line of the table: name, `[N, L, k, q, o]`, alpha, requests, load, budget.
type Line = (&'static str, [u32; 5], f64, u32, Load, KvBudget);

const fn closed(clients: u32) -> Load {
    Load::Closed { clients }
}

const TTFT_RATE: Load = Load::Open { rate_per_second: 2.0 };

#[rustfmt::skip]
const TABLE: [Line; 7] = [
    ("ttft",    [100,  2048,  5, 32,  16], 1.1,  120, TTFT_RATE,   KvBudget::All),
    ("hit",     [100,  2048,  5, 16,   8], 1.1,  200, closed(16),  KvBudget::PoolPercent(25)),
    ("shared",  [1,   16384,  1,  1,  64], 0.0,  256, closed(128), KvBudget::All),
    ("decode",  [16,    512,  8, 32, 256], 0.0,   64, closed(32),  KvBudget::All),
    ("icl",     [64,    256, 16, 32,   4], 1.1,  200, closed(16),  KvBudget::All),
    ("reorder", [5,    2048,  5, 32,   1], 0.0,   24, closed(1),   KvBudget::All),
    ("churn",   [192,   512,  8, 32,  16], 1.1, 1000, closed(4),   KvBudget::PoolPercent(33)),
];

impl Workload {
    /// The names of all workloads.
    pub fn names() -> impl Iterator<Item = String> {
        let names = TABLE.iter().map(|line| line.0);
        names.flat_map(|name| [name.to_owned(), format!("{name}{SMALL}")])
    }

    /// The workload of that name; with `-small` behind it, documents are 16 times shorter.
    #[must_use]
    pub fn named(name: &str) -> Option<Workload> {
        let (base, divisor) = name.strip_suffix(SMALL).map_or((name, 1), |base| (base, SMALL_DIVISOR));
        let line = TABLE.iter().find(|line| line.0 == base)?;
        let &(_, [num_documents, document_tokens, documents_per_request, query_tokens, output_tokens], ..) =
            line;
        let shape = Shape {
            num_documents,
            document_tokens: document_tokens / divisor,
            documents_per_request,
            query_tokens,
            output_tokens,
        };
        let &(_, _, alpha, num_requests, load, kv_budget) = line;
        Some(Workload { name: name.to_owned(), shape, alpha, num_requests, load, kv_budget })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_workload_is_valid_and_its_small_form_has_shorter_documents() {
        assert_eq!(Workload::names().count(), 14);
        for name in Workload::names() {
            let workload = Workload::named(&name).unwrap();
            workload.shape.validate().unwrap();
            assert_eq!(workload.name, name);
        }
        let (large, small) = (Workload::named("ttft").unwrap(), Workload::named("ttft-small").unwrap());
        assert_eq!(small.shape, Shape { document_tokens: 128, ..large.shape });
        assert_eq!(Workload::named("ttft-tiny"), None);
    }

    #[test]
    fn a_budget_is_a_part_of_the_pool_but_never_less_than_a_request() {
        let shape = Workload::named("hit").unwrap().shape;
        assert_eq!(KvBudget::PoolPercent(25).tokens(&shape), Some(51_200));
        assert_eq!(KvBudget::PoolPercent(1).tokens(&shape), Some(5 * 2048 + 16 + 8));
        assert_eq!(KvBudget::All.tokens(&shape), None);
        for text in ["all", "25%", "4096"] {
            assert_eq!(text.parse::<KvBudget>().unwrap().to_string(), text);
        }
        for text in ["", "0%", "0", "-5", "most", "%"] {
            assert!(text.parse::<KvBudget>().is_err(), "{text}");
        }
    }

    #[test]
    fn shapes_that_cannot_be_are_refused_by_field() {
        let shape = Workload::named("hit").unwrap().shape;
        let broken = Shape { documents_per_request: 101, ..shape };
        assert!(broken.validate().unwrap_err().to_string().contains("documents_per_request is 101"));
        assert!(Shape { query_tokens: 0, ..shape }.validate().is_err());
    }
}
