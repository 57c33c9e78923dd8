//! The named workloads of the benches, and the traces drawn from them.
//!
//! A pool of N documents of L tokens; a request takes k distinct documents from a Zipf over a fixed random permutation
//! of the pool, in random order, plus a question of q tokens, and wants o tokens.

use crate::rng::{SplitMix64, mix64};

/// How requests arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Open loop at random times, swept from a trickle to saturation.
    Poisson {
        /// Fewest requests of a point.
        min_requests: u32,
    },
    /// Closed loop: each client sends its next request when it has its answer; one point per count.
    Closed {
        /// Numbers of clients.
        clients: &'static [u32],
        /// Requests of a point.
        num_requests: u32,
    },
}

/// KV memory of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvBudget {
    /// Everything the scenario can ask for stays resident.
    Whole,
    /// This share of the document pool, in percent.
    PoolPercent(u32),
    /// Just what one request needs.
    OneRequest,
}

/// A workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    /// Its name; `*-small` has documents a sixteenth as long, for the CPU.
    pub name: &'static str,
    /// What it stands for.
    pub story: &'static str,
    /// Documents in the pool (N).
    pub num_documents: u32,
    /// Tokens of a document (L).
    pub document_tokens: u32,
    /// Documents of a request (k).
    pub documents_per_request: u32,
    /// Tokens of the question (q).
    pub question_tokens: u32,
    /// Tokens of the answer (o).
    pub output_tokens: u32,
    /// Arrivals.
    pub load: Load,
    /// KV memory, one point each.
    pub budgets: &'static [KvBudget],
}

/// Exponents of the popularity that every scenario is run with; 0 is uniform.
pub const ALPHAS: [f64; 5] = [0.0, 0.8, 1.1, 1.5, 2.1];

/// All scenarios at full length.
pub const SCENARIOS: [Scenario; 7] = [
    Scenario {
        name: "ttft",
        story: "questions over a company's handbook: a few pages answer most of them, and everyone waits for the first word",
        num_documents: 100,
        document_tokens: 2048,
        documents_per_request: 5,
        question_tokens: 32,
        output_tokens: 16,
        load: Load::Poisson { min_requests: 120 },
        budgets: &[KvBudget::Whole, KvBudget::PoolPercent(25), KvBudget::PoolPercent(10)],
    },
    Scenario {
        name: "hit",
        story: "the same handbook on a small card: which pages stay in memory decides",
        num_documents: 100,
        document_tokens: 2048,
        documents_per_request: 5,
        question_tokens: 16,
        output_tokens: 8,
        load: Load::Closed { clients: &[16], num_requests: 200 },
        budgets: &[
            KvBudget::OneRequest,
            KvBudget::PoolPercent(10),
            KvBudget::PoolPercent(25),
            KvBudget::PoolPercent(50),
            KvBudget::Whole,
        ],
    },
    Scenario {
        name: "shared",
        story: "one long contract, a meeting room full of people asking about it at once",
        num_documents: 1,
        document_tokens: 16384,
        documents_per_request: 1,
        question_tokens: 1,
        output_tokens: 64,
        load: Load::Closed { clients: &[1, 8, 32, 128, 256, 512], num_requests: 1024 },
        budgets: &[KvBudget::Whole],
    },
    Scenario {
        name: "decode",
        story: "long answers over search results everybody gets",
        num_documents: 16,
        document_tokens: 512,
        documents_per_request: 8,
        question_tokens: 32,
        output_tokens: 256,
        load: Load::Closed { clients: &[1, 8, 32, 64, 128], num_requests: 256 },
        budgets: &[KvBudget::Whole],
    },
    Scenario {
        name: "icl",
        story: "many-shot classification: the examples are documents, the answer is a label",
        num_documents: 64,
        document_tokens: 256,
        documents_per_request: 16,
        question_tokens: 32,
        output_tokens: 4,
        load: Load::Closed { clients: &[16], num_requests: 200 },
        budgets: &[KvBudget::Whole],
    },
    Scenario {
        name: "reorder",
        story: "a ranker that shuffles the same five results for every question of one reader",
        num_documents: 5,
        document_tokens: 2048,
        documents_per_request: 5,
        question_tokens: 32,
        output_tokens: 1,
        load: Load::Closed { clients: &[1], num_requests: 60 },
        budgets: &[KvBudget::Whole],
    },
    Scenario {
        name: "churn",
        story: "a corpus three times the memory and never the same question: reuse must not decay",
        num_documents: 1024,
        document_tokens: 512,
        documents_per_request: 8,
        question_tokens: 32,
        output_tokens: 16,
        load: Load::Closed { clients: &[16], num_requests: 1000 },
        budgets: &[KvBudget::PoolPercent(33)],
    },
];

