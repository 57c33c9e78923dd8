//! Choices that were tried: routing, eviction, admission, the size of steps.

use lazy_attn_kv::EvictionPolicy;
use lazy_attn_sched::{AdmissionPolicy, Affinity};
use lazy_attn_types::KvPolicy;
use lazy_attn_workload::{Load, Trace, Workload};

use super::{Cell, SEED, Table, Traffic, one_device};
use crate::{ClusterConfig, Routing, SimError, Target, simulate, sustained_rate};

/// Devices whose routing is compared.
const NUM_DEVICES: u32 = 8;
/// A million documents, skewed.
const MANY: Traffic = Traffic::of(1_000_000, 1.1);

const ROUTING: [&str; 6] = [
    "documents",
    "alpha",
    "routing",
    "requests/s of each device",
    "found, %",
    "requests of the busiest over the mean",
];

/// Pools that eight devices hold together and that they do not.
pub(super) fn routing(num_requests: u32) -> Result<Table, SimError> {
    let mut rows = Vec::new();
    for traffic in [(1000, 0.8), (1000, 1.1), (1_000_000, 0.8), (1_000_000, 1.1)] {
        let traffic = Traffic::of(traffic.0, traffic.1);
        for routing in Routing::ALL {
            let workload = traffic.workload(num_requests, Load::Closed { clients: 1 });
            let config = ClusterConfig { num_workers: NUM_DEVICES, routing, ..one_device(KvPolicy::Lazy) };
            let target = Target { num_trials: 5, ..Target::default() };
            let measured = match sustained_rate(&workload, &config, target, SEED)? {
                None => [const { Cell::Missing }; 3],
                Some((rate, figures)) => [
                    Cell::Number(rate / f64::from(NUM_DEVICES), 2),
                    Cell::Number(100.0 * figures.document_hit_ratio, 1),
                    Cell::Number(figures.imbalance, 2),
                ],
            };
            let routing = Cell::Text(routing.to_string());
            let asked = [traffic.num_documents.into(), Cell::Number(traffic.alpha, 1), routing];
            rows.push(asked.into_iter().chain(measured).collect());
        }
    }
    let about = "8 devices, 99 of 100 first tokens within a second, 5 documents of 2048 a request";
    Ok(Table::new("routing", about, &ROUTING, rows))
}

const RUNS: [&str; 7] =
    ["what", "TTFT p50, ms", "TTFT p99, ms", "TPOT p50, ms", "requests/s", "found, %", "busy, %"];

/// A simulation, and what is special about it.
type Run = (String, Workload, ClusterConfig);

fn runs(name: &'static str, about: &str, runs: impl IntoIterator<Item = Run>) -> Result<Table, SimError> {
    let row = |(what, workload, config): Run| {
        let figures = simulate(&Trace::generate(&workload, SEED)?, &config)?;
        Ok(vec![
            Cell::Text(what),
            Cell::Number(figures.ttft_ms.p50, 1),
            Cell::Number(figures.ttft_ms.p99, 1),
            Cell::Number(figures.tpot_ms.p50, 2),
            Cell::Number(figures.requests_per_second, 2),
            Cell::Number(100.0 * figures.document_hit_ratio, 1),
            Cell::Number(100.0 * figures.busy, 0),
        ])
    };
    let rows = runs.into_iter().map(row).collect::<Result<Vec<_>, SimError>>()?;
    Ok(Table::new(name, about, &RUNS, rows))
}

pub(super) fn eviction(num_requests: u32) -> Result<Table, SimError> {
    let all = [0.8, 1.1, 1.5].into_iter().flat_map(|alpha| {
        let workload = Traffic::of(1_000_000, alpha).workload(num_requests, Load::Closed { clients: 32 });
        [("least recently used", EvictionPolicy::Lru), ("by cost", EvictionPolicy::CostAware)].map(
            |(name, eviction)| {
                let config = ClusterConfig { eviction, ..one_device(KvPolicy::Lazy) };
                (format!("alpha {alpha}, {name}"), workload.clone(), config)
            },
        )
    });
    runs("eviction", "one device, a million documents of 2048, 5 a request, 32 clients", all)
}

/// Admission in order against affinity of several weights and windows: near saturation of a store that holds little of the pool,
/// where few wait, and in a closed loop over a store of a quarter of it, where most wait.
pub(super) fn admission(num_requests: u32) -> Result<Table, SimError> {
    let open = MANY.workload(num_requests, Load::Open { rate_per_second: 4.5 });
    let closed = Traffic::of(100, 1.1).workload(num_requests, Load::Closed { clients: 32 });
    let quarter = |config: ClusterConfig| {
        let per_document = config.block_size.blocks_for(closed.shape.document_tokens);
        ClusterConfig { num_blocks: closed.shape.num_documents / 4 * per_document, ..config }
    };
    let mut all = Vec::new();
    for (name, admission) in admissions() {
        let config = ClusterConfig { admission, ..one_device(KvPolicy::Lazy) };
        all.push((format!("4.5 requests/s, {name}"), open.clone(), config));
        all.push((format!("32 clients, {name}"), closed.clone(), quarter(config)));
    }
    let about = "one device, 5 documents of 2048 a request, alpha 1.1: of a million at 4.5 requests/s, or of a hundred with room for \
                 a quarter and 32 clients";
    runs("admission", about, all)
}

fn admissions() -> Vec<(String, AdmissionPolicy)> {
    let mut all = vec![("in order".to_owned(), AdmissionPolicy::Fcfs)];
    let weights = [
        (25, 50, 4000),
        (100, 400, 4000),
        (200, 800, 1000),
        (200, 800, 2000),
        (200, 800, 4000),
        (200, 800, 8000),
    ];
    for (shared_token_micros, uncached_token_micros, milliseconds) in weights {
        let max_overtaking_micros = 1000 * milliseconds;
        let weighed = Affinity {
            shared_token_micros,
            uncached_token_micros,
            max_overtaking_micros,
            ..Affinity::default()
        };
        let name = format!(
            "{shared_token_micros} us a shared and {uncached_token_micros} a computed token, at most {milliseconds} ms overtaken"
        );
        all.push((name, AdmissionPolicy::Affinity(weighed)));
    }
    all
}

/// Tokens of a step: large ones encode better and make decoding wait.
pub(super) fn steps(num_requests: u32) -> Result<Table, SimError> {
    let workload = MANY.workload(num_requests, Load::Open { rate_per_second: 4.0 });
    let all = [512, 1024, 2048, 4096, 8192].map(|max_step_tokens| {
        let config = ClusterConfig { max_step_tokens, ..one_device(KvPolicy::Lazy) };
        (format!("{max_step_tokens} tokens"), workload.clone(), config)
    });
    runs("steps", "one device, a million documents of 2048, 5 a request, alpha 1.1, 4 requests/s", all)
}
