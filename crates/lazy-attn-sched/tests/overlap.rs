//! Steps planned while the one before them runs: random traffic against a shadow of what every block holds.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, not only the tests themselves

mod common;

use std::collections::{HashMap, VecDeque};

use common::Part::{Doc, Text};
use common::shadow::{Shadow, owners};
use common::{Bounds, NOW, Part, scheduler, scheduler_with, submission};
use lazy_attn_sched::{
    AdmissionPolicy, Outcome, PlannedReencoding, PlannedRun, RunTokens, Scheduler, StepPlan, Work,
};
use lazy_attn_testkit::SplitMix64;
use lazy_attn_types::{KvPolicy, RequestId, SequenceId, TokenId};
use proptest::prelude::*;

/// A step that was begun, and what was written when it was.
struct Begun {
    plan: StepPlan,
    before: Shadow,
}

/// A sequence that has not ended.
#[derive(Debug)]
struct Live {
    request: RequestId,
    generated: u32,
    /// Tokens after which it ends, which the scheduler does not know.
    ends_after: u32,
}

/// What happened.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    carried: u64,
    unread_rows: u64,
    refusals: u64,
    preempted: u64,
    failed: u64,
    withdrawn: u64,
    reencoded: u64,
    copied: u64,
    moves_failed: u64,
    cancelled: u64,
}

struct Simulation {
    rng: SplitMix64,
    scheduler: Scheduler,
    next_request: u64,
    live: HashMap<SequenceId, Live>,
    in_flight: VecDeque<Begun>,
    /// What is written once everything begun has run.
    written: Shadow,
    seen: Seen,
}

/// The token that `sequence` draws as its `index`th.
fn token_of(sequence: SequenceId, index: u32) -> TokenId {
    TokenId(sequence.0 as u32 * 64 + index)
}

impl Simulation {
    /// Every other seed needs documents at their positions.
    fn new(seed: u64) -> Simulation {
        let kv_policy = if seed.is_multiple_of(2) { KvPolicy::Lazy } else { KvPolicy::Reencode };
        Simulation {
            rng: SplitMix64::new(seed),
            scheduler: scheduler_with(Bounds {
                // In one of three pools hardly two requests fit.
                num_blocks: [40, 24, 16][(seed % 3) as usize],
                max_step_tokens: 12,
                max_running: 5,
                max_waiting: 8,
                max_waiting_tokens: u64::MAX,
                admission: AdmissionPolicy::Fcfs,
                kv_policy,
            }),
            next_request: 1,
            live: HashMap::new(),
            in_flight: VecDeque::new(),
            written: Shadow::new(kv_policy),
            seen: Seen::default(),
        }
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.rng.below(bound) == 0
    }

    fn run(mut self, num_steps: u32) -> Seen {
        for _ in 0..num_steps {
            if self.one_in(2) {
                self.arrive();
            }
            if self.one_in(10) {
                self.cancel_one();
            }
            self.step();
        }
        let mut num_left = 0;
        while !self.scheduler.is_idle() || !self.in_flight.is_empty() {
            self.step();
            num_left += 1;
            assert!(num_left < 2000, "everything admitted ends");
        }
        assert!(self.live.is_empty(), "nobody is forgotten: {:?}", self.live);
        let stats = self.scheduler.stats().kv;
        assert_eq!(stats.blocks_leased, 0);
        assert_eq!(stats.blocks_free + stats.blocks_cached, stats.blocks_total);
        self.seen
    }

    fn arrive(&mut self) {
        let id = self.next_request;
        let mut parts: Vec<Part> = Vec::new();
        for _ in 0..self.rng.below(4) {
            let name = self.rng.below(6) as u32;
            parts.push(if self.one_in(4) { Text(100 + name, name + 1) } else { Doc(name, name * 3 + 1) });
        }
        let name = self.rng.below(3) as u32;
        parts.push(Text(200 + name, name * 4 + 1));
        let max_tokens = 1 + self.rng.below(30) as u32;
        let submission = submission(id, &parts, max_tokens, 1 + self.rng.below(2));
        let sequences = submission.sequences.clone();
        if self.scheduler.submit(submission, NOW).is_err() {
            return;
        }
        self.next_request += 1;
        for sequence in sequences {
            let ends_after =
                if self.one_in(2) { max_tokens } else { 1 + self.rng.below(max_tokens.into()) as u32 };
            self.live.insert(sequence, Live { request: RequestId(id), generated: 0, ends_after });
        }
    }

