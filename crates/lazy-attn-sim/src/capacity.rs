//! How much traffic a cluster carries within a bound on the time to the first token.

use lazy_attn_workload::{Load, Trace, Workload};

use crate::{ClusterConfig, Figures, SimError, simulate};

/// What has to hold for traffic to be carried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Bound on the 99th percentile of the time to the first token.
    pub ttft_p99_ms: f64,
    /// Steps of the search; each halves the interval of the logarithm of the rate.
    pub num_trials: u32,
}

impl Default for Target {
    fn default() -> Self {
        Target { ttft_p99_ms: 1000.0, num_trials: 6 }
    }
}

/// Share of the closed-loop throughput at which the search begins: nobody waits long at so little load, unless a request alone
/// takes longer than the bound.
const LEAST_SHARE: f64 = 0.05;

/// The largest rate of Poisson arrivals that `config` carries within `target`, and the figures at it; nothing if even a
/// twentieth of its throughput is too much.
///
/// The throughput with as many clients as sequences run at once is an upper bound; below it the rate is searched by bisection,
/// with the same seed at every rate.
///
/// # Errors
/// As [`simulate`].
pub fn sustained_rate(
    workload: &Workload,
    config: &ClusterConfig,
    target: Target,
    seed: u64,
) -> Result<Option<(f64, Figures)>, SimError> {
    let at = |load: Load| {
        let trace = Trace::generate(&Workload { load, ..workload.clone() }, seed)?;
        simulate(&trace, config)
    };
    let clients = config.max_running.saturating_mul(config.num_workers);
    let most = at(Load::Closed { clients })?.requests_per_second;
    let (mut low, mut high) = ((LEAST_SHARE * most).ln(), most.ln());
    let carries = |figures: &Figures| figures.ttft_ms.p99 <= target.ttft_p99_ms;
    let mut best = at(Load::Open { rate_per_second: low.exp() })?;
    if !carries(&best) {
        return Ok(None);
    }
    let mut best_rate = low.exp();
    for _ in 0..target.num_trials {
        let middle = 0.5 * (low + high);
        let figures = at(Load::Open { rate_per_second: middle.exp() })?;
        if carries(&figures) {
            (low, best_rate, best) = (middle, middle.exp(), figures);
        } else {
            high = middle;
        }
    }
    Ok(Some((best_rate, best)))
}
