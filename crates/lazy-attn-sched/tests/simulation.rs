//! Random arrivals, cancellations and failed steps under a fake clock, against a shadow of what every block holds.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, not only the tests themselves

mod common;

use std::collections::HashMap;

use common::Part::{Doc, Text};
use common::{Bounds, Part, scheduler_with, submission};
use lazy_attn_kv::{KvStats, Scope};
use lazy_attn_sched::{
    AdmissionPolicy, Affinity, Outcome, PlannedRun, SchedError, Scheduler, StepPlan, Submission, Work,
};
use lazy_attn_types::{RequestId, SegmentHandle, SequenceId, TenantSalt, Timestamp, TokenId};
use proptest::prelude::*;

const NUM_BLOCKS: u32 = 40;
const MAX_STEP_TOKENS: u32 = 12;
const MAX_WAITING_TOKENS: u64 = 60;

/// SplitMix64; a seed is a whole run.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// Every other seed runs by affinity, with weights at which everything matters for so small a traffic.
fn bounds(seed: u64) -> Bounds {
    let affinity = Affinity {
        shared_token_micros: 300,
        uncached_token_micros: 200,
        max_overtaking_micros: 5000,
        max_group_percent: 50,
        tenant_quantum_tokens: 8,
    };
    let admission =
        if seed.is_multiple_of(2) { AdmissionPolicy::Fcfs } else { AdmissionPolicy::Affinity(affinity) };
    Bounds {
        num_blocks: NUM_BLOCKS,
        max_step_tokens: MAX_STEP_TOKENS,
        max_running: 5,
        max_waiting: 8,
        max_waiting_tokens: MAX_WAITING_TOKENS,
        admission,
    }
}

/// What a live sequence was promised.
#[derive(Debug)]
struct Promise {
    request: RequestId,
    max_tokens: u32,
    generated: u32,
    deadline: Option<Timestamp>,
}

/// How often each way to end early was taken.
#[derive(Debug, Default, Clone, Copy)]
struct Ends {
    backlog: u64,
    unmeetable: u64,
    expired: u64,
}

