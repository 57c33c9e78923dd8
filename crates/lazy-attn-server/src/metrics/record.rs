//! All cells together, and what each observation does to them.

use std::time::Duration;

use lazy_attn_engine::{EngineStats, Observation, Observer, PartOutcome};
use lazy_attn_types::ExecutorInfo;

use super::cells::{Counter, Gauge, Histogram};
use super::families as family;
use super::labels::{ByWord, CAUSES, Failure, LOOKUPS, Outcome, Rejection, cause_index, lookup_index};
use super::text::Exposition;

/// The one tier that KV is kept in so far.
const DEVICE: (&str, &str) = ("tier", "device");

/// What one engine did and where it stands. Observes the engine, and is told by the edge what never reached it.
#[derive(Debug)]
pub struct Metrics {
    model: String,
    model_labels: Vec<(&'static str, String)>,
    requests: ByWord<4>,
    rejections: ByWord<10>,
    cancelled: ByWord<2>,
    lookups: ByWord<4>,
    reused_tokens: Counter,
    reencoded_tokens: Counter,
    computed_tokens: Counter,
    evictions: Counter,
    preemptions: Counter,
    gauges: Gauges,
    times: Times,
    batch: Batch,
}

#[derive(Debug, Default)]
struct Gauges {
    requests_running: Gauge,
    requests_waiting: Gauge,
    blocks: Gauge,
    blocks_used: Gauge,
    blocks_pinned: Gauge,
    bytes: Gauge,
    documents: Gauge,
    shared_factor: Gauge,
}

#[derive(Debug)]
struct Times {
    ttft: Histogram,
    inter_token: Histogram,
    e2e: Histogram,
    queue: Histogram,
    prefill: Histogram,
    decode: Histogram,
    document_prefill: Histogram,
}

#[derive(Debug)]
struct Batch {
    duration: Histogram,
    tokens: Histogram,
    sequences: Histogram,
    group_size: Histogram,
}

impl Metrics {
    /// Metrics of an engine that runs `model` on an executor with `info`.
    #[must_use]
    pub fn new(model: &str, info: &ExecutorInfo) -> Metrics {
        let gauges = Gauges::default();
        gauges.blocks.set(f64::from(info.num_blocks));
        gauges.shared_factor.set(1.0);
        Metrics {
            model: model.to_owned(),
            model_labels: vec![
                ("max_context_tokens", info.max_context_tokens.to_string()),
                ("vocab_size", info.vocab_size.to_string()),
                ("kv_bytes_per_token", info.kv_bytes_per_token.to_string()),
            ],
            requests: ByWord::new(Outcome::WORDS),
            rejections: ByWord::new(Rejection::WORDS),
            cancelled: ByWord::new(CAUSES),
            lookups: ByWord::new(LOOKUPS),
            reused_tokens: Counter::default(),
            reencoded_tokens: Counter::default(),
            computed_tokens: Counter::default(),
            evictions: Counter::default(),
            preemptions: Counter::default(),
            gauges,
            times: Times {
                ttft: Histogram::durations(),
                inter_token: Histogram::durations(),
                e2e: Histogram::durations(),
                queue: Histogram::durations(),
                prefill: Histogram::durations(),
                decode: Histogram::durations(),
                document_prefill: Histogram::durations(),
            },
            batch: Batch {
                duration: Histogram::durations(),
                tokens: Histogram::counts(),
                sequences: Histogram::counts(),
                group_size: Histogram::counts(),
            },
        }
    }

    /// For tests: of a model called `m`.
    #[cfg(test)]
    pub(super) fn of_nothing() -> Metrics {
        let info = ExecutorInfo {
            vocab_size: 9,
            num_blocks: 8,
            block_size: lazy_attn_types::BlockSize::DEFAULT,
            kv_bytes_per_token: 2,
            max_step_tokens: 4,
            max_context_tokens: 32,
            fingerprint: lazy_attn_types::Fingerprint([0; 32]),
            capability: lazy_attn_types::Capability::Logits,
            stored_keys: &[lazy_attn_types::StoredKeys::Rotated],
        };
        Metrics::new("m", &info)
    }

