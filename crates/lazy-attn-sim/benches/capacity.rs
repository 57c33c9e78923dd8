//! The tables of docs/capacity.md. Everything is simulated.
//!
//! `cargo xtask bench simulate` prints all; names behind it print some: traffic, routing, eviction,
//! admission or steps.

#![allow(clippy::unwrap_used)] // a bench stops where its setup fails

use std::time::Instant;

use lazy_attn_kv::EvictionPolicy;
use lazy_attn_sched::{AdmissionPolicy, Affinity};
use lazy_attn_sim::{ClusterConfig, Figures, Routing, Target, simulate, sustained_rate};
use lazy_attn_types::KvPolicy;
use lazy_attn_workload::{KvBudget, Load, Shape, Trace, Workload};

const SEED: u64 = 1;
const NUM_WARMUP: u32 = 1000;
const NUM_REQUESTS: u32 = 3000;
/// Requests per second that devices are counted for.
const WANTED: f64 = 100.0;

/// Devices whose routing is compared.
const NUM_DEVICES: u32 = 8;

/// `[N, L, k, o]` and alpha.
type Traffic = ([u32; 4], f64);

/// From a pool that one device holds to one it holds a thousandth of; contexts of 4k and 10k tokens.
const TRAFFIC: [Traffic; 7] = [
    ([100, 2048, 5, 128], 1.1),
    ([1000, 2048, 5, 128], 1.1),
    ([1_000_000, 2048, 5, 128], 0.8),
    ([1_000_000, 2048, 5, 128], 1.1),
    ([1_000_000, 2048, 5, 128], 1.5),
    ([1_000_000, 2048, 5, 128], 2.1),
    ([1_000_000, 512, 8, 128], 1.1),
];

fn workload((shape, alpha): Traffic, num_requests: u32, load: Load) -> Workload {
    let [num_documents, document_tokens, documents_per_request, output_tokens] = shape;
    let query_tokens = 32;
    let shape = Shape { num_documents, document_tokens, documents_per_request, query_tokens, output_tokens };
    let (name, kv_budget) = ("capacity".to_owned(), KvBudget::All);
    Workload { name, shape, alpha, num_requests: NUM_WARMUP + num_requests, load, kv_budget }
}

fn one_device(policy: KvPolicy) -> ClusterConfig {
    ClusterConfig { policy, num_warmup: NUM_WARMUP, ..ClusterConfig::llama_8b_on_one_h100() }
}

/// Devices for [`WANTED`] requests per second, each with its share of arrivals by turns.
fn traffic() {
    println!(
        "\n## traffic: rate of one device with a p99 of the first token of 1 s; devices for {WANTED} requests/s\n"
    );
    println!(
        "| documents | tokens of each | of a request | alpha | policy | requests/s of one | devices | document hits | TPOT p50 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for traffic in TRAFFIC {
        for policy in KvPolicy::ALL {
            let workload = workload(traffic, NUM_REQUESTS, Load::Closed { clients: 1 });
            let found = sustained_rate(&workload, &one_device(policy), Target::default(), SEED).unwrap();
            let ([documents, tokens, per_request, _], alpha) = traffic;
            print!("| {documents} | {tokens} | {per_request} | {alpha} | {policy} ");
            match found {
                Some((rate, figures)) => println!(
                    "| {rate:.2} | {:.0} | {:.1} % | {:.1} ms |",
                    (WANTED / rate).ceil(),
                    100.0 * figures.document_hit_ratio,
                    figures.tpot_ms.p50
                ),
                None => println!("| none: a request alone takes longer | | | |"),
            }
        }
    }
}

fn print_runs(title: &str, runs: impl IntoIterator<Item = (String, Workload, ClusterConfig)>) {
    println!("\n## {title}\n\n| what {}", Figures::HEADER.replace("\n|", "\n|---|"));
    for (what, workload, config) in runs {
        let trace = Trace::generate(&workload, SEED).unwrap();
        println!("| {what} {}", simulate(&trace, &config).unwrap());
    }
}