const SMALL_NAMES: [(&str, &str); 7] = [
    ("ttft", "ttft-small"),
    ("hit", "hit-small"),
    ("shared", "shared-small"),
    ("decode", "decode-small"),
    ("icl", "icl-small"),
    ("reorder", "reorder-small"),
    ("churn", "churn-small"),
];

impl Scenario {
    /// The scenario `name`, a full one or a `*-small` one.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Scenario> {
        Scenario::all().find(|scenario| scenario.name == name)
    }

    /// Every scenario, full and small.
    pub fn all() -> impl Iterator<Item = Scenario> {
        SCENARIOS.into_iter().chain(SCENARIOS.into_iter().zip(SMALL_NAMES).map(|(full, (_, small))| {
            Scenario { name: small, document_tokens: full.document_tokens / 16, ..full }
        }))
    }

    /// Tokens of a request's prompt.
    #[must_use]
    pub fn prompt_tokens(&self) -> u32 {
        self.documents_per_request * self.document_tokens + self.question_tokens
    }

    /// Documents that fit `budget`, which always holds one request.
    #[must_use]
    pub fn resident_documents(&self, budget: KvBudget) -> u32 {
        let documents = match budget {
            KvBudget::Whole => self.num_documents,
            KvBudget::PoolPercent(percent) => self.num_documents * percent / 100,
            KvBudget::OneRequest => 0,
        };
        documents.max(self.documents_per_request)
    }

    /// Token ids of document `document`, the same in every run.
    #[must_use]
    pub fn document(&self, document: u32, vocab_size: u32) -> Vec<u32> {
        token_ids(mix64(u64::from(document) + 1), self.document_tokens, vocab_size)
    }

    /// The first `num_requests` requests for popularity `alpha`; equal arguments give equal traces.
    #[must_use]
    pub fn trace(&self, alpha: f64, seed: u64, num_requests: u32) -> Vec<TraceRequest> {
        let zipf = Zipf::new(self.num_documents, alpha, seed);
        let mut rng = SplitMix64::new(seed ^ 0x7472_6163_6500);
        let mut arrival = 0.0;
        let mut requests = Vec::with_capacity(num_requests as usize);
        for _ in 0..num_requests {
            let documents = zipf.distinct(self.documents_per_request, &mut rng);
            requests.push(TraceRequest { documents, question_seed: rng.next_u64(), arrival });
            // Exponential gaps of mean 1 make a Poisson stream.
            arrival -= (1.0 - rng.unit()).ln();
        }
        requests
    }
}

/// One request of a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceRequest {
    /// Distinct documents, in the order the request gives them.
    pub documents: Vec<u32>,
    /// Decides the question's tokens.
    pub question_seed: u64,
    /// Arrival in mean gaps since the first request; divide by the rate for seconds.
    pub arrival: f64,
}

impl TraceRequest {
    /// Token ids of the question.
    #[must_use]
    pub fn question(&self, scenario: &Scenario, vocab_size: u32) -> Vec<u32> {
        token_ids(self.question_seed, scenario.question_tokens, vocab_size)
    }
}

