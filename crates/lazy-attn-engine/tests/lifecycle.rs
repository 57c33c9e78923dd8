//! Ends: stop conditions, cancellation, failures, shutdown, slow readers.

#![allow(clippy::unwrap_used)] // helpers of tests, not only the tests themselves

mod common;

use std::time::Duration;

use common::{END, Reply, Rig, RigOptions, answer, doc, expected, free, gated, read, request, text};
use lazy_attn_engine::{EngineConfig, EngineError, EngineHandle, Event, FinishReason, GenerateRequest, Part};
use lazy_attn_types::sampling::EndTokens;
use lazy_attn_types::{AttentionMode, ExecError, OutputParams, SamplingParams, StopParams, TokenId};

fn id(character: char) -> TokenId {
    TokenId(character as u32)
}

/// The reply of an engine that says `word` after the question `?`; the word's characters are distinct.
fn says(word: &str, stopping: StopParams) -> Reply {
    let rig = free(RigOptions::default());
    let chain: Vec<TokenId> = "?".chars().chain(word.chars()).map(id).chain([END]).collect();
    rig.probe.force_chain(&chain);
    answer(&rig.handle, GenerateRequest { stopping, ..request(vec![doc("d"), text("q?")], 1) })
}

fn stops(texts: &[&str]) -> StopParams {
    let stop_texts = texts.iter().map(|text| text.to_string()).collect();
    StopParams { stop_texts, max_tokens: 20, ..StopParams::default() }
}

#[test]
fn a_sequence_ends_by_token_by_text_or_by_length() {
    let check = |stopping: StopParams, text: &str, num_tokens: usize, reason: FinishReason| {
        let reply = says("lighten-", stopping);
        let sample = &reply.samples[0];
        assert_eq!((sample.text.as_str(), sample.tokens.len()), (text, num_tokens));
        assert_eq!(sample.finish, Some(reason));
        assert_eq!(reply.usage().completion_tokens as usize, num_tokens);
    };
    check(stops(&[]), "lighten-", 9, FinishReason::StopToken(END));
    check(stops(&["hte", "x"]), "lig", 6, FinishReason::StopText("hte".into()));
    check(stops(&["-!"]), "lighten-", 9, FinishReason::StopToken(END));
    check(StopParams { max_tokens: 4, ..stops(&["h!"]) }, "ligh", 4, FinishReason::Length);
    let stop_tokens = vec![id('t')];
    check(StopParams { stop_tokens, ..stops(&[]) }, "ligh", 5, FinishReason::StopToken(id('t')));
    let ignoring = StopParams { end_tokens: EndTokens::Ignore, max_tokens: 9, ..stops(&[]) };
    check(ignoring, "lighten-", 9, FinishReason::Length);
}

#[test]
fn log_probabilities_come_with_every_token_best_first() {
    let rig = free(RigOptions::default());
    let output = OutputParams { top_logprobs: 5 };
    let reply = answer(&rig.handle, GenerateRequest { output, ..request(vec![text("ab")], 3) });
    assert_eq!(reply.samples[0].tokens.len(), 3);
    for token in &reply.samples[0].tokens {
        assert_eq!((token.top.len(), token.top[0]), (5, token.chosen), "greedy takes the best");
        assert!(token.top.is_sorted_by(|a, b| a.logprob >= b.logprob) && token.chosen.logprob < 0.0);
    }
}

fn small_steps() -> RigOptions {
    let engine = EngineConfig { max_step_tokens: 8, max_running: 3, ..EngineConfig::default() };
    RigOptions { engine, ..RigOptions::default() }
}

fn long_prompt() -> Vec<Part> {
    vec![doc("A document of some length."), text("And a question?")]
}

fn leased(handle: &EngineHandle) -> u32 {
    handle.settled_stats().unwrap().sched.kv.blocks_leased
}

