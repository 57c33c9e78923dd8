//! The figures of a run as JSON.
//!
//! Names and units are those of the result file of `vllm bench serve` where they mean the same (seconds in `duration` and
//! `ttfts`, milliseconds in `mean_ttft_ms` and its like); the rest is our own.

use std::time::Duration;

use lazy_attn_workload::{Load, Trace, TraceHeader};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::agreement::Agreement;
use crate::meter::Observed;
use crate::offline::Played;
use crate::record::{DocumentOutcome, RequestRecord};
use crate::summary::Summary;

/// Where, with what and how figures were measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// When it began, in seconds since 1970.
    pub unix_seconds: u64,
    /// The model.
    pub model_id: String,
    /// Graphics card, or processor and threads.
    pub device: String,
    /// What was measured.
    pub commit: String,
    /// Version of the program.
    pub version: String,
    /// How it was called.
    pub command: String,
    /// What else is worth knowing: other load on the machine.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Runs of one trace, one after the other, in one process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where, with what and how.
    pub setting: Setting,
    /// The trace.
    pub trace: TraceHeader,
    /// Its requests.
    pub num_requests: usize,
    /// Requests that were run before, in an engine of their own under every policy, and left out.
    pub warmup_requests: usize,
    /// Memory for keys and values, as it was asked for.
    pub kv_budget: String,
    /// One per policy.
    pub results: Vec<RunFigures>,
    /// Whether those that compute the same chose the same tokens, where that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agreements: Vec<Agreement>,
}

/// The figures of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFigures {
    /// How KV was reused: the name of a [`Contender`](crate::Contender).
    pub policy: String,
    /// Time to the first token.
    pub ttft_ms: Option<Summary>,
    /// Of requests that computed a document.
    pub ttft_encoding_ms: Option<Summary>,
    /// Of requests that found all documents.
    pub ttft_resident_ms: Option<Summary>,
    /// Time per token after the first, one sample a request.
    pub tpot_ms: Option<Summary>,
    /// Time between tokens.
    pub itl_ms: Option<Summary>,
    /// From sending to the last token.
    pub e2el_ms: Option<Summary>,
    /// Document tokens that were found as they are needed, of all.
    pub hit_ratio: f64,
    /// Document tokens that were resident at another position and re-encoded, of all.
    pub reencoded_ratio: f64,
    /// The same of the first and of the last hundred requests.
    pub hit_ratio_first_100: f64,
    /// See there.
    pub hit_ratio_last_100: f64,
    /// Document tokens found, by request in the order of the trace.
    pub hit_tokens: Vec<u64>,
    /// How late requests were sent, for an open load.
    pub late_ms_max: f64,
    /// Memory and sharing, if the engine is of this process.
    #[serde(flatten)]
    pub engine: Option<EngineFigures>,
    /// The fields of `vllm bench serve`.
    #[serde(flatten)]
    pub vllm: Map<String, Value>,
}

/// What only the engine knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineFigures {
    /// Bytes of KV that could be used.
    pub kv_budget_bytes: u64,
    /// Most that were owned.
    pub peak_kv_bytes: u64,
    /// Most that running requests held.
    pub peak_leased_bytes: u64,
    /// Sequences that read one resident document token in a decoding step, on average.
    pub shared_kv_factor: Option<f64>,
    /// Most sequences that read one document in a step.
    pub largest_document_group: u32,
    /// Steps.
    pub num_steps: u64,
    /// Mean time of one.
    pub step_ms_mean: f64,
    /// Most sequences in a step.
    pub max_sequences_per_step: u32,
    /// Times a sequence gave its blocks away.
    pub preemptions: u64,
    /// Segments evicted.
    pub evictions: u64,
    /// Tokens of documents run to encode them.
    pub tokens_encoded: u64,
    /// Tokens whose stored keys were rotated to another position instead.
    pub tokens_reencoded: u64,
}

impl EngineFigures {
    fn of(observed: &Observed, kv_budget_bytes: u64) -> EngineFigures {
        EngineFigures {
            kv_budget_bytes,
            peak_kv_bytes: observed.peak_kv_bytes,
            peak_leased_bytes: observed.peak_leased_bytes,
            shared_kv_factor: observed.sharing.factor(),
            largest_document_group: observed.sharing.largest_group,
            num_steps: observed.num_steps,
            step_ms_mean: millis(observed.step_time) / observed.num_steps.max(1) as f64,
            max_sequences_per_step: observed.max_sequences,
            preemptions: observed.preemptions,
            evictions: observed.evictions,
            tokens_encoded: observed.tokens_encoded,
            tokens_reencoded: observed.tokens_reencoded,
        }
    }
}

