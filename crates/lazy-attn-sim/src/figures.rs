//! What came of a simulation.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// A distribution of times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Summary {
    /// The mean.
    pub mean: f64,
    /// Half took at most this.
    pub p50: f64,
    /// Nine of ten took at most this.
    pub p90: f64,
    /// All but one of a hundred took at most this.
    pub p99: f64,
}

impl Summary {
    /// Of `times`; zeros if there are none.
    #[must_use]
    pub fn of(mut times: Vec<Duration>) -> Summary {
        if times.is_empty() {
            return Summary::default();
        }
        times.sort_unstable();
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        let at = |percent: usize| milliseconds(times[(times.len() * percent).div_ceil(100).max(1) - 1]);
        let mean = times.iter().copied().map(milliseconds).sum::<f64>() / times.len() as f64;
        Summary { mean, p50: at(50), p90: at(90), p99: at(99) }
    }
}

/// Figures of one simulation. They are simulated, not measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Always true: what reads this shall say so.
    pub simulated: bool,
    /// How KV was reused.
    pub policy: String,
    /// Which worker got a request.
    pub routing: String,
    /// Workers.
    pub num_workers: u32,
    /// Requests that ended, warm-up left out.
    pub num_requests: u64,
    /// From the first arrival to the last token, in simulated seconds.
    pub seconds: f64,
    /// From a request's arrival to its first token.
    pub ttft_ms: Summary,
    /// Between two tokens of one request, over all of its tokens.
    pub tpot_ms: Summary,
    /// Requests that ended per second.
    pub requests_per_second: f64,
    /// Tokens generated per second.
    pub output_tokens_per_second: f64,
    /// Share of the document tokens that were found, ready, being computed, or at another position to be copied from.
    pub document_hit_ratio: f64,
    /// Share of the document tokens that were found at another position.
    pub document_reencoded_ratio: f64,
    /// Segments evicted.
    pub evictions: u64,
    /// Sequences that gave their blocks away for a while.
    pub preemptions: u64,
    /// Share of the time in which a device ran a step, however small.
    pub busy: f64,
    /// Requests of the worker that had most, over the mean.
    pub imbalance: f64,
    /// Steps of all workers.
    pub num_steps: u64,
}

impl Figures {
    /// Heads of the columns of [`Figures`]'s `Display`, as a Markdown table.
    pub const HEADER: &'static str = "| policy | routing | workers | TTFT p50 | p99 | TPOT p50 | requests/s | output tokens/s | document hits | busy |\n|---|---|---|---|---|---|---|---|---|---|";
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { policy, routing, num_workers, .. } = self;
        let (ttft, tpot) = (self.ttft_ms, self.tpot_ms);
        write!(f, "| {policy} | {routing} | {num_workers} ")?;
        write!(f, "| {:.1} ms | {:.1} ms | {:.2} ms ", ttft.p50, ttft.p99, tpot.p50)?;
        write!(f, "| {:.2} | {:.0} ", self.requests_per_second, self.output_tokens_per_second)?;
        write!(f, "| {:.1} % | {:.0} % |", 100.0 * self.document_hit_ratio, 100.0 * self.busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_times() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        let summary = Summary::of(times);
        assert_eq!(summary, Summary { mean: 100.5, p50: 100.0, p90: 180.0, p99: 198.0 });
        assert_eq!(Summary::of(vec![Duration::from_millis(7)]).p99, 7.0);
        assert_eq!(Summary::of(Vec::new()), Summary::default());
    }
}
