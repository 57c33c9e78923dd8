//! Random arrivals, cancellations and failed steps under a fake clock, against a shadow of what every block holds.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, not only the tests themselves

mod common;

use std::collections::{HashMap, HashSet};

use common::Part::{Doc, Text};
use common::shadow::Shadow;
use common::{Bounds, Part, scheduler_with, submission};
use lazy_attn_kv::{KvStats, Scope};
use lazy_attn_sched::{
    AdmissionPolicy, Affinity, Outcome, PlannedReencoding, PlannedRun, SchedError, Scheduler, StepPlan,
    Submission, Work,
};
use lazy_attn_types::{
    Exactness, KvPolicy, RequestId, SegmentKey, SequenceId, TenantSalt, Timestamp, TokenId,
};
use proptest::prelude::*;

const NUM_BLOCKS: [u32; 3] = [40, 24, 16];
const MAX_STEP_TOKENS: u32 = 12;
/// Of some documents a block or two, of others everything.
const HEAD: Exactness = Exactness::Head { num_tokens: 4 };
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

/// Every other seed runs by affinity, and two of four need documents at their positions, with weights at which everything matters for so small a traffic; of three pools one
/// is roomy, and in one hardly two requests fit.
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
        num_blocks: NUM_BLOCKS[(seed % 3) as usize],
        max_step_tokens: MAX_STEP_TOKENS,
        max_running: 5,
        max_waiting: 8,
        max_waiting_tokens: MAX_WAITING_TOKENS,
        admission,
        kv_policy: [KvPolicy::Lazy, KvPolicy::Lazy, KvPolicy::Reencode, KvPolicy::ReencodeCopy]
            [(seed % 4) as usize],
    }
}

/// What a live sequence was promised.
#[derive(Debug)]
struct Promise {
    request: RequestId,
    max_tokens: u32,
    generated: u32,
    deadline: Option<Timestamp>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waits,
    /// Since this place in the order of first admissions.
    Runs(u64),
    /// Preempted; the same place is kept.
    Gave(u64),
}

/// How often each way to end early was taken, and what else happened.
#[derive(Debug, Default, Clone, Copy)]
struct Ends {
    backlog: u64,
    unmeetable: u64,
    expired: u64,
    pinned_out: u64,
    filled: u64,
    preempted: u64,
    rerun_tokens: u64,
    overlaid: u64,
    reencoded: u64,
    copied: u64,
}