struct Simulation {
    rng: Rng,
    scheduler: Scheduler,
    now: Timestamp,
    next_request: u64,
    live: HashMap<SequenceId, Promise>,
    ends: Ends,
    /// Tokens written per storage; storage names are never used twice.
    written: HashMap<SegmentHandle, u32>,
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        Simulation {
            rng: Rng(seed),
            scheduler: scheduler_with(bounds(seed)),
            now: Timestamp(0),
            next_request: 1,
            live: HashMap::new(),
            ends: Ends::default(),
            written: HashMap::new(),
        }
    }

    fn run(&mut self, num_steps: u32) -> (KvStats, Ends) {
        for _ in 0..num_steps {
            self.now.0 += self.rng.below(1000);
            if self.rng.one_in(2) {
                self.arrive();
            }
            if self.rng.one_in(12) {
                self.cancel_one();
            }
            self.step();
        }
        let mut num_left = 0;
        while !self.scheduler.is_idle() {
            self.step();
            num_left += 1;
            assert!(num_left < 2000, "everything admitted ends");
        }
        assert!(self.live.is_empty(), "nobody is forgotten: {:?}", self.live);
        let stats = self.scheduler.kv().stats();
        assert_eq!(self.scheduler.stats().waiting_tokens, 0);
        assert_eq!(stats.blocks_leased, 0);
        assert_eq!(stats.blocks_free + stats.blocks_cached, NUM_BLOCKS);
        (stats, self.ends)
    }

    fn parts(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        for _ in 0..self.rng.below(5) {
            let name = self.rng.below(8) as u32;
            parts.push(if self.rng.one_in(4) { Text(100 + name, name + 1) } else { Doc(name, name * 3 + 1) });
        }
        let name = self.rng.below(3) as u32;
        parts.push(Text(200 + name, name * 4 + 1));
        parts
    }

    fn arrive(&mut self) {
        let id = self.next_request;
        self.next_request += 1;
        let (parts, num_samples) = (self.parts(), 1 + self.rng.below(3));
        let max_tokens = 1 + self.rng.below(9) as u32;
        let mut submission = submission(id, &parts, max_tokens, num_samples);
        if self.rng.one_in(5) {
            submission = Submission { scope: Scope::Private(RequestId(id)), ..submission };
        }
        submission.tenant = TenantSalt([self.rng.below(3) as u8; 32]);
        submission.priority = self.rng.below(3) as i32;
        submission.deadline = self.rng.one_in(3).then(|| Timestamp(self.now.0 + self.rng.below(40_000)));
        let deadline = submission.deadline;
        let sequences = submission.sequences.clone();
        match self.scheduler.submit(submission, self.now) {
            Ok(()) => {
                let promise = || Promise { request: RequestId(id), max_tokens, generated: 0, deadline };
                self.live.extend(sequences.into_iter().map(|sequence| (sequence, promise())));
            }
            Err(SchedError::BacklogFull { waiting_tokens, needed_tokens, max_tokens }) => {
                assert!(waiting_tokens + needed_tokens > max_tokens && max_tokens == MAX_WAITING_TOKENS);
                self.ends.backlog += 1;
            }
            Err(SchedError::DeadlineUnmeetable { estimate_micros, left_micros, .. }) => {
                assert!(estimate_micros > left_micros);
                self.ends.unmeetable += 1;
            }
            Err(SchedError::DeadlineExceeded { .. }) => assert!(deadline.unwrap() <= self.now),
            Err(SchedError::QueueFull { waiting }) => assert_eq!(waiting, 8),
            Err(SchedError::NeverFits { needed, total }) => assert!(needed > total && total == NUM_BLOCKS),
            Err(other) => panic!("{other}"),
        }
    }

    fn cancel_one(&mut self) {
        let mut requests: Vec<RequestId> = self.live.values().map(|promise| promise.request).collect();
        requests.sort_unstable();
        if requests.is_empty() {
            return;
        }
        let request = requests[self.rng.below(requests.len() as u64) as usize];
        self.cancel(request);
        self.scheduler.check_invariants();
    }

    fn cancel(&mut self, request: RequestId) {
        self.scheduler.cancel(request, self.now);
        self.live.retain(|_, promise| promise.request != request);
    }

    fn step(&mut self) {
        let plan = self.scheduler.plan(self.now);
        self.expire(&plan);
        self.check(&plan);
        // The step takes its time.
        self.now.0 += 50 * u64::from(plan.num_tokens());
        if self.rng.one_in(15) {
            for run in &plan.runs {
                self.written.remove(&run.own.handle);
            }
            for sequence in self.scheduler.abort(plan, self.now) {
                // The engine fails the whole request of a failed sequence.
                if let Some(promise) = self.live.remove(&sequence) {
                    self.cancel(promise.request);
                }
            }
        } else {
            for run in &plan.runs {
                self.written.insert(run.own.handle, run.first_local + run.num_tokens);
            }
            let rows: Vec<SequenceId> = plan.rows().map(|run| run.sequence).collect();
            let outcomes: Vec<Outcome> = rows.into_iter().map(|sequence| self.outcome(sequence)).collect();
            self.scheduler.commit(plan, &outcomes, self.now);
        }
        self.scheduler.check_invariants();
    }

    /// Those past their deadline are told, and they alone: nothing is pinned, so whatever was accepted fits.
    fn expire(&mut self, plan: &StepPlan) {
        for rejected in &plan.rejected {
            assert!(matches!(rejected.error, SchedError::DeadlineExceeded { .. }), "{rejected:?}");
            let (before, request) = (self.live.len(), rejected.request);
            let is_late = |promise: &Promise| promise.deadline.is_some_and(|deadline| deadline <= self.now);
            self.live.retain(|_, promise| promise.request != request || !is_late(promise));
            assert!(self.live.len() < before, "{request} was live and late");
            self.ends.expired += 1;
        }
        let late = self.live.values().filter(|promise| promise.deadline.is_some_and(|at| at <= self.now));
        assert_eq!(late.count(), 0, "nobody outlives its deadline");
    }

    fn outcome(&mut self, sequence: SequenceId) -> Outcome {
        let promise = self.live.get_mut(&sequence).unwrap();
        promise.generated += 1;
        if promise.generated == promise.max_tokens || self.rng.one_in(10) {
            self.live.remove(&sequence);
            return Outcome::Finished;
        }
        Outcome::Continue(TokenId(promise.generated))
    }

    /// The step stays in its budget, serves every decode, writes each storage once and in order, and reads nothing
    /// that is not whole by then.
    fn check(&self, plan: &StepPlan) {
        assert!(plan.num_tokens() <= MAX_STEP_TOKENS);
        let mut after = self.written.clone();
        for run in &plan.runs {
            let at = after.insert(run.own.handle, run.first_local + run.num_tokens).unwrap_or(0);
            assert_eq!(run.first_local, at, "{run:?} goes on where its segment ends");
            assert_eq!(run.own.num_tokens, run.first_local + run.num_tokens);
            assert!(run.num_tokens > 0 && run.tokens().len() == run.num_tokens as usize);
            assert!(self.live.contains_key(&run.sequence), "{} is live", run.sequence);
        }
        for run in &plan.runs {
            self.check_reads(run, &after);
        }
        let decoding = self.live.values().filter(|promise| promise.generated > 0).count();
        let decodes = plan.runs.iter().filter(|run| run.work == Work::Decode).count();
        assert_eq!(decodes, decoding, "every decoding sequence runs in every step");
    }

    fn check_reads(&self, run: &PlannedRun, after: &HashMap<SegmentHandle, u32>) {
        for seen in run.earlier() {
            let written = after.get(&seen.handle).copied().unwrap_or(0);
            assert_eq!(written, seen.num_tokens, "{:?} reads {:?} whole", run.work, seen.handle);
        }
    }
}

fn simulate(seed: u64, num_steps: u32) -> (KvStats, Ends) {
    let result = std::panic::catch_unwind(|| Simulation::new(seed).run(num_steps));
    result.unwrap_or_else(|_| panic!("failing seed: {seed}"))
}

#[test]
fn the_scheduler_survives_any_traffic_for_the_committed_seeds() {
    let all: Vec<(KvStats, Ends)> = (0..60).map(|seed| simulate(seed, 150)).collect();
    let ran = |count: fn(&KvStats) -> u64| all.iter().map(|(kv, _)| count(kv)).sum::<u64>() > 100;
    let ended = |count: fn(&Ends) -> u64| all.iter().map(|(_, ends)| count(ends)).sum::<u64>() > 20;
    assert!(
        ended(|ends| ends.backlog) && ended(|ends| ends.unmeetable) && ended(|ends| ends.expired),
        "{all:?}"
    );
    assert!(
        ran(|kv| kv.hits) && ran(|kv| kv.joins) && ran(|kv| kv.evictions),
        "the traffic is varied: {all:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn the_scheduler_survives_any_traffic(seed in any::<u64>()) {
        simulate(seed, 80);
    }

    #[test]
    fn equal_calls_make_equal_plans(seed in any::<u64>()) {
        let tables = |seed| {
            let mut simulation = Simulation::new(seed);
            (0..10).for_each(|_| simulation.arrive());
            // Every sequence ends with its first token.
            common::run_to_end(&mut simulation.scheduler, 1)
        };
        prop_assert_eq!(tables(seed), tables(seed));
    }
}
