//! Steps that overlap give the tokens of steps that do not, whoever ends, fails, gives way or is cancelled meanwhile.

#![allow(clippy::unwrap_used)] // helpers of tests, not only the tests themselves

mod common;

use common::{
    Rig, RigOptions, SampleReply, VOCAB_SIZE, answer, doc, expected, free, gated, read, request, text,
};
use lazy_attn_engine::{EngineConfig, EngineError, EngineStats, GenerateRequest, Part, PartContent};
use lazy_attn_testkit::FakeConfig;
use lazy_attn_types::{BlockSize, Capability, ExecError, OutputParams, SamplingParams, StopParams, TokenId};
use proptest::prelude::*;

fn overlapping() -> RigOptions {
    RigOptions { capability: Capability::Overlaps, ..RigOptions::default() }
}

fn prompt(question: &str) -> Vec<Part> {
    vec![doc("A document that all of them read."), text(question)]
}

/// The statistics when the steps in flight have ended.
fn settled(rig: &Rig) -> EngineStats {
    for _ in 0..100 {
        let stats = rig.handle.settled_stats().unwrap();
        if stats.sched.kv.blocks_leased == 0 {
            return stats;
        }
    }
    rig.handle.settled_stats().unwrap()
}

fn failure() -> ExecError {
    ExecError::Failed("told to".into())
}

#[test]
fn a_step_is_submitted_while_the_one_before_it_runs_if_no_logits_are_wanted() {
    let mut rig = gated(overlapping());
    let stream = rig.handle.submit(request(prompt("?"), 5)).unwrap();
    rig.gate.wait();
    assert_eq!(rig.probe.num_steps(), 2);
    let carried: Vec<u32> = rig.probe.inputs()[1].carried.iter().map(|carried| carried.row).collect();
    assert_eq!(carried, [0]);
    rig.gate.permit();
    rig.gate.open();
    assert_eq!(read(stream).ids(), expected(&prompt("?"), Default::default(), 5));
    // Nothing runs behind the last token.
    assert_eq!(rig.probe.num_steps(), 5);

    let mut rig = gated(overlapping());
    let output = OutputParams { top_logprobs: 1 };
    let stream = rig.handle.submit(GenerateRequest { output, ..request(prompt("?"), 5) }).unwrap();
    rig.gate.wait();
    assert_eq!(rig.probe.num_steps(), 1);
    rig.gate.permit();
    rig.gate.open();
    assert_eq!(read(stream).ids(), expected(&prompt("?"), Default::default(), 5));
    assert!(rig.probe.inputs().iter().all(|input| input.carried.is_empty()));
}

#[test]
fn what_a_sequence_runs_behind_its_end_reaches_nobody() {
    let answer_of = |capability| {
        let rig = free(RigOptions { capability, ..RigOptions::default() });
        let ids = answer(&rig.handle, request(prompt("?"), 9)).ids();
        let stopping = StopParams { stop_tokens: vec![ids[4]], max_tokens: 9, ..StopParams::default() };
        let stopped = answer(&rig.handle, GenerateRequest { stopping, ..request(prompt("?"), 9) });
        let stats = settled(&rig);
        assert_eq!((stats.sched.kv.blocks_leased, stats.steps_failed), (0, 0));
        (stopped.samples.clone(), stopped.usage().completion_tokens, stats.tokens_generated)
    };
    let overlapped = answer_of(Capability::Overlaps);
    assert_eq!(overlapped, answer_of(Capability::Logits));
    assert!(overlapped.0[0].finish.is_some());
}

#[test]
fn a_cancelled_request_gives_its_blocks_back_behind_the_step_that_writes_them() {
    let mut rig = gated(overlapping());
    let given_up = rig.handle.submit(request(prompt("given up"), 50)).unwrap();
    rig.gate.wait();
    drop(given_up);
    let kept = rig.handle.submit(request(prompt("kept"), 5)).unwrap();
    rig.gate.permit();
    rig.gate.open();
    assert_eq!(read(kept).ids(), expected(&prompt("kept"), Default::default(), 5));
    let stats = settled(&rig);
    assert_eq!((stats.requests_cancelled, stats.steps_failed, stats.sched.kv.blocks_leased), (1, 0, 0));
}

#[test]
fn a_failed_step_fails_those_in_it_and_those_behind_it_go_on() {
    for is_refused in [false, true] {
        let mut rig = gated(overlapping());
        if is_refused {
            rig.probe.refuse_at(1, failure());
        } else {
            rig.probe.fail_at(1, failure());
        }
        let first = rig.handle.submit(request(prompt("first"), 9)).unwrap();
        rig.gate.wait();
        // Steps 0 and 1 are submitted, so this one is first in step 2.
        let second = rig.handle.submit(request(prompt("second"), 6)).unwrap();
        rig.gate.permit();
        rig.gate.open();
        let failed = read(first);
        assert!(
            matches!(&failed.failed, Some(EngineError::Executor(problem)) if problem.contains("told to"))
        );
        assert_eq!(failed.samples[0].ids(), expected(&prompt("first"), Default::default(), 1));
        assert_eq!(read(second).ids(), expected(&prompt("second"), Default::default(), 6));
        let stats = settled(&rig);
        assert_eq!((stats.steps_failed, stats.sched.kv.blocks_leased), (1, 0));
    }
}

#[test]
fn a_row_that_is_not_finite_fails_its_request_alone() {
    let rig = free(overlapping());
    rig.probe.spoil(TokenId(u32::from(b'#')));
    let spoilt = rig.handle.submit(request(prompt("bad #"), 5)).unwrap();
    let sound = rig.handle.submit(request(prompt("good"), 5)).unwrap();
    assert!(matches!(read(spoilt).failed, Some(EngineError::Executor(_))));
    assert_eq!(read(sound).ids(), expected(&prompt("good"), Default::default(), 5));
    assert_eq!(settled(&rig).steps_failed, 0);
}