struct Simulation {
    rng: Rng,
    scheduler: Scheduler,
    now: Timestamp,
    next_request: u64,
    next_turn: u64,
    pins: Vec<SegmentKey>,
    live: HashMap<SequenceId, Promise>,
    ends: Ends,
    /// Those whose tail is written up to the token to run next.
    caught_up: HashSet<SequenceId>,
    written: Shadow,
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        Simulation {
            rng: Rng(seed),
            scheduler: scheduler_with(bounds(seed)),
            now: Timestamp(0),
            next_request: 1,
            next_turn: 0,
            pins: Vec::new(),
            live: HashMap::new(),
            ends: Ends::default(),
            caught_up: HashSet::new(),
            written: Shadow::new(bounds(seed).kv_policy),
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
            if self.rng.one_in(10) {
                self.pin_or_unpin();
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
        let stats = self.scheduler.stats();
        assert_eq!((stats.waiting_tokens, stats.preempted), (0, 0));
        assert_eq!(stats.preemptions, self.ends.preempted);
        let stats = stats.kv;
        assert_eq!(stats.blocks_leased, 0);
        assert_eq!(stats.blocks_free + stats.blocks_cached, stats.blocks_total);
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

    /// At most two documents are pinned at a time.
    fn pin_or_unpin(&mut self) {
        if self.pins.len() == 2 || self.rng.one_in(2) {
            if let Some(key) = self.pins.pop() {
                self.scheduler.unpin(key).unwrap();
            }
        } else {
            let name = self.rng.below(8) as u32;
            let key = common::context(&[Doc(name, name * 3 + 1), Text(0, 1)]).segments()[0].key();
            if self.scheduler.pin(key).is_ok() {
                self.pins.push(key);
            }
        }
    }

    fn arrive(&mut self) {
        let id = self.next_request;
        self.next_request += 1;
        let (parts, num_samples) = (self.parts(), 1 + self.rng.below(3));
        let max_tokens = if self.rng.one_in(10) { 0 } else { 1 + self.rng.below(40) as u32 };
        let mut submission = submission(id, &parts, max_tokens, num_samples);
        if self.rng.one_in(3) {
            let rungs = [
                HEAD,
                Exactness::Head { num_tokens: 9 },
                Exactness::Edges { num_tokens: 3 },
                Exactness::Preamble,
                Exactness::Full,
            ];
            let rung = rungs[self.rng.below(4) as usize];
            self.ends.overlaid += u64::from(rung == HEAD);
            submission.context = common::context_at(rung, &parts);
        }
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
                let (request, state) = (RequestId(id), State::Waits);
                let promise = || Promise { request, max_tokens, generated: 0, deadline, state };
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
            Err(SchedError::NeverFits { needed, total }) => {
                assert!(needed > total && total == self.scheduler.kv().config().num_blocks);
            }
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
        self.end_rejected(&plan);
        self.change_states(&plan);
        let mut after = self.written.clone();
        after.apply(&plan);
        self.check(&plan);
        // The step takes its time.
        self.now.0 += 50 * u64::from(plan.num_tokens());
        if self.rng.one_in(15) {
            self.written.spoil(&plan);
            for sequence in self.scheduler.abort(plan, self.now) {
                // The engine fails the whole request of a failed sequence.
                if let Some(promise) = self.live.remove(&sequence) {
                    self.cancel(promise.request);
                }
            }
        } else {
            self.written = after;
            self.ends.reencoded += plan.reencodings.len() as u64;
            let is_copy = |reencoding: &&PlannedReencoding| reencoding.from != reencoding.own.handle;
            self.ends.copied += plan.reencodings.iter().filter(is_copy).count() as u64;
            for run in plan.runs.iter().filter(|run| run.work == Work::Rerun) {
                self.ends.rerun_tokens += u64::from(run.num_tokens);
                if run.first_local + run.num_tokens == self.live[&run.sequence].generated {
                    self.caught_up.insert(run.sequence);
                }
            }
            self.caught_up.extend(plan.rows().map(|run| run.sequence));
            let rows: Vec<SequenceId> = plan.rows().map(|run| run.sequence).collect();
            let outcomes: Vec<Outcome> = rows.into_iter().map(|sequence| self.outcome(sequence)).collect();
            self.scheduler.commit(plan, &outcomes, self.now);
        }
        self.scheduler.check_invariants();
    }

    /// Those past their deadline are told, and those that do not fit beside what is pinned; nobody else.
    fn end_rejected(&mut self, plan: &StepPlan) {
        for rejected in &plan.rejected {
            let (before, request) = (self.live.len(), rejected.request);
            match rejected.error {
                SchedError::DeadlineExceeded { .. } => {
                    let is_late = |promise: &Promise| promise.deadline.is_some_and(|at| at <= self.now);
                    self.live.retain(|_, promise| promise.request != request || !is_late(promise));
                    self.ends.expired += 1;
                }
                SchedError::NeverFits { needed, total } => {
                    assert!(needed > total && !self.pins.is_empty(), "{rejected:?}");
                    self.live.retain(|_, promise| promise.request != request);
                    self.ends.pinned_out += 1;
                }
                ref other => panic!("{other}"),
            }
            assert!(self.live.len() < before, "{request} was live");
        }
        let late = self.live.values().filter(|promise| promise.deadline.is_some_and(|at| at <= self.now));
        assert_eq!(late.count(), 0, "nobody outlives its deadline");
    }

    /// Who gives way is never the longest running, nobody starts in such a step, nobody new starts before all that gave
    /// way go on, and these go on in order.
    fn change_states(&mut self, plan: &StepPlan) {
        let turn = |promise: &Promise| match promise.state {
            State::Runs(turn) => Some(turn),
            _ => None,
        };
        let oldest = self.live.values().filter_map(turn).min();
        for preempted in &plan.preempted {
            self.ends.preempted += 1;
            // Its request may have been refused in the same step.
            let Some(promise) = self.live.get_mut(&preempted.sequence) else { continue };
            let State::Runs(turn) = promise.state else { panic!("{preempted:?} did not run") };
            assert!(Some(turn) > oldest, "{preempted:?} ran longest");
            promise.state = State::Gave(turn);
            self.caught_up.remove(&preempted.sequence);
        }
        assert!(plan.preempted.is_empty() || (plan.resumed.is_empty() && plan.admitted.is_empty()));
        for resumed in &plan.resumed {
            let gave = |promise: &Promise| match promise.state {
                State::Gave(turn) => Some(turn),
                _ => None,
            };
            let first = self.live.values().filter_map(gave).min().unwrap();
            let promise = self.live.get_mut(&resumed.sequence).unwrap();
            assert_eq!(promise.state, State::Gave(first), "{resumed:?} goes on in its turn");
            promise.state = State::Runs(first);
        }
        let num_away = self.live.values().filter(|promise| matches!(promise.state, State::Gave(_))).count();
        assert!(plan.admitted.is_empty() || num_away == 0, "nobody new goes before who gave way");
        for admitted in &plan.admitted {
            self.next_turn += 1;
            let promise = self.live.get_mut(&admitted.sequence).unwrap();
            assert_eq!(promise.state, State::Waits);
            promise.state = State::Runs(self.next_turn);
        }
        for sequence in &plan.filled {
            assert_eq!(self.live.remove(sequence).unwrap().max_tokens, 0);
            self.ends.filled += 1;
        }
    }

    fn outcome(&mut self, sequence: SequenceId) -> Outcome {
        let promise = self.live.get_mut(&sequence).unwrap();
        promise.generated += 1;
        if promise.generated == promise.max_tokens || self.rng.one_in(25) {
            self.live.remove(&sequence);
            return Outcome::Finished;
        }
        Outcome::Continue(TokenId(promise.generated))
    }

    /// The step stays in its budget and serves every decode.
    fn check(&self, plan: &StepPlan) {
        assert!(plan.num_tokens() <= MAX_STEP_TOKENS);
        let sequences = plan.runs.iter().map(|run| run.sequence);
        for sequence in sequences.chain(plan.reencodings.iter().map(|reencoding| reencoding.sequence)) {
            assert!(self.live.contains_key(&sequence), "{sequence} is live");
        }
        let advances = |run: &&PlannedRun| matches!(run.work, Work::Decode | Work::Rerun);
        let advancing: HashSet<SequenceId> =
            plan.runs.iter().filter(advances).map(|run| run.sequence).collect();
        for (sequence, promise) in &self.live {
            let is_rerun = !self.caught_up.contains(sequence);
            let runs = matches!(promise.state, State::Runs(_)) && promise.generated > 0;
            assert!(!runs || is_rerun || advancing.contains(sequence), "{sequence} decodes in every step");
            assert!(runs || !advancing.contains(sequence), "{sequence} runs once it was started");
        }
        for run in plan.runs.iter().filter(advances) {
            let generated = self.live[&run.sequence].generated;
            let chosen = run.tokens().iter().zip(run.first_local..).filter(|(_, local)| *local > 0);
            chosen.for_each(|(token, local)| assert_eq!(token.0, local, "it runs what was chosen"));
            let end = run.first_local + run.num_tokens;
            assert!(end == generated + 1 || (run.work == Work::Rerun && end <= generated), "{run:?}");
        }
    }
}

fn simulate(seed: u64, num_steps: u32) -> (KvStats, Ends) {
    let result = std::panic::catch_unwind(|| Simulation::new(seed).run(num_steps));
    result.unwrap_or_else(|_| panic!("failing seed: {seed}"))
}

#[test]
fn the_scheduler_survives_any_traffic_for_the_committed_seeds() {
    let all: Vec<(KvStats, Ends)> = (0..80).map(|seed| simulate(seed, 150)).collect();
    let sum = |count: fn(&KvStats, &Ends) -> u64| all.iter().map(|(kv, ends)| count(kv, ends)).sum::<u64>();
    let happened = [
        ("hits", 100, sum(|kv, _| kv.hits)),
        ("joins", 100, sum(|kv, _| kv.joins)),
        ("evictions", 100, sum(|kv, _| kv.evictions)),
        ("preemptions", 100, sum(|_, ends| ends.preempted)),
        ("reencodings", 100, sum(|_, ends| ends.reencoded)),
        ("copies", 100, sum(|_, ends| ends.copied)),
        ("tokens run again", 100, sum(|_, ends| ends.rerun_tokens)),
        ("contexts with heads", 100, sum(|_, ends| ends.overlaid)),
        ("documents alone", 100, sum(|_, ends| ends.filled)),
        ("backlog full", 20, sum(|_, ends| ends.backlog)),
        ("deadlines refused", 20, sum(|_, ends| ends.unmeetable)),
        ("deadlines passed", 20, sum(|_, ends| ends.expired)),
        ("pinned out", 5, sum(|_, ends| ends.pinned_out)),
    ];
    for (what, least, times) in happened {
        assert!(times > least, "the traffic is varied, but {what}: {times}, of {happened:?}");
    }
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