    /// A request was refused before it reached the engine.
    pub fn refused(&self, rejection: Rejection) {
        self.requests.count(Outcome::Rejected as usize);
        self.rejections.count(rejection as usize);
    }

    /// Everything in the text format of Prometheus, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = Exposition::new(&self.model);
        let gauges = &self.gauges;
        out.single(&family::REQUESTS_RUNNING, &[], gauges.requests_running.get());
        out.single(&family::REQUESTS_WAITING, &[], gauges.requests_waiting.get());
        out.by_word(&family::REQUESTS, "outcome", self.requests.iter());
        out.by_word(&family::REJECTIONS, "reason", self.rejections.iter());
        out.by_word(&family::CANCELLED, "cause", self.cancelled.iter());
        out.single(&family::PREEMPTIONS, &[], self.preemptions.get());
        self.render_times(&mut out);
        out.single(&family::KV_BLOCKS, &[], gauges.blocks.get());
        out.single(&family::KV_BLOCKS_USED, &[], gauges.blocks_used.get());
        out.single(&family::KV_BLOCKS_PINNED, &[], gauges.blocks_pinned.get());
        out.single(&family::KV_BYTES, &[DEVICE], gauges.bytes.get());
        out.single(&family::KV_EVICTIONS, &[DEVICE, ("reason", "space")], self.evictions.get());
        out.by_word(&family::LOOKUPS, "outcome", self.lookups.iter());
        out.single(&family::REUSED_TOKENS, &[], self.reused_tokens.get());
        out.single(&family::REENCODED_TOKENS, &[], self.reencoded_tokens.get());
        out.single(&family::COMPUTED_TOKENS, &[], self.computed_tokens.get());
        out.single(&family::RESIDENT, &[DEVICE], gauges.documents.get());
        out.histogram(&family::DOCUMENT_PREFILL, &self.times.document_prefill);
        out.single(&family::SHARED_FACTOR, &[], gauges.shared_factor.get());
        out.histogram(&family::GROUP_SIZE, &self.batch.group_size);
        out.single(&family::BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1);
        let labels: Vec<_> = self.model_labels.iter().map(|(label, word)| (*label, word.as_str())).collect();
        out.single(&family::MODEL_INFO, &labels, 1);
        out.finish()
    }

    fn render_times(&self, out: &mut Exposition) {
        let (times, batch) = (&self.times, &self.batch);
        for (family, histogram) in [
            (&family::TTFT, &times.ttft),
            (&family::INTER_TOKEN, &times.inter_token),
            (&family::E2E, &times.e2e),
            (&family::QUEUE, &times.queue),
            (&family::PREFILL, &times.prefill),
            (&family::DECODE, &times.decode),
            (&family::STEP, &batch.duration),
            (&family::BATCH_TOKENS, &batch.tokens),
            (&family::BATCH_SEQUENCES, &batch.sequences),
        ] {
            out.histogram(family, histogram);
        }
    }

    fn cancel(&self, cause: usize) {
        self.requests.count(Outcome::Cancelled as usize);
        self.cancelled.count(cause);
    }

    fn stand(&self, stats: &EngineStats) {
        let (gauges, kv) = (&self.gauges, &stats.sched.kv);
        gauges.requests_running.set(stats.requests_running as f64);
        gauges.requests_waiting.set(stats.sched.waiting as f64);
        gauges.blocks.set(f64::from(kv.blocks_total));
        gauges.blocks_used.set(f64::from(kv.blocks_total - kv.blocks_free));
        gauges.blocks_pinned.set(f64::from(kv.blocks_pinned));
        gauges.bytes.set(kv.bytes as f64);
        gauges.documents.set(kv.documents as f64);
        self.evictions.follow(kv.evictions);
        self.preemptions.follow(stats.sched.preemptions);
        if stats.requests_running == 0 {
            // Nobody reads anything, so nothing is shared.
            gauges.shared_factor.set(1.0);
        }
    }
}