    fn cancel_one(&mut self) {
        let mut requests: Vec<RequestId> = self.live.values().map(|live| live.request).collect();
        requests.sort_unstable();
        if !requests.is_empty() {
            let request = requests[self.rng.below(requests.len() as u64) as usize];
            self.cancel(request);
            self.seen.cancelled += 1;
        }
    }

    fn cancel(&mut self, request: RequestId) {
        self.scheduler.cancel(request, NOW);
        self.live.retain(|_, live| live.request != request);
        self.scheduler.check_invariants();
    }

    /// Begins steps until two are in flight, or one where the caller happens to need its result; then ends the oldest.
    fn step(&mut self) {
        while self.in_flight.len() < 2 && self.begin() {}
        self.end_oldest();
        self.scheduler.check_invariants();
    }

    fn begin(&mut self) -> bool {
        let plan = match self.in_flight.back() {
            None => self.scheduler.plan(NOW),
            Some(_) if self.rng.below(6) == 0 => return false,
            Some(last) => match self.scheduler.plan_ahead(&last.plan, NOW) {
                Some(plan) => plan,
                None => {
                    self.seen.refusals += 1;
                    return false;
                }
            },
        };
        self.scheduler.check_invariants();
        assert!(plan.rejected.is_empty() && plan.filled.is_empty());
        self.seen.preempted += plan.preempted.len() as u64;
        assert!(plan.preempted.is_empty() || self.in_flight.is_empty(), "nobody gives way beside a step");
        if plan.is_empty() {
            self.scheduler.commit(plan, &[], NOW);
            return false;
        }
        let before = self.written.clone();
        self.check(&plan);
        self.in_flight.push_back(Begun { plan, before });
        true
    }

    /// The plan goes on where the one before it ends, and touches no block of it under another name.
    fn check(&mut self, plan: &StepPlan) {
        assert!(plan.num_tokens() <= 12);
        self.written.apply(plan);
        self.seen.reencoded += plan.reencodings.len() as u64;
        let is_copy = |reencoding: &&PlannedReencoding| reencoding.from != reencoding.own.handle;
        self.seen.copied += plan.reencodings.iter().filter(is_copy).count() as u64;
        for run in &plan.runs {
            assert!(self.live.contains_key(&run.sequence), "{} is live", run.sequence);
            self.check_tokens(run);
        }
        let open = self.in_flight.back().map(|begun| owners(&begun.plan)).unwrap_or_default();
        for (block, handle) in owners(plan) {
            let owner = open.get(&block).copied().unwrap_or(handle);
            assert_eq!(owner, handle, "{block:?} is given away while a step runs");
        }
    }

    fn check_tokens(&mut self, run: &PlannedRun) {
        match (&run.source, run.work) {
            (RunTokens::Carried { row }, Work::Decode) => {
                let open = &self.in_flight.back().unwrap().plan;
                let drawn = open.rows().nth(*row as usize).unwrap();
                assert_eq!(drawn.sequence, run.sequence);
                assert_eq!(drawn.first_local + 1, run.first_local);
                self.seen.carried += 1;
            }
            (_, Work::Decode | Work::Rerun) => {
                let chosen = run.tokens().iter().zip(run.first_local..).filter(|(_, local)| *local > 0);
                chosen.for_each(|(&token, local)| {
                    assert_eq!(token, token_of(run.sequence, local - 1), "{run:?}")
                });
            }
            (source, _) => assert!(!matches!(source, RunTokens::Carried { .. })),
        }
    }

    fn end_oldest(&mut self) {
        let Some(Begun { plan, before }) = self.in_flight.pop_front() else { return };
        if self.one_in(15) {
            self.fail(plan, before);
            return;
        }
        let outcomes: Vec<Outcome> =
            plan.rows().map(|run| outcome(&mut self.live, &mut self.seen, run)).collect();
        self.scheduler.commit(plan, &outcomes, NOW);
    }

    /// What the failed step wrote is void, and so is all that was begun behind it.
    fn fail(&mut self, plan: StepPlan, before: Shadow) {
        self.seen.failed += 1;
        self.written = before;
        self.written.spoil(&plan);
        self.seen.moves_failed += plan.reencodings.len() as u64;
        let behind = self.in_flight.pop_front();
        for sequence in self.scheduler.abort(plan, NOW) {
            if let Some(live) = self.live.remove(&sequence) {
                self.cancel(live.request);
            }
        }
        if let Some(Begun { plan, .. }) = behind {
            self.seen.withdrawn += 1;
            self.seen.moves_failed += plan.reencodings.len() as u64;
            self.written.spoil_moves(&plan);
            self.scheduler.withdraw(plan, NOW);
        }
    }
}

