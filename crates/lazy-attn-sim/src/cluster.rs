//! Workers, requests and the clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use lazy_attn_kv::Found;
use lazy_attn_sched::{Admitted, Outcome, StepPlan};
use lazy_attn_types::Timestamp;
use lazy_attn_workload::{Load, Trace};

use crate::figures::{Figures, Summary};
use crate::prompt::submission;
use crate::routing::Router;
use crate::worker::{DRAWN, Pace, Worker};
use crate::{ClusterConfig, SimError};

/// Requests that run at once on a worker while the stores are filled.
const WARMUP_CLIENTS: u32 = 16;

/// Runs `trace` on the cluster until every request has ended.
///
/// The first [`ClusterConfig::num_warmup`] requests are sent by a fixed number of clients, in steps that take no time. After
/// them the clock starts: in an open load the others arrive as the trace says, in a closed one each client sends its next
/// request when it has its answer.
///
/// # Errors
/// [`SimError`] for numbers that cannot be, and for a request that fits no worker.
pub fn simulate(trace: &Trace, config: &ClusterConfig) -> Result<Figures, SimError> {
    config.validate()?;
    let num_warmup = config.num_warmup as usize;
    if num_warmup >= trace.requests.len() {
        let (value, allowed) = (num_warmup.to_string(), "less than the requests of the trace");
        return Err(SimError::Param { field: "num_warmup", value, allowed });
    }
    let mut cluster = Cluster::new(trace, config)?;
    let clients = WARMUP_CLIENTS * config.num_workers;
    cluster.run(0..num_warmup, Load::Closed { clients }, Pace::Free)?;
    let before = cluster.counts();
    cluster.begin_measuring();
    cluster.run(num_warmup..trace.requests.len(), trace.header.load, Pace::Modelled)?;
    Ok(cluster.figures(before))
}

/// Counters of all workers.
#[derive(Debug, Clone, Copy)]
struct Counts {
    evictions: u64,
    preemptions: u64,
}

/// A request that was sent.
#[derive(Debug, Clone, Copy)]
struct Sent {
    worker: usize,
    at: Timestamp,
    first_token: Option<Timestamp>,
    last_token: Timestamp,
    num_generated: u32,
}

struct Cluster<'a> {
    trace: &'a Trace,
    config: &'a ClusterConfig,
    workers: Vec<Worker>,
    router: Router,
    now: Timestamp,
    /// When steps end, and whose.
    ends: BinaryHeap<Reverse<(Timestamp, usize)>>,
    /// By the number of the request.
    sent: Vec<Option<Sent>>,
    next_request: usize,
    num_ended: usize,
    /// When the clock started, and with which request.
    started: (Timestamp, usize),
    document_tokens: u64,
    found_tokens: u64,
    reencoded_tokens: u64,
}