impl Observer for Metrics {
    fn observe(&self, observation: &Observation<'_>) {
        let (times, batch) = (&self.times, &self.batch);
        match *observation {
            Observation::Admitted { queue } => times.queue.observe(micros(queue)),
            Observation::Document { outcome, num_tokens } => {
                self.lookups.count(lookup_index(outcome));
                let tokens = match outcome {
                    PartOutcome::Hit | PartOutcome::Joined => &self.reused_tokens,
                    PartOutcome::Reencoded => &self.reencoded_tokens,
                    PartOutcome::Miss => &self.computed_tokens,
                };
                tokens.add(u64::from(num_tokens));
            }
            Observation::DocumentEncoded { took } => times.document_prefill.observe(micros(took)),
            Observation::FirstToken { since_submitted, prefill } => {
                times.ttft.observe(micros(since_submitted));
                times.prefill.observe(micros(prefill));
            }
            Observation::NextToken { since_last } => times.inter_token.observe(micros(since_last)),
            Observation::Done { since_submitted, decode } => {
                self.requests.count(Outcome::Done as usize);
                if let Some(decode) = decode {
                    times.e2e.observe(micros(since_submitted));
                    times.decode.observe(micros(decode));
                }
            }
            Observation::Failed { error } => match Failure::of(error) {
                Failure::Rejected(rejection) => self.refused(rejection),
                Failure::Late => self.cancel(cause_index(lazy_attn_engine::CancelCause::Deadline)),
                Failure::Broken => self.requests.count(Outcome::Failed as usize),
            },
            Observation::Cancelled { cause } => self.cancel(cause_index(cause)),
            Observation::Step { took, num_tokens, num_sequences } => {
                batch.duration.observe(micros(took));
                batch.tokens.observe(u64::from(num_tokens));
                batch.sequences.observe(u64::from(num_sequences));
            }
            Observation::DocumentGroup { num_sequences } => {
                batch.group_size.observe(u64::from(num_sequences))
            }
            Observation::Sharing { attended_tokens, distinct_tokens } => {
                self.gauges.shared_factor.set(attended_tokens as f64 / distinct_tokens as f64);
            }
            Observation::State(stats) => self.stand(stats),
            // What later engines tell has no name here yet.
            _ => {}
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shows(metrics: &Metrics, line: &str) {
        let text = metrics.render();
        assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
    }

    #[test]
    fn the_sharing_factor_is_that_of_the_last_step_and_one_when_nothing_runs() {
        let metrics = Metrics::of_nothing();
        shows(&metrics, "lazyattn_shared_kv_factor{model=\"m\"} 1");
        metrics.observe(&Observation::Sharing { attended_tokens: 100, distinct_tokens: 40 });
        metrics.observe(&Observation::State(&EngineStats { requests_running: 2, ..EngineStats::default() }));
        shows(&metrics, "lazyattn_shared_kv_factor{model=\"m\"} 2.5");
        shows(&metrics, "lazyattn_requests_running{model=\"m\"} 2");
        metrics.observe(&Observation::State(&EngineStats::default()));
        shows(&metrics, "lazyattn_shared_kv_factor{model=\"m\"} 1");
    }

    #[test]
    fn durations_are_shown_in_seconds() {
        let metrics = Metrics::of_nothing();
        metrics.observe(&Observation::Admitted { queue: Duration::from_micros(2500) });
        shows(&metrics, "lazyattn_queue_seconds_bucket{model=\"m\",le=\"0.001\"} 0");
        shows(&metrics, "lazyattn_queue_seconds_bucket{model=\"m\",le=\"0.0025\"} 1");
        shows(&metrics, "lazyattn_queue_seconds_bucket{model=\"m\",le=\"+Inf\"} 1");
        shows(&metrics, "lazyattn_queue_seconds_sum{model=\"m\"} 0.0025");
        shows(&metrics, "lazyattn_queue_seconds_count{model=\"m\"} 1");
    }
}
