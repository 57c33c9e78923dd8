//! `bench`, in this process and against a server process.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod served;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use served::Served;

/// A model of random weights: it says nothing, but fast.
const MODEL: [&str; 4] = ["--model", "random:1:tiny", "--device", "cpu"];

fn lazyattn(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lazyattn"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

fn bench(args: &[&str]) -> Output {
    let args = [&["bench", "offline"], &MODEL[..], args].concat();
    lazyattn(&args).stderr(Stdio::piped()).output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn all_policies_play_one_trace_in_one_run() {
    let report =
        json(&bench(&["--workload", "reorder-small", "--requests", "4", "--policy", "all", "--json"]));
    let results = report["results"].as_array().unwrap();
    let policies: Vec<&str> = results.iter().map(|run| run["policy"].as_str().unwrap()).collect();
    assert!(policies.starts_with(&["lazy"]) && policies.ends_with(&["prefix", "none"]), "{policies:?}");
    for run in results {
        assert!(run["ttft_ms"]["p50"].as_f64().unwrap() > 0.0 && run["completed"] == 4, "{run}");
        assert_eq!(run["input_lens"], serde_json::json!([672, 672, 672, 672]));
    }
    assert_eq!(
        (&results[0]["hit_ratio"], &results[policies.len() - 1]["hit_ratio"]),
        (&0.75.into(), &0.0.into())
    );
    assert_eq!(report["setting"]["model_id"], "random:1:tiny");
}

#[test]
fn tokens_are_the_same_with_documents_read_once_for_all_or_once_for_each() {
    let policies = ["--policy", "lazy,lazy-ungrouped,reencode-copy,none,prefix-ungrouped"];
    let args = ["--workload", "hit-small", "--requests", "12", "--check-tokens", "--json"];
    let report = json(&bench(&[&args[..], &policies].concat()));
    let agreements = report["agreements"].as_array().unwrap();
    let pair = |agreement: &Value| format!("{}/{}", agreement["base"], agreement["other"]).replace('"', "");
    assert_eq!(
        agreements.iter().map(pair).collect::<Vec<_>>(),
        ["lazy/lazy-ungrouped", "lazy/reencode-copy", "none/prefix-ungrouped"]
    );
    assert!(agreements.iter().all(|agreement| agreement["num_clear_differing"] == 0), "{agreements:?}");
    assert_eq!(report["results"][1]["shared_kv_factor"], Value::Null);
}

#[test]
fn a_trace_that_was_written_is_played_again() {
    let trace = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench.jsonl");
    let trace = trace.to_str().unwrap();
    let common = ["--policy", "lazy", "--json"];
    let made = ["--workload", "icl-small", "--requests", "5", "--seed", "3", "--trace-out", trace];
    let (made, played) = (
        json(&bench(&[&made[..], &common].concat())),
        json(&bench(&[&["--trace", trace], &common[..]].concat())),
    );
    assert_eq!(made["trace"], played["trace"]);
    assert_eq!(fs::read_to_string(trace).unwrap().lines().count(), 6);
    // One client after another finds the same; sixteen may join each other, which counts as found.
    assert_eq!(made["results"][0]["total_input_tokens"], played["results"][0]["total_input_tokens"]);
}

#[test]
fn a_file_of_runs_is_measured_with_the_model_loaded_once() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench_runs");
    fs::create_dir_all(&folder).unwrap();
    let (file, out) = (folder.join("runs.txt"), folder.join("out"));
    let lines = "# two\n--workload reorder-small --requests 2 --policy lazy\n\n--name second --workload icl-small --requests 2 --policy none\n";
    fs::write(&file, lines).unwrap();
    let args = ["--runs", file.to_str().unwrap(), "--out", out.to_str().unwrap(), "--commit", "abc"];
    let output = bench(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("reorder-small: 2 requests") && shown.contains("second: 2 requests"), "{shown}");
    let second: Value = serde_json::from_slice(&fs::read(out.join("second.json")).unwrap()).unwrap();
    assert_eq!(
        (&second["setting"]["commit"], &second["results"][0]["policy"]),
        (&"abc".into(), &"none".into())
    );
    fs::write(&file, "--workload reorder-small --clients none\n").unwrap();
    let refused = bench(&args);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("runs.txt, line 1"));
}

#[test]
fn a_server_is_measured_from_outside() {
    let args = [&["serve", "--grpc-port", "0", "--kv-blocks", "512"], &MODEL[..]].concat();
    let served = Served::start(&mut lazyattn(&args));
    for load in [["--clients", "2"], ["--rate", "500"]] {
        let args = [
            "bench",
            "serve",
            "--workload",
            "icl-small",
            "--requests",
            "12",
            "--json",
            "--server",
            &served.url,
        ];
        let output = lazyattn(&[&args[..], &load].concat()).stderr(Stdio::piped()).output().unwrap();
        let report = json(&output);
        let run = &report["results"][0];
        assert_eq!(
            (&run["completed"], &run["failed"], &run["total_output_tokens"]),
            (&12.into(), &0.into(), &48.into())
        );
        assert!(
            run["median_ttft_ms"].as_f64().unwrap() > 0.0 && run["hit_ratio"].as_f64().unwrap() > 0.3,
            "{run}"
        );
    }
}

#[test]
fn a_simulation_says_that_it_is_one() {
    let args = ["bench", "simulate", "eviction", "--requests", "20", "--json"];
    let table = json(&lazyattn(&args).stderr(Stdio::piped()).output().unwrap());
    assert_eq!((&table["simulated"], &table["name"]), (&true.into(), &"eviction".into()));
    assert_eq!(table["rows"].as_array().unwrap().len(), 6);
}

#[test]
fn what_cannot_be_measured_is_told() {
    let refused = |args: &[&str], words: &str| {
        let output = bench(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && stderr.contains(words), "{stderr}");
    };
    refused(&["--workload", "huge"], "\"huge\" does not exist; it is one of ttft, ttft-small");
    refused(&["--alpha=-1"], "alpha");
    refused(&["--policy", "best"], "there is no KV policy");

    refused(&["--workload", "hit-small", "--requests", "2", "--kv-budget", "64"], "requests failed");
}