#[test]
fn a_dropped_stream_gives_back_every_block_within_two_steps() {
    // Steps that encode, prefill and decode; left alone it would run for many more.
    for num_steps in 0..12 {
        let mut rig = gated(small_steps());
        let sampling = SamplingParams { n: 2, ..SamplingParams::default() };
        let both = GenerateRequest { sampling, ..request(long_prompt(), 20) };
        let stream = rig.handle.submit(both).unwrap();
        (0..num_steps).for_each(|_| rig.gate.step());
        rig.gate.wait();
        let before = rig.probe.num_steps();
        drop(stream);
        rig.gate.open();
        assert_eq!(leased(&rig.handle), 0, "after {num_steps} steps");
        assert!(rig.probe.num_steps() <= before + 2);
        assert_eq!(rig.handle.stats().requests_cancelled, 1);
    }
}

#[test]
fn cancelling_the_leader_of_a_document_keeps_its_progress_for_the_follower() {
    let mut rig = gated(small_steps());
    let leader = rig.handle.submit(request(long_prompt(), 5)).unwrap();
    rig.gate.wait();
    let follower = rig.handle.submit(request(vec![long_prompt()[0].clone(), text("Other?")], 5)).unwrap();
    rig.gate.permit();
    rig.gate.wait();
    drop(leader);
    rig.gate.open();
    let reply = read(follower);
    assert_eq!(reply.ids(), expected(&[long_prompt()[0].clone(), text("Other?")], AttentionMode::Block, 5));
    assert_eq!(rig.handle.settled_stats().unwrap().tokens_encoded, 26, "no token of the document ran twice");
    assert_eq!(leased(&rig.handle), 0);
}

#[test]
fn whoever_waits_for_a_document_survives_the_failure_of_the_one_that_encoded_it() {
    for failing_step in 0..4 {
        let mut rig = gated(small_steps());
        rig.probe.fail_at(failing_step, ExecError::Failed("the device fell off".into()));
        let first = rig.handle.submit(request(long_prompt(), 5)).unwrap();
        rig.gate.wait();
        // It waits for the document that the first request encodes in steps 0 to 3.
        let other = vec![long_prompt()[0].clone(), text("Another one?")];
        let follower = rig.handle.submit(request(other.clone(), 5)).unwrap();
        rig.gate.open();
        let failed = read(first).failed;
        assert_eq!(failed, Some(EngineError::Executor("the executor failed: the device fell off".into())));
        assert_eq!(read(follower).ids(), expected(&other, AttentionMode::Block, 5));
        let later = answer(&rig.handle, request(other.clone(), 5));
        assert_eq!(later.ids(), expected(&other, AttentionMode::Block, 5), "the engine goes on");
        let stats = rig.handle.settled_stats().unwrap();
        assert_eq!((stats.steps_failed, stats.sched.kv.blocks_leased), (1, 0));
    }
}

#[test]
fn a_failed_step_fails_the_requests_in_it_and_no_other() {
    let engine = EngineConfig { max_running: 2, ..EngineConfig::default() };
    let mut rig = gated(RigOptions { engine, ..RigOptions::default() });
    let ask = |question: &str| rig.handle.submit(request(vec![text(question)], 5)).unwrap();
    let running = ask("One?");
    rig.gate.wait();
    let (running_too, waiting) = (ask("Two?"), ask("Three?"));
    rig.probe.fail_at(2, ExecError::Failed("the device fell off".into()));
    rig.gate.open();
    for stream in [running, running_too] {
        let reply = read(stream);
        assert!(reply.failed.is_some() && !reply.samples[0].tokens.is_empty(), "{reply:?}");
    }
    assert_eq!(read(waiting).ids(), expected(&[text("Three?")], AttentionMode::Block, 5));
    let stats = rig.handle.settled_stats().unwrap();
    assert_eq!((stats.steps_failed, stats.requests_failed, stats.requests_done), (1, 2, 1));
}

