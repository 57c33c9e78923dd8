//! Timeouts and priorities, from the request to the scheduler.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, not only the tests themselves

mod common;

use std::time::Duration;

use common::{RigOptions, answer, expected, gated, read, request, text};
use lazy_attn_engine::{EngineConfig, EngineError, GenerateRequest};
use lazy_attn_types::{AttentionMode, TokenId};

fn one_at_a_time() -> RigOptions {
    let engine = EngineConfig { max_running: 1, ..EngineConfig::default() };
    RigOptions { engine, ..RigOptions::default() }
}

fn within(millis: u64, question: &str) -> GenerateRequest {
    let timeout = Some(Duration::from_millis(millis));
    GenerateRequest { timeout, ..request(vec![text(question)], 9) }
}

#[test]
fn a_timeout_ends_requests_that_run_or_wait_and_nobody_else() {
    let mut rig = gated(one_at_a_time());
    let running = rig.handle.submit(within(10, "one")).unwrap();
    rig.gate.wait();
    let waiting = rig.handle.submit(within(5, "two")).unwrap();
    let patient = rig.handle.submit(request(vec![text("three")], 9)).unwrap();
    rig.gate.permit();
    rig.gate.wait();
    rig.clock.advance(20_000);
    rig.gate.open();
    let late = |millis| Some(EngineError::DeadlineExceeded { late: Duration::from_millis(millis) });
    let reply = read(running);
    assert_eq!(reply.failed, late(10));
    assert_eq!(reply.samples[0].tokens.len(), 2, "what was generated in time was sent");
    let reply = read(waiting);
    assert_eq!((reply.failed, reply.seed), (late(15), None));
    assert_eq!(read(patient).ids(), expected(&[text("three")], AttentionMode::Block, 9));
    let stats = rig.handle.settled_stats().unwrap();
    assert_eq!((stats.requests_failed, stats.requests_done, stats.sched.kv.blocks_leased), (2, 1, 0));
}

#[test]
fn a_timeout_that_is_long_enough_changes_nothing() {
    let mut rig = gated(one_at_a_time());
    rig.gate.open();
    let reply = answer(&rig.handle, within(1, "one"));
    assert_eq!(reply.ids(), expected(&[text("one")], AttentionMode::Block, 9));
}

#[test]
fn the_larger_priority_starts_first() {
    let mut rig = gated(one_at_a_time());
    let ask = |priority, question: &str| {
        let request = GenerateRequest { priority, ..request(vec![text(question)], 2) };
        rig.handle.submit(request).unwrap()
    };
    let first = ask(0, "r");
    rig.gate.wait();
    let streams = [first, ask(-1, "l"), ask(3, "h"), ask(0, "m")];
    rig.gate.open();
    for stream in streams {
        assert_eq!(read(stream).ids().len(), 2);
    }
    // A prompt of one token is run at index 0 of its tail.
    let inputs = rig.probe.inputs();
    let prompts = inputs.iter().filter(|input| input.runs[0].first_local == 0);
    let order: Vec<TokenId> = prompts.map(|input| input.tokens[0]).collect();
    assert_eq!(order, [b'r', b'h', b'm', b'l'].map(|byte| TokenId(u32::from(byte))));
}