impl RunFigures {
    /// Of an engine of this process.
    #[must_use]
    pub fn of_engine(played: &Played, trace: &Trace) -> RunFigures {
        let engine = EngineFigures::of(&played.observed, played.kv_budget_bytes);
        let name = played.contender.to_string();
        let figures = RunFigures::of_records(&name, &played.records, (trace, played.duration));
        RunFigures { engine: Some(engine), ..figures }
    }

    /// Of whatever answered `records`, which took `duration` together.
    #[must_use]
    pub fn of_records(
        policy: &str,
        records: &[RequestRecord],
        (trace, duration): (&Trace, Duration),
    ) -> RunFigures {
        let first_tokens = |wanted: fn(&RequestRecord) -> bool| {
            let records = records.iter().filter(move |&record| wanted(record));
            Summary::of(records.filter_map(RequestRecord::time_to_first_token).map(millis))
        };
        let ended = records.iter().map(|record| millis(record.ended.saturating_sub(record.sent)));
        let last = records.len().saturating_sub(100);
        RunFigures {
            policy: policy.to_owned(),
            ttft_ms: first_tokens(|_| true),
            ttft_encoding_ms: first_tokens(RequestRecord::encodes),
            ttft_resident_ms: first_tokens(|record| !record.encodes()),
            tpot_ms: Summary::of(records.iter().filter_map(RequestRecord::time_per_output_token).map(millis)),
            itl_ms: Summary::of(records.iter().flat_map(RequestRecord::inter_token_times).map(millis)),
            e2el_ms: Summary::of(ended),
            hit_ratio: hit_ratio(records),
            reencoded_ratio: part_found(records, DocumentOutcome::Reencoded),
            hit_ratio_first_100: hit_ratio(&records[..records.len().min(100)]),
            hit_ratio_last_100: hit_ratio(&records[last..]),
            hit_tokens: records.iter().map(RequestRecord::hit_tokens).collect(),
            late_ms_max: records.iter().map(|record| millis(record.late)).fold(0.0, f64::max),
            engine: None,
            vllm: Map::new(),
        }
        .with_vllm_fields(records, (trace, duration))
    }

    fn with_vllm_fields(
        mut self,
        records: &[RequestRecord],
        (trace, duration): (&Trace, Duration),
    ) -> RunFigures {
        let seconds = duration.as_secs_f64().max(f64::MIN_POSITIVE);
        let done = || records.iter().filter(|record| record.error.is_none());
        let total_input: u64 = done().map(|record| u64::from(record.prompt_tokens)).sum();
        let total_output: u64 = done().map(|record| record.num_output_tokens() as u64).sum();
        let completed = done().count();
        let (request_rate, max_concurrency) = match trace.header.load {
            Load::Open { rate_per_second } => (Value::from(rate_per_second), Value::Null),
            Load::Closed { clients } => (Value::from("inf"), Value::from(clients)),
        };
        let ttfts = records.iter().filter_map(RequestRecord::time_to_first_token);
        let fields: [(&str, Value); 17] = [
            ("backend", "lazyattn".into()),
            ("num_prompts", records.len().into()),
            ("request_rate", request_rate),
            ("burstiness", 1.0.into()),
            ("max_concurrency", max_concurrency),
            ("duration", seconds.into()),
            ("completed", completed.into()),
            ("failed", (records.len() - completed).into()),
            ("total_input_tokens", total_input.into()),
            ("total_output_tokens", total_output.into()),
            ("request_throughput", (completed as f64 / seconds).into()),
            ("output_throughput", (total_output as f64 / seconds).into()),
            ("total_token_throughput", ((total_input + total_output) as f64 / seconds).into()),
            ("max_concurrent_requests", most_at_once(records).into()),
            ("input_lens", records.iter().map(|record| record.prompt_tokens).collect()),
            ("output_lens", records.iter().map(RequestRecord::num_output_tokens).collect()),
            ("ttfts", ttfts.map(|time| micros(time.as_secs_f64())).collect()),
        ];
        self.vllm.extend(fields.map(|(name, value)| (name.to_owned(), value)));
        let summaries =
            [("ttft", self.ttft_ms), ("tpot", self.tpot_ms), ("itl", self.itl_ms), ("e2el", self.e2el_ms)];
        for (name, summary) in summaries.into_iter().filter_map(|(name, summary)| Some((name, summary?))) {
            let Summary { mean, std, p50, p90, p99, .. } = summary;
            for (kind, value) in
                [("mean", mean), ("median", p50), ("std", std), ("p50", p50), ("p90", p90), ("p99", p99)]
            {
                self.vllm.insert(format!("{kind}_{name}_ms"), value.into());
            }
        }
        self
    }

    /// One of the fields of `vllm bench serve` that is a number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<f64> {
        self.vllm.get(name).and_then(Value::as_f64)
    }

    /// Times to the first token in seconds, in the order of the trace.
    #[must_use]
    pub fn ttfts(&self) -> Vec<f64> {
        let all = self.vllm.get("ttfts").and_then(Value::as_array);
        all.into_iter().flatten().filter_map(Value::as_f64).collect()
    }
}

