//! A short run of every target from a fixed seed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use lazy_attn_fuzz::{Fuzzer, TARGETS};

/// The stack of a server's worker, which is smaller than that of a main thread.
const STACK_BYTES: usize = 2 << 20;

#[track_caller]
fn run_short(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let run = || {
        let mut fuzzer = Fuzzer::new(target, 1).unwrap();
        for _ in 0..target.num_short {
            let input = fuzzer.next_input();
            if let Err(crash) = fuzzer.try_next(input) {
                panic!("{crash}\n{:?}", String::from_utf8_lossy(&crash.input));
            }
        }
        fuzzer.num_outcomes()
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run).unwrap();
    let num_outcomes = thread.join().unwrap();
    println!("{name}: {} inputs, {num_outcomes} outcomes", target.num_short);
    assert!(num_outcomes > 3, "{name} comes to {num_outcomes} outcomes: the inputs get nowhere");
}

#[test]
fn bodies_of_calls_are_read_within_bounds() {
    run_short("protobuf");
}

#[test]
fn request_files_are_read_within_bounds() {
    run_short("json");
}

#[test]
fn key_files_are_read_within_bounds() {
    run_short("keys");
}

#[test]
fn gguf_files_are_read_within_bounds() {
    run_short("gguf");
}

#[test]
fn safetensors_files_are_read_within_bounds() {
    run_short("safetensors");
}

#[test]
fn indexes_of_safetensors_files_are_read_within_bounds() {
    run_short("safetensors_index");
}

#[test]
fn model_configs_are_read_within_bounds() {
    run_short("config");
}

#[test]
fn tokenizer_files_are_read_within_bounds() {
    run_short("tokenizer");
}

#[test]
fn chat_templates_are_compiled_and_run_within_bounds() {
    run_short("chat_template");
}

#[test]
fn every_target_has_a_short_run() {
    let source = include_str!("short_run.rs");
    for target in &TARGETS {
        assert!(source.contains(&format!("run_short(\"{}\")", target.name)), "{}", target.name);
    }
}
