//! How much traffic one device carries, and how many devices much traffic needs.

use lazy_attn_types::KvPolicy;
use lazy_attn_workload::Load;

use super::{Cell, SEED, Table, Traffic, one_device};
use crate::{SimError, Target, sustained_rate};

/// Requests per second that devices are counted for.
const WANTED: f64 = 100.0;

/// From a pool that one device holds to one it holds a thousandth of; contexts of 4k and 10k tokens.
const TRAFFIC: [Traffic; 7] = [
    Traffic::of(100, 1.1),
    Traffic::of(1000, 1.1),
    Traffic::of(1_000_000, 0.8),
    Traffic::of(1_000_000, 1.1),
    Traffic::of(1_000_000, 1.5),
    Traffic::of(1_000_000, 2.1),
    Traffic { num_documents: 1_000_000, document_tokens: 512, documents_per_request: 8, alpha: 1.1 },
];

const COLUMNS: [&str; 10] = [
    "documents",
    "tokens of each",
    "of a request",
    "alpha",
    "policy",
    "requests/s of one device",
    "devices for 100 requests/s",
    "found, %",
    "of them elsewhere, %",
    "TPOT p50, ms",
];

/// The five, and the one that copies for every place.
pub(super) fn policies() -> impl Iterator<Item = KvPolicy> {
    KvPolicy::ALL.into_iter().chain([KvPolicy::ReencodeCopy])
}

pub(super) fn traffic(num_requests: u32) -> Result<Table, SimError> {
    let all = TRAFFIC.into_iter().flat_map(|traffic| policies().map(move |policy| (traffic, policy)));
    let rows =
        all.map(|(traffic, policy)| row(traffic, policy, num_requests)).collect::<Result<Vec<_>, _>>()?;
    Ok(Table::new(
        "traffic",
        "the largest rate at which 99 of 100 first tokens come within a second",
        &COLUMNS,
        rows,
    ))
}

fn row(traffic: Traffic, policy: KvPolicy, num_requests: u32) -> Result<Vec<Cell>, SimError> {
    let workload = traffic.workload(num_requests, Load::Closed { clients: 1 });
    let found = sustained_rate(&workload, &one_device(policy), Target::default(), SEED)?;
    let measured = match found {
        // A request alone takes longer.
        None => [const { Cell::Missing }; 5],
        Some((rate, figures)) => [
            Cell::Number(rate, 2),
            Cell::Number((WANTED / rate).ceil(), 0),
            Cell::Number(100.0 * figures.document_hit_ratio, 1),
            Cell::Number(100.0 * figures.document_reencoded_ratio, 1),
            Cell::Number(figures.tpot_ms.p50, 1),
        ],
    };
    let Traffic { num_documents, document_tokens, documents_per_request, alpha } = traffic;
    let asked = [num_documents.into(), document_tokens.into(), documents_per_request.into()];
    let named = [Cell::Number(alpha, 1), policy.name().into()];
    Ok(asked.into_iter().chain(named).chain(measured).collect())
}