/// Pools that eight devices hold together and that they do not.
fn routing() {
    println!(
        "\n## routing: rate of each of 8 devices with a p99 of the first token of 1 s; 5 documents of 2048 a request\n"
    );
    println!(
        "| documents | alpha | routing | requests/s of each | document hits | requests of the busiest over the mean |"
    );
    println!("|---|---|---|---|---|---|");
    for (num_documents, alpha) in [(1000, 0.8), (1000, 1.1), (1_000_000, 0.8), (1_000_000, 1.1)] {
        for routing in Routing::ALL {
            let traffic = ([num_documents, 2048, 5, 128], alpha);
            let workload = workload(traffic, NUM_REQUESTS, Load::Closed { clients: 1 });
            let config = ClusterConfig { num_workers: NUM_DEVICES, routing, ..one_device(KvPolicy::Lazy) };
            let target = Target { num_trials: 5, ..Target::default() };
            let Some((rate, figures)) = sustained_rate(&workload, &config, target, SEED).unwrap() else {
                println!("| {num_documents} | {alpha} | {routing} | none | | |");
                continue;
            };
            let (rate, hits) = (rate / f64::from(NUM_DEVICES), 100.0 * figures.document_hit_ratio);
            println!(
                "| {num_documents} | {alpha} | {routing} | {rate:.2} | {hits:.1} % | {:.2} |",
                figures.imbalance
            );
        }
    }
}

fn eviction() {
    let runs = [0.8, 1.1, 1.5].into_iter().flat_map(|alpha| {
        let workload =
            workload(([1_000_000, 2048, 5, 128], alpha), NUM_REQUESTS, Load::Closed { clients: 32 });
        [("LRU", EvictionPolicy::Lru), ("by cost", EvictionPolicy::CostAware)].map(|(name, eviction)| {
            let config = ClusterConfig { eviction, ..one_device(KvPolicy::Lazy) };
            (format!("alpha {alpha}, {name}"), workload.clone(), config)
        })
    });
    print_runs("eviction: one device, a million documents of 2048, 5 a request, 32 clients", runs);
}

/// Admission in order against affinity of several windows, near saturation.
fn admission() {
    let traffic = ([1_000_000, 2048, 5, 128], 1.1);
    let workload = workload(traffic, NUM_REQUESTS, Load::Open { rate_per_second: 4.5 });
    let with = |name: &str, admission| {
        (name.to_owned(), workload.clone(), ClusterConfig { admission, ..one_device(KvPolicy::Lazy) })
    };
    let windows = [500, 2000, 8000].map(|milliseconds| {
        let affinity = Affinity { max_overtaking_micros: 1000 * milliseconds, ..Affinity::default() };
        with(&format!("affinity, at most {milliseconds} ms overtaken"), AdmissionPolicy::Affinity(affinity))
    });
    let runs = [with("in order", AdmissionPolicy::Fcfs)].into_iter().chain(windows);
    print_runs(
        "admission: one device, a million documents of 2048, 5 a request, alpha 1.1, 4.5 requests/s",
        runs,
    );
}

/// Tokens of a step: large ones encode better and make decoding wait.
fn steps() {
    let traffic = ([1_000_000, 2048, 5, 128], 1.1);
    let workload = workload(traffic, NUM_REQUESTS, Load::Open { rate_per_second: 4.0 });
    let runs = [512, 1024, 2048, 4096, 8192].map(|max_step_tokens| {
        let config = ClusterConfig { max_step_tokens, ..one_device(KvPolicy::Lazy) };
        (format!("{max_step_tokens} tokens"), workload.clone(), config)
    });
    print_runs("steps: one device, a million documents of 2048, 5 a request, alpha 1.1, 4 requests/s", runs);
}

fn main() {
    let sections: [(&str, fn()); 5] = [
        ("traffic", traffic),
        ("routing", routing),
        ("eviction", eviction),
        ("admission", admission),
        ("steps", steps),
    ];
    // Cargo adds `--bench`.
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    println!(
        "SIMULATED: Llama 3.1 8B in bf16 on H100s of 80 GB, {} tokens of KV each",
        one_device(KvPolicy::Lazy).kv_tokens()
    );
    for (name, section) in sections {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            let begin = Instant::now();
            section();
            println!("\n({name}: {:.0} s of wall time)", begin.elapsed().as_secs_f64());
        }
    }
}
