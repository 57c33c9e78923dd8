//! The closed loads of docs/results.md on a simulated H200, and what longer ones would give: simulated, not measured.

use lazy_attn_sim::{ClusterConfig, Figures, simulate};
use lazy_attn_types::{CostModel, KvPolicy};
use lazy_attn_workload::{KvBudget, Load, Trace, Workload};

/// Tokens that an H200 holds beside the weights.
const KV_TOKENS: u64 = 900_240;
/// What was expected of its memory before anything was measured there.
const BYTES_PER_SECOND: f64 = 3.9e12;
/// Sequences that run at once, unless there are more clients.
const MAX_RUNNING: u32 = 64;

/// Clients that ask for documents of the workload `ttft`.
#[derive(Debug, Clone, Copy)]
struct Row {
    alpha: f64,
    /// Percent of the pool; nothing for all that there is.
    budget: Option<u32>,
    clients: u32,
    num_requests: u32,
    /// Requests that fill the store and are in no figure.
    num_warmup: u32,
    output_tokens: u32,
    seed: u64,
}

impl Row {
    /// A load that was measured, from an empty store.
    const fn cold(alpha: f64, budget: Option<u32>, clients: u32, num_requests: u32) -> Row {
        Row { alpha, budget, clients, num_requests, num_warmup: 0, output_tokens: 16, seed: 7 }
    }

    /// A load over documents that are all resident.
    const fn warm(alpha: f64, clients: u32, output_tokens: u32) -> Row {
        Row { alpha, budget: None, clients, num_requests: 1400, num_warmup: 400, output_tokens, seed: 7 }
    }

    /// A load that goes on for as long as it took to fill the store.
    const fn steady(alpha: f64, budget: Option<u32>, seed: u64) -> Row {
        Row { alpha, budget, clients: 32, num_requests: 800, num_warmup: 400, output_tokens: 16, seed }
    }

    fn budget_text(self) -> String {
        self.budget.map_or("all".to_owned(), |percent| format!("{percent} %"))
    }

    fn figures(self, policy: KvPolicy) -> Result<Figures, Box<dyn std::error::Error>> {
        let Row { alpha, clients, num_requests, num_warmup, .. } = self;
        let mut workload = Workload::named("ttft").ok_or("no such workload")?;
        workload.shape.output_tokens = self.output_tokens;
        let budget = self.budget.map_or(Ok(KvBudget::All), |percent| format!("{percent}%").parse())?;
        let tokens = budget.tokens(&workload.shape).unwrap_or(KV_TOKENS);
        let load = Load::Closed { clients };
        let trace = Trace::generate(&Workload { alpha, load, num_requests, ..workload }, self.seed)?;
        let h100 = ClusterConfig::llama_8b_on_one_h100();
        let num_blocks = u32::try_from(tokens / u64::from(h100.block_size.get()))?;
        let cost = CostModel { bytes_per_second: BYTES_PER_SECOND, ..h100.cost };
        let max_running = MAX_RUNNING.max(clients);
        Ok(simulate(&trace, &ClusterConfig { policy, num_blocks, max_running, cost, num_warmup, ..h100 })?)
    }
}

const ROWS: [Row; 10] = [
    Row::cold(2.1, Some(25), 32, 160),
    Row::cold(2.1, Some(25), 8, 160),
    Row::cold(1.1, Some(25), 8, 120),
    Row::cold(2.1, Some(10), 8, 120),
    Row::cold(1.1, None, 128, 600),
    Row::cold(0.0, None, 32, 160),
    Row::warm(1.1, 128, 16),
    Row::warm(2.1, 128, 16),
    Row::warm(1.1, 128, 128),
    Row::warm(1.1, 256, 128),
];

const ALPHAS: [f64; 5] = [0.0, 0.8, 1.1, 1.5, 2.1];
const BUDGETS: [Option<u32>; 3] = [None, Some(25), Some(10)];
const SEEDS: [u64; 3] = [7, 8, 9];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("simulated, not measured:\n");
    print_rows()?;
    println!(
        "\n32 clients, 400 requests after 400, ratios of `lazy` to the policy, least to most of three seeds:\n"
    );
    print_grid()
}

fn print_rows() -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "| alpha | budget | clients | requests | output | policy | requests/s | TTFT p50 | TPOT p50 | found |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for row in ROWS {
        for policy in [KvPolicy::Lazy, KvPolicy::Reencode] {
            let figures = row.figures(policy)?;
            println!(
                "| {} | {} | {} | {} after {} | {} | {policy} | {:.2} | {:.0} ms | {:.1} ms | {:.1} % |",
                row.alpha,
                row.budget_text(),
                row.clients,
                row.num_requests - row.num_warmup,
                row.num_warmup,
                row.output_tokens,
                figures.requests_per_second,
                figures.ttft_ms.p50,
                figures.tpot_ms.p50,
                100.0 * figures.document_hit_ratio,
            );
        }
    }
    Ok(())
}

/// Every skew with every budget, against both ways to keep copies.
fn print_grid() -> Result<(), Box<dyn std::error::Error>> {
    println!("| alpha | budget | policy | requests/s | TTFT p50 | found by `lazy` | by the policy |");
    println!("|---|---|---|---|---|---|---|");
    for alpha in ALPHAS {
        for budget in BUDGETS {
            let rows = SEEDS.map(|seed| Row::steady(alpha, budget, seed));
            let lazy = figures_of(&rows, KvPolicy::Lazy)?;
            for policy in [KvPolicy::Reencode, KvPolicy::ReencodeCopy] {
                let copies = figures_of(&rows, policy)?;
                let pairs = || lazy.iter().zip(&copies);
                let rate =
                    range(pairs().map(|(lazy, other)| lazy.requests_per_second / other.requests_per_second));
                let ttft = range(pairs().map(|(lazy, other)| other.ttft_ms.p50 / lazy.ttft_ms.p50));
                println!(
                    "| {alpha} | {} | {policy} | {rate} | {ttft} | {:.1} % | {:.1} % |",
                    rows[0].budget_text(),
                    100.0 * mean_found(&lazy),
                    100.0 * mean_found(&copies),
                );
            }
        }
    }
    Ok(())
}

fn figures_of(rows: &[Row], policy: KvPolicy) -> Result<Vec<Figures>, Box<dyn std::error::Error>> {
    rows.iter().map(|row| row.figures(policy)).collect()
}

/// Document tokens found, as a part of one.
fn mean_found(figures: &[Figures]) -> f64 {
    figures.iter().map(|figures| figures.document_hit_ratio).sum::<f64>() / figures.len() as f64
}

fn range(ratios: impl Iterator<Item = f64>) -> String {
    let (least, most) =
        ratios.fold((f64::INFINITY, 0.0_f64), |(least, most), ratio| (least.min(ratio), most.max(ratio)));
    format!("{least:.2}-{most:.2}x")
}
