//! The simulations behind `docs/capacity.md`, as tables: what `lazyattn bench simulate` and `cargo xtask bench simulate` print.
//!
//! `table` is what they give, `traffic` how much a device carries, `hits` what a store of documents finds beside what theory
//! says, `choices` what else could be decided about scheduling and routing.

mod choices;
mod hits;
mod table;
mod traffic;

use std::fmt;
use std::str::FromStr;

use lazy_attn_types::KvPolicy;
use lazy_attn_workload::{KvBudget, Load, Shape, Workload};

pub use table::{Cell, Table};

use crate::{ClusterConfig, SimError};

/// A table that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// How many devices some traffic needs under each policy.
    Traffic,
    /// Hit ratios by the size of the store, and their closed forms.
    Hits,
    /// Which device gets a request.
    Routing,
    /// Who is evicted.
    Eviction,
    /// Who is admitted next.
    Admission,
    /// How many tokens a step has.
    Steps,
}

impl Section {
    /// All of them, in the order of the page.
    pub const ALL: [Section; 6] = [
        Section::Traffic,
        Section::Hits,
        Section::Routing,
        Section::Eviction,
        Section::Admission,
        Section::Steps,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Section::Traffic => "traffic",
            Section::Hits => "hits",
            Section::Routing => "routing",
            Section::Eviction => "eviction",
            Section::Admission => "admission",
            Section::Steps => "steps",
        }
    }

    /// Simulates it, with `num_requests` requests behind those that fill the stores.
    ///
    /// # Errors
    /// [`SimError`] for a number of requests that cannot be.
    pub fn table(self, num_requests: u32) -> Result<Table, SimError> {
        match self {
            Section::Traffic => traffic::traffic(num_requests),
            Section::Hits => hits::hits(num_requests),
            Section::Routing => choices::routing(num_requests),
            Section::Eviction => choices::eviction(num_requests),
            Section::Admission => choices::admission(num_requests),
            Section::Steps => choices::steps(num_requests),
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Section {
    type Err = String;

    fn from_str(name: &str) -> Result<Section, String> {
        let named = Section::ALL.into_iter().find(|section| section.name() == name);
        let names = Section::ALL.map(Section::name).join(", ");
        named.ok_or_else(|| format!("there is no section {name:?}; it is one of {names}"))
    }
}

/// Requests that are counted, unless somebody says otherwise.
pub const NUM_REQUESTS: u32 = 3000;
/// Seed of the traces.
const SEED: u64 = 1;
/// Requests that fill the stores.
const NUM_WARMUP: u32 = 1000;
/// Tokens of a question.
const QUERY_TOKENS: u32 = 32;
/// Tokens generated.
const OUTPUT_TOKENS: u32 = 128;

/// A pool and what is asked of it.
#[derive(Debug, Clone, Copy)]
struct Traffic {
    num_documents: u32,
    document_tokens: u32,
    documents_per_request: u32,
    alpha: f64,
}

impl Traffic {
    /// Five documents of 2048 tokens a request.
    const fn of(num_documents: u32, alpha: f64) -> Traffic {
        Traffic { num_documents, document_tokens: 2048, documents_per_request: 5, alpha }
    }

    fn workload(self, num_requests: u32, load: Load) -> Workload {
        let Traffic { num_documents, document_tokens, documents_per_request, alpha } = self;
        let (query_tokens, output_tokens) = (QUERY_TOKENS, OUTPUT_TOKENS);
        let shape =
            Shape { num_documents, document_tokens, documents_per_request, query_tokens, output_tokens };
        let (name, kv_budget) = ("capacity".to_owned(), KvBudget::All);
        Workload { name, shape, alpha, num_requests: NUM_WARMUP + num_requests, load, kv_budget }
    }
}

fn one_device(policy: KvPolicy) -> ClusterConfig {
    ClusterConfig { policy, num_warmup: NUM_WARMUP, ..ClusterConfig::llama_8b_on_one_h100() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_is_read_by_its_name() {
        for section in Section::ALL {
            assert_eq!(section.to_string().parse(), Ok(section));
        }
        assert!("speed".parse::<Section>().unwrap_err().contains("traffic, hits"));
    }
}