impl<'a> Cluster<'a> {
    fn new(trace: &'a Trace, config: &'a ClusterConfig) -> Result<Cluster<'a>, SimError> {
        let workers = (0..config.num_workers).map(|_| Worker::new(config));
        Ok(Cluster {
            trace,
            config,
            workers: workers.collect::<Result<_, _>>()?,
            router: Router::new(config.routing, config.num_workers),
            now: Timestamp(0),
            ends: BinaryHeap::new(),
            sent: vec![None; trace.requests.len()],
            next_request: 0,
            num_ended: 0,
            started: (Timestamp(0), 0),
            document_tokens: 0,
            found_tokens: 0,
            reencoded_tokens: 0,
        })
    }

    /// Runs the requests of `range` to their end.
    fn run(&mut self, range: std::ops::Range<usize>, load: Load, pace: Pace) -> Result<(), SimError> {
        let first_arrival = self.trace.requests.get(range.start).map_or(0, |request| request.at_us);
        let begin = self.now;
        let is_open = matches!(load, Load::Open { .. });
        if let Load::Closed { clients } = load {
            for _ in 0..clients.min(range.len() as u32) {
                self.send(pace)?;
            }
        }
        while self.num_ended < range.end {
            let arrival = (is_open && self.next_request < range.end).then(|| {
                let at_us = self.trace.requests[self.next_request].at_us;
                begin.after(Duration::from_micros(at_us - first_arrival))
            });
            let end = self.ends.peek().map(|Reverse((at, _))| *at);
            match (arrival, end) {
                (Some(arrival), end) if end.is_none_or(|end| arrival <= end) => {
                    self.now = arrival;
                    self.send(pace)?;
                }
                (_, Some(_)) => {
                    let num_ended = self.end_step(pace);
                    for _ in 0..num_ended {
                        if !is_open && self.next_request < range.end {
                            self.send(pace)?;
                        }
                    }
                }
                (_, None) => unreachable!("a request that was sent is waited for by a step"),
            }
        }
        Ok(())
    }

    /// Sends the next request now.
    fn send(&mut self, pace: Pace) -> Result<(), SimError> {
        let index = self.next_request;
        self.next_request += 1;
        let worker = self.router.send(&self.trace.requests[index].documents);
        let now = self.now;
        self.sent[index] =
            Some(Sent { worker, at: now, first_token: None, last_token: now, num_generated: 0 });
        self.workers[worker].submit(submission(self.trace, index, self.config.policy)?, now)?;
        if !self.workers[worker].is_busy() {
            self.begin_step(worker, pace);
        }
        Ok(())
    }

    fn begin_step(&mut self, worker: usize, pace: Pace) {
        let Some((plan, ends)) = self.workers[worker].begin(self.now, pace) else { return };
        self.ends.push(Reverse((ends, worker)));
        let found = found_tokens(plan, self.trace.header.shape.document_tokens);
        if pace == Pace::Modelled {
            self.document_tokens += found.0;
            self.found_tokens += found.1;
            self.reencoded_tokens += found.2;
        }
    }

    /// Ends the earliest step and begins that worker's next; returns how many requests it ended.
    fn end_step(&mut self, pace: Pace) -> usize {
        let Some(Reverse((at, worker))) = self.ends.pop() else { return 0 };
        self.now = at;
        let (sent, router) = (&mut self.sent, &mut self.router);
        let wanted = self.trace.header.shape.output_tokens;
        let mut num_ended = 0;
        self.workers[worker].end(at, |sequence| {
            // A sequence has the number of its request.
            let Some(request) = sent.get_mut(sequence as usize).and_then(Option::as_mut) else {
                unreachable!("only requests that were sent have rows");
            };
            request.first_token.get_or_insert(at);
            (request.last_token, request.num_generated) = (at, request.num_generated + 1);
            if request.num_generated < wanted {
                return DRAWN;
            }
            router.ended(request.worker);
            num_ended += 1;
            Outcome::Finished
        });
        self.num_ended += num_ended;
        self.begin_step(worker, pace);
        num_ended
    }

    fn counts(&self) -> Counts {
        let stats = || self.workers.iter().map(|worker| worker.scheduler().stats());
        Counts {
            evictions: stats().map(|stats| stats.kv.evictions).sum(),
            preemptions: stats().map(|stats| stats.preemptions).sum(),
        }
    }

    fn begin_measuring(&mut self) {
        self.started = (self.now, self.next_request);
    }

    fn figures(&self, before: Counts) -> Figures {
        let after = self.counts();
        let measured: Vec<Sent> = self.sent[self.started.1..].iter().copied().flatten().collect();
        let last = measured.iter().map(|sent| sent.last_token).max().unwrap_or(self.now);
        let seconds = Duration::from_micros(last.micros_since(self.started.0)).as_secs_f64();
        let since = |from: Timestamp, to: Timestamp| Duration::from_micros(to.micros_since(from));
        let ttft = measured.iter().filter_map(|sent| Some(since(sent.at, sent.first_token?)));
        let tpot = measured
            .iter()
            .filter(|sent| sent.num_generated > 1)
            .filter_map(|sent| Some(since(sent.first_token?, sent.last_token) / (sent.num_generated - 1)));
        let of_worker = |worker: usize| measured.iter().filter(|sent| sent.worker == worker).count();
        let most = (0..self.workers.len()).map(of_worker).max().unwrap_or(0);
        let num_workers = self.config.num_workers;
        let generated: u64 = measured.iter().map(|sent| u64::from(sent.num_generated)).sum();
        let busy: Duration = self.workers.iter().map(|worker| worker.busy).sum();
        Figures {
            simulated: true,
            policy: self.config.policy.to_string(),
            routing: self.config.routing.to_string(),
            num_workers,
            num_requests: measured.len() as u64,
            seconds,
            ttft_ms: Summary::of(ttft.collect()),
            tpot_ms: Summary::of(tpot.collect()),
            requests_per_second: measured.len() as f64 / seconds,
            output_tokens_per_second: generated as f64 / seconds,
            document_hit_ratio: self.found_tokens as f64 / (self.document_tokens as f64).max(1.0),
            document_reencoded_ratio: self.reencoded_tokens as f64 / (self.document_tokens as f64).max(1.0),
            evictions: after.evictions - before.evictions,
            preemptions: after.preemptions - before.preemptions,
            busy: busy.as_secs_f64() / (seconds * f64::from(num_workers)),
            imbalance: most as f64 * f64::from(num_workers) / measured.len() as f64,
            num_steps: self.workers.iter().map(|worker| worker.num_steps).sum(),
        }
    }
}

/// Document tokens of the sequences that start in `plan`, of them those that nobody has to compute for them, and of those the
/// ones that are rotated to another position.
fn found_tokens(plan: &StepPlan, tokens_per_document: u32) -> (u64, u64, u64) {
    let tokens = |found: usize| found as u64 * u64::from(tokens_per_document);
    let count = |admitted: &Admitted| {
        // The last segment is the question, unless that is one token long; it is never a document's length here.
        let documents = &admitted.found[..admitted.found.len().saturating_sub(1)];
        let missed = documents.iter().filter(|found| **found == Found::Miss).count();
        let reencoded = documents.iter().filter(|found| **found == Found::Reencoded).count();
        (tokens(documents.len()), tokens(documents.len() - missed), tokens(reencoded))
    };
    let add = |sum: (u64, u64, u64), one: (u64, u64, u64)| (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2);
    plan.admitted.iter().map(count).fold((0, 0, 0), add)
}