fn outcome(live: &mut HashMap<SequenceId, Live>, seen: &mut Seen, run: &PlannedRun) -> Outcome {
    let Some(sequence) = live.get_mut(&run.sequence) else {
        // It ended while the step ran; nobody may look at this.
        seen.unread_rows += 1;
        return Outcome::Continue(TokenId(u32::MAX));
    };
    assert_eq!(run.first_local, sequence.generated);
    sequence.generated += 1;
    if sequence.generated == sequence.ends_after {
        live.remove(&run.sequence);
        return Outcome::Finished;
    }
    Outcome::Continue(token_of(run.sequence, sequence.generated - 1))
}

fn simulate(seed: u64, num_steps: u32) -> Seen {
    let result = std::panic::catch_unwind(|| Simulation::new(seed).run(num_steps));
    result.unwrap_or_else(|_| panic!("failing seed: {seed}"))
}

#[test]
fn overlapping_plans_survive_any_traffic_for_the_committed_seeds() {
    let all: Vec<Seen> = (0..80).map(|seed| simulate(seed, 150)).collect();
    let sum = |count: fn(&Seen) -> u64| all.iter().map(count).sum::<u64>();
    let happened = [
        ("tokens carried", 1000, sum(|seen| seen.carried)),
        ("rows nobody reads", 100, sum(|seen| seen.unread_rows)),
        ("plans refused for want of a block", 100, sum(|seen| seen.refusals)),
        ("preemptions", 100, sum(|seen| seen.preempted)),
        ("failures", 100, sum(|seen| seen.failed)),
        ("steps withdrawn", 100, sum(|seen| seen.withdrawn)),
        ("cancellations", 100, sum(|seen| seen.cancelled)),
        ("reencodings", 100, sum(|seen| seen.reencoded)),
        ("copies", 100, sum(|seen| seen.copied)),
        ("reencodings that failed", 20, sum(|seen| seen.moves_failed)),
    ];
    for (what, least, times) in happened {
        assert!(times > least, "the traffic is varied, but {what}: {times}, of {happened:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn overlapping_plans_survive_any_traffic(seed in any::<u64>()) {
        simulate(seed, 80);
    }
}

#[test]
fn a_decode_is_planned_with_a_token_nobody_knows_and_its_last_one_is_not() {
    let mut scheduler = scheduler(16, 32, 4);
    scheduler.submit(submission(1, &[Text(1, 5)], 3, 1), NOW).unwrap();
    let first = scheduler.plan(NOW);
    let second = scheduler.plan_ahead(&first, NOW).unwrap();
    assert_eq!(second.runs[0].source, RunTokens::Carried { row: 0 });
    scheduler.commit(first, &[Outcome::Continue(TokenId(7))], NOW);
    let third = scheduler.plan_ahead(&second, NOW).unwrap();
    scheduler.commit(second, &[Outcome::Continue(TokenId(8))], NOW);
    // Three tokens are three rows: the fourth step has nothing to run.
    let fourth = scheduler.plan_ahead(&third, NOW).unwrap();
    assert!(fourth.runs.is_empty());
    scheduler.commit(fourth, &[], NOW);
    scheduler.commit(third, &[Outcome::Finished], NOW);
    assert!(scheduler.is_idle());
}

#[test]
fn blocks_of_who_ended_come_back_when_the_step_that_writes_them_is_closed() {
    let mut scheduler = scheduler(16, 32, 4);
    scheduler.submit(submission(1, &[Text(1, 5)], 9, 1), NOW).unwrap();
    let first = scheduler.plan(NOW);
    let second = scheduler.plan_ahead(&first, NOW).unwrap();
    let leased = scheduler.kv().stats().blocks_leased;
    scheduler.commit(first, &[Outcome::Finished], NOW);
    assert!(!scheduler.is_running(SequenceId(100)) && !scheduler.is_idle());
    assert_eq!(scheduler.kv().stats().blocks_leased, leased);
    scheduler.commit(second, &[Outcome::Continue(TokenId(0))], NOW);
    assert!(scheduler.is_idle());
    assert_eq!(scheduler.kv().stats().blocks_leased, 0);
}