#[test]
fn logits_that_are_not_numbers_fail_only_their_own_request() {
    let mut rig = gated(RigOptions::default());
    rig.probe.spoil(id('#'));
    let good = rig.handle.submit(request(vec![text("ab")], 5)).unwrap();
    let bad = rig.handle.submit(request(vec![text("a#")], 5)).unwrap();
    rig.gate.open();
    assert_eq!(read(good).ids(), expected(&[text("ab")], AttentionMode::Block, 5));
    let failed = read(bad).failed.unwrap().to_string();
    assert!(failed.contains("logit of token 0 is NaN"), "{failed}");
    assert_eq!(leased(&rig.handle), 0);
}

#[test]
fn a_reader_that_reads_nothing_holds_nobody_up() {
    let rig = free(RigOptions::default());
    let mut unread = rig.handle.submit(request(vec![text("slow")], 200)).unwrap();
    assert_eq!(answer(&rig.handle, request(vec![text("fast")], 300)).ids().len(), 300);
    rig.handle.settled_stats().unwrap();
    // Started, one merged delta, finished, done.
    let events: Vec<Event> = std::iter::from_fn(|| unread.blocking_next()).collect();
    assert_eq!(events.len(), 4, "{events:?}");
    assert!(matches!(&events[1], Event::Delta { tokens, .. } if tokens.len() == 200));
}

#[test]
fn shutting_down_ends_every_stream_and_refuses_the_next() {
    let mut rig = gated(RigOptions::default());
    let running = rig.handle.submit(request(vec![text("ab")], 50)).unwrap();
    rig.gate.wait();
    let waiting = rig.handle.submit(request(vec![text("ab")], 50)).unwrap();
    rig.handle.shutdown();
    let late = rig.handle.submit(request(vec![text("ab")], 50)).unwrap();
    rig.gate.open();
    for stream in [running, waiting, late] {
        assert_eq!(read(stream).failed, Some(EngineError::ShutDown));
    }
    let Rig { engine, handle, .. } = rig;
    drop(engine);
    assert_eq!(handle.submit(request(vec![text("ab")], 1)).unwrap_err(), EngineError::ShutDown);
    assert_eq!(handle.settled_stats(), Err(EngineError::ShutDown));
}

#[test]
fn times_are_those_of_the_injected_clock() {
    let engine = EngineConfig { max_step_tokens: 8, max_running: 1, ..EngineConfig::default() };
    let rig = gated(RigOptions { engine, ..RigOptions::default() });
    let before = rig.handle.submit(request(vec![text("b")], 1)).unwrap();
    rig.gate.wait();
    let stream = rig.handle.submit(request(vec![text("0123456789")], 3)).unwrap();
    rig.clock.advance(1000);
    rig.gate.permit();
    read(before);
    rig.gate.wait();
    // Two steps of prompt, the second gives the first token; two more tokens.
    for micros in [100, 10, 3, 2] {
        rig.clock.advance(micros);
        rig.gate.permit();
        if micros != 2 {
            rig.gate.wait();
        }
    }
    let (_, timing) = read(stream).done.unwrap();
    assert_eq!(timing.queue, Duration::from_micros(1000));
    assert_eq!(timing.time_to_first_token, Duration::from_micros(1110));
    assert_eq!((timing.prefill, timing.decode), (Duration::from_micros(110), Duration::from_micros(5)));
}

#[test]
fn streams_are_read_from_asynchronous_code_too() {
    let rig = free(RigOptions::default());
    let mut stream = rig.handle.submit(request(vec![text("ab")], 5)).unwrap();
    let mut num_tokens = 0;
    block_on(async {
        while let Some(event) = stream.next().await {
            if let Event::Delta { tokens, .. } = event {
                num_tokens += tokens.len();
            }
        }
    });
    assert_eq!(num_tokens, 5);
}

/// The smallest runtime: parks the thread until it is woken.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn handles_and_streams_move_between_threads() {
    fn is_send_and_sync<T: Send + Sync>() {}
    fn is_send<T: Send>() {}
    is_send_and_sync::<EngineHandle>();
    is_send::<lazy_attn_engine::RequestStream>();
}