fn hit_ratio(records: &[RequestRecord]) -> f64 {
    part_found(records, DocumentOutcome::Hit)
}

/// Document tokens that were found in one way, of all.
fn part_found(records: &[RequestRecord], outcome: DocumentOutcome) -> f64 {
    let all: u64 = records.iter().map(RequestRecord::document_tokens).sum();
    let found: u64 = records.iter().map(|record| record.tokens_found(outcome)).sum();
    found as f64 / all.max(1) as f64
}

/// Most requests that were under way at one moment.
fn most_at_once(records: &[RequestRecord]) -> usize {
    let mut changes: Vec<(Duration, isize)> =
        records.iter().flat_map(|record| [(record.sent, 1), (record.ended, -1)]).collect();
    changes.sort_unstable();
    let mut now = 0;
    let most = changes
        .into_iter()
        .map(|(_, change)| {
            now += change;
            now
        })
        .max();
    usize::try_from(most.unwrap_or(0)).unwrap_or(0)
}

fn millis(time: Duration) -> f64 {
    micros(time.as_secs_f64() * 1e3)
}

/// Rounded to six decimals: digits that no clock has only make files long.
fn micros(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{DocumentUse, Tokens};
    use lazy_attn_types::TokenId;
    use lazy_attn_workload::Workload;

    fn record(index: usize, outcome: DocumentOutcome, first_ms: u64) -> RequestRecord {
        let ms = Duration::from_millis;
        let tokens = |at| Tokens { at: ms(at), ids: vec![TokenId(1)], margins: Vec::new() };
        RequestRecord {
            index,
            sent: ms(10 * index as u64),
            late: ms(2),
            ended: ms(10 * index as u64 + first_ms + 4),
            prompt_tokens: 100,
            documents: vec![DocumentUse { num_tokens: 90, outcome }],
            output: vec![tokens(10 * index as u64 + first_ms), tokens(10 * index as u64 + first_ms + 4)],
            error: None,
        }
    }

    fn figures() -> RunFigures {
        let trace = Trace::generate(&Workload::named("hit-small").unwrap(), 1).unwrap();
        let [hit, reencoded, computed] =
            [DocumentOutcome::Hit, DocumentOutcome::Reencoded, DocumentOutcome::Computed];
        let records = [record(0, computed, 40), record(1, hit, 6), record(2, reencoded, 8)];
        RunFigures::of_records("lazy", &records, (&trace, Duration::from_secs(2)))
    }

    #[test]
    fn requests_that_encode_are_told_apart() {
        let figures = figures();
        assert_eq!(figures.ttft_ms.map(|all| (all.count, all.p50)), Some((3, 8.0)));
        assert_eq!(figures.ttft_encoding_ms.map(|some| some.p50), Some(40.0));
        assert_eq!(figures.ttft_resident_ms.map(|some| some.p50), Some(7.0));
        assert!((figures.hit_ratio - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!((figures.reencoded_ratio, figures.hit_tokens), (figures.hit_ratio, vec![0, 90, 0]));
    }

    #[test]
    fn fields_of_other_load_generators_have_their_names_and_units() {
        let figures = figures();
        for (name, value) in [
            ("duration", 2.0),
            ("completed", 3.0),
            ("total_input_tokens", 300.0),
            ("total_output_tokens", 6.0),
            ("request_throughput", 1.5),
            ("output_throughput", 3.0),
            ("total_token_throughput", 153.0),
            ("max_concurrency", 16.0),
            // 0..44 ms, 10..20 and 20..32: the third is sent as the second ends.
            ("max_concurrent_requests", 2.0),
            ("median_ttft_ms", 8.0),
            ("mean_tpot_ms", 4.0),
            ("p99_itl_ms", 4.0),
        ] {
            assert_eq!(figures.number(name), Some(value), "{name}");
        }
        assert_eq!(figures.ttfts(), [0.04, 0.006, 0.008]);
    }

    #[test]
    fn a_report_reads_as_it_was_written() {
        let trace = Trace::generate(&Workload::named("hit-small").unwrap(), 1).unwrap();
        let report = Report {
            setting: Setting {
                unix_seconds: 1,
                model_id: "m".into(),
                device: "d".into(),
                commit: "c".into(),
                version: "v".into(),
                command: "x".into(),
                note: String::new(),
            },
            num_requests: trace.requests.len(),
            trace: trace.header,
            warmup_requests: 2,
            kv_budget: "25%".into(),
            results: vec![figures()],
            agreements: Vec::new(),
        };
        let text = serde_json::to_string(&report).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["results"][0]["ttft_ms"]["p50"], 8.0);
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
