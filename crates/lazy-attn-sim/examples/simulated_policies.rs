//! Questions over a pool of documents, under each policy, for two simulated H100s.

use lazy_attn_sim::{ClusterConfig, Figures, simulate};
use lazy_attn_types::KvPolicy;
use lazy_attn_workload::{Load, Trace, Workload};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let workload = Workload::named("ttft-small").ok_or("no such workload")?;
    let load = Load::Open { rate_per_second: 50.0 };
    let trace = Trace::generate(&Workload { load, ..workload }, 7)?;
    println!("simulated, not measured:\n\n{}", Figures::HEADER);
    for policy in KvPolicy::ALL {
        let cluster = ClusterConfig { num_workers: 2, policy, ..ClusterConfig::llama_8b_on_one_h100() };
        println!("{}", simulate(&trace, &cluster)?);
    }
    Ok(())
}