#[test]
fn shutting_down_ends_what_is_in_flight() {
    let mut rig = gated(overlapping());
    let stream = rig.handle.submit(request(prompt("?"), 50)).unwrap();
    rig.gate.wait();
    rig.handle.shutdown();
    rig.gate.open();
    assert_eq!(read(stream).failed, Some(EngineError::ShutDown));
    drop(rig.engine);
}

/// One request of a scenario.
#[derive(Debug, Clone)]
struct Wanted {
    parts: Vec<Part>,
    max_tokens: u32,
    sampling: SamplingParams,
    output: OutputParams,
    /// Its fifth token ends it, if it has one.
    stops: bool,
    is_cancelled: bool,
}

impl Wanted {
    fn request(&self) -> GenerateRequest {
        let base = request(self.parts.clone(), self.max_tokens);
        // About every tenth token of the vocabulary.
        let stop_tokens = (0..16).map(|at| TokenId(at * 13)).collect();
        let stopping =
            StopParams { stop_tokens: if self.stops { stop_tokens } else { vec![] }, ..base.stopping };
        let (sampling, output) = (self.sampling.clone(), self.output);
        GenerateRequest { sampling, stopping, output, ..base }
    }
}

fn wanted() -> impl Strategy<Value = Wanted> {
    // Few names, so that requests share documents; lengths around the block size.
    let name = (0u8..6).prop_map(|name| {
        let num_tokens = [1, 3, 4, 5, 9, 17][name as usize];
        PartContent::Tokens((0..num_tokens).map(|at| TokenId(u32::from(name) * 20 + at)).collect())
    });
    let documents = prop::collection::vec(name.clone().prop_map(Part::Document), 0..4);
    let parts = (documents, name.prop_map(Part::Text)).prop_map(|(mut parts, last)| {
        parts.push(last);
        parts
    });
    let sampling = (prop_oneof![Just(0.0f32), Just(1.3)], 0u64..1000, 1u32..3, prop::bool::weighted(0.1));
    let sampling = sampling.prop_map(|(temperature, seed, n, is_penalised)| SamplingParams {
        temperature,
        seed: Some(seed),
        n,
        presence_penalty: if is_penalised { 1.0 } else { 0.0 },
        ..SamplingParams::default()
    });
    let output = prop::bool::weighted(0.1)
        .prop_map(|reports| OutputParams { top_logprobs: if reports { 2 } else { 0 } });
    let rest = (1u32..24, any::<bool>(), prop::bool::weighted(0.2));
    (parts, sampling, output, rest).prop_map(
        |(parts, sampling, output, (max_tokens, stops, is_cancelled))| Wanted {
            parts,
            max_tokens,
            sampling,
            output,
            stops,
            is_cancelled,
        },
    )
}

/// A pool in which two of the largest requests do not fit at once, so that they wait, evict and give way.
fn crowded(capability: Capability, max_step_tokens: u32, num_blocks: u32) -> RigOptions {
    let executor = FakeConfig {
        vocab_size: VOCAB_SIZE,
        num_blocks,
        block_size: BlockSize::new(4).unwrap(),
        ..FakeConfig::default()
    };
    let engine = EngineConfig { max_step_tokens, max_running: 6, ..EngineConfig::default() };
    RigOptions { capability, engine, executor, ..RigOptions::default() }
}

/// What each answers alone, without overlap.
fn alone(all: &[Wanted]) -> Vec<Vec<SampleReply>> {
    let rig = free(crowded(Capability::Logits, 512, 256));
    all.iter().map(|wanted| answer(&rig.handle, wanted.request()).samples).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]
    #[test]
    fn any_traffic_gets_the_tokens_that_each_request_gets_alone_without_overlap(
        all in prop::collection::vec(wanted(), 1..12),
        max_step_tokens in 7u32..40,
        num_blocks in 26u32..40,
        failures in prop::collection::vec((0u64..40, any::<bool>()), 0..3),
    ) {
        let rig = free(crowded(Capability::Overlaps, max_step_tokens, num_blocks));
        for &(step, is_refused) in &failures {
            if is_refused {
                rig.probe.refuse_at(step, failure());
            } else {
                rig.probe.fail_at(step, failure());
            }
        }
        let streams: Vec<_> = all.iter().map(|wanted| rig.handle.submit(wanted.request()).unwrap()).collect();
        let mut num_failed = 0;
        for ((wanted, mut stream), alone) in all.iter().zip(streams).zip(alone(&all)) {
            if wanted.is_cancelled {
                // Anywhere: the steps run while this thread gets here.
                stream.blocking_next();
                continue;
            }
            let reply = read(stream);
            match reply.failed {
                None => prop_assert_eq!(reply.samples, alone),
                Some(error) => {
                    prop_assert!(matches!(error, EngineError::Executor(_)), "{}", error);
                    num_failed += 1;
                }
            }
        }
        prop_assert!(num_failed == 0 || !failures.is_empty());
        let stats = settled(&rig);
        prop_assert!(stats.steps_failed <= failures.len() as u64, "nothing but what was told to failed");
        prop_assert_eq!(stats.sched.kv.blocks_leased, 0);
        // Failures told for later steps would hit it.
        let is_over = failures.iter().all(|&(step, _)| step < rig.probe.num_steps());
        if is_over {
            let reply = answer(&rig.handle, request(prompt("after it"), 6));
            prop_assert_eq!(reply.ids(), expected(&prompt("after it"), Default::default(), 6));
        }
    }
}