fn token_ids(seed: u64, count: u32, vocab_size: u32) -> Vec<u32> {
    let mut rng = SplitMix64::new(seed);
    (0..count).map(|_| rng.below(u64::from(vocab_size)) as u32).collect()
}

/// Zipf over a fixed random permutation of `0..n`: the item of rank r has weight `1 / (r + 1)^alpha`.
#[derive(Debug, Clone)]
pub struct Zipf {
    items: Vec<u32>,
    cumulative: Vec<f64>,
}

impl Zipf {
    /// The distribution over `num_items` items; `seed` decides which item is how popular.
    ///
    /// # Panics
    /// If there are no items.
    #[must_use]
    pub fn new(num_items: u32, alpha: f64, seed: u64) -> Zipf {
        assert!(num_items > 0, "a draw needs at least one item");
        let mut items: Vec<u32> = (0..num_items).collect();
        SplitMix64::new(seed).shuffle(&mut items);
        let mut total = 0.0;
        let cumulative = (0..num_items).map(|rank| {
            total += (f64::from(rank) + 1.0).powf(-alpha);
            total
        });
        Zipf { items, cumulative: cumulative.collect() }
    }

    /// One item.
    pub fn draw(&self, rng: &mut SplitMix64) -> u32 {
        let at = rng.unit() * self.cumulative[self.cumulative.len() - 1];
        let rank = self.cumulative.partition_point(|&sum| sum <= at);
        self.items[rank.min(self.items.len() - 1)]
    }

    /// `count` distinct items in random order: drawn without replacement, then shuffled, because draws put the
    /// popular ones first.
    ///
    /// # Panics
    /// If there are fewer items.
    pub fn distinct(&self, count: u32, rng: &mut SplitMix64) -> Vec<u32> {
        assert!(count as usize <= self.items.len(), "{count} distinct of {} items", self.items.len());
        let mut drawn: Vec<u32> = Vec::with_capacity(count as usize);
        while drawn.len() < count as usize {
            let item = self.draw(rng);
            if !drawn.contains(&item) {
                drawn.push(item);
            }
        }
        rng.shuffle(&mut drawn);
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_scenarios_have_documents_a_sixteenth_as_long() {
        for full in SCENARIOS {
            let small = Scenario::by_name(&format!("{}-small", full.name)).unwrap();
            assert_eq!(small.document_tokens * 16, full.document_tokens);
            assert_eq!(small.documents_per_request, full.documents_per_request);
        }
        assert_eq!(Scenario::by_name("nothing"), None);
    }

    #[test]
    fn traces_repeat_and_name_each_document_once() {
        for scenario in Scenario::all() {
            for alpha in ALPHAS {
                let trace = scenario.trace(alpha, 5, 20);
                assert_eq!(trace, scenario.trace(alpha, 5, 20));
                for request in trace {
                    let mut documents = request.documents;
                    documents.sort_unstable();
                    documents.dedup();
                    assert_eq!(documents.len(), scenario.documents_per_request as usize);
                    assert!(documents.iter().all(|&document| document < scenario.num_documents));
                }
            }
        }
    }

    #[test]
    fn the_most_popular_item_has_its_share() {
        let (num_items, alpha, draws) = (100, 1.5, 40_000);
        let zipf = Zipf::new(num_items, alpha, 3);
        let mut rng = SplitMix64::new(4);
        let mut counts = vec![0u32; num_items as usize];
        for _ in 0..draws {
            counts[zipf.draw(&mut rng) as usize] += 1;
        }
        let total: f64 = (1..=num_items).map(|rank| f64::from(rank).powf(-alpha)).sum();
        let share = 1.0 / total;
        let got = f64::from(*counts.iter().max().unwrap()) / f64::from(draws);
        // Five standard deviations of a binomial share.
        let bound = 5.0 * (share * (1.0 - share) / f64::from(draws)).sqrt();
        assert!((got - share).abs() < bound, "{got} instead of {share} within {bound}");
    }
}
