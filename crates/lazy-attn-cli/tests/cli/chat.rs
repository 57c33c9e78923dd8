//! `chat` as a script: lines on standard input, answers on standard output.

use std::io::{BufRead, BufReader, Read, Write};

use crate::served::{Served, send_signal};
use crate::{Ran, command, demo_documents, folder, lazyattn, lazyattn_reading, write};

const CAPTAIN: &str = "Who is the captain of the MV Swallow?";

fn chat(args: &[&str], lines: &[&str]) -> Ran {
    let args = [&["chat"], args].concat();
    lazyattn_reading(&args, lines.join("\n").as_bytes())
}

/// The cells of the row of `table` that starts with `name`.
fn row<'a>(table: &'a str, name: &str) -> Vec<&'a str> {
    let row = table.lines().find_map(|line| line.strip_prefix(name));
    row.unwrap_or_else(|| panic!("{name:?} is missing from\n{table}")).split_whitespace().collect()
}

#[test]
fn documents_are_computed_for_the_first_answer_and_reused_for_the_next() {
    let add = format!("/doc add {}", demo_documents());
    let ran = chat(&[], &[&add, CAPTAIN, "/clear", CAPTAIN, "/docs", "/stats", "/quit", "not read"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines[..2], ["Maria Stone", "Maria Stone"], "{}", ran.stdout);
    let numbered = lines.iter().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()));
    assert_eq!(numbered.filter(|line| line.contains(" reused ")).count(), 10, "{}", ran.stdout);
    assert_eq!(row(&ran.stdout, "documents "), ["10", "20"]);
    let [reused, computed, prompt] = ["of them reused", "of them computed", "prompt tokens"]
        .map(|name| row(&ran.stdout, name).iter().map(|cell| cell.parse().unwrap()).collect::<Vec<u64>>());
    assert!(reused[0] > computed[0], "the second answer reused its documents: {}", ran.stdout);
    for index in 0..2 {
        assert_eq!(reused[index] + computed[index], prompt[index]);
    }
    assert!(
        ran.stderr.contains("0 of 10 documents reused") && ran.stderr.contains("10 of 10 documents reused")
    );
    let all = format!("{}{}", ran.stdout, ran.stderr);
    assert!(!all.contains('\x1b'), "colours are for terminals: {all:?}");
}

#[test]
fn typed_documents_are_answered_from_and_can_be_removed() {
    let ran = chat(
        &[],
        &[
            "/doc add - MV Swallow",
            "The MV Swallow is a ferry.",
            "Her captain is Maria Stone.",
            ".",
            CAPTAIN,
            "/doc rm 1",
            "/docs",
        ],
    );
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(ran.stdout.lines().next(), Some("Maria Stone"));
    assert!(ran.stdout.contains("no documents"), "{}", ran.stdout);
}

#[test]
fn a_script_ends_with_its_first_mistake() {
    let cases = [
        ("/dcos", 2, "/help"),
        ("/doc add no-such-file.txt", 2, "no-such-file.txt"),
        ("/doc rm 3", 2, "no document 3"),
        ("/doc add -\n\n.", 2, "is empty"),
    ];
    for (line, code, word) in cases {
        chat(&[], &[line, "/help"]).assert_error(code, &[word]);
    }
    let folder = folder("chat_usage");
    let empty = write(&folder, "empty.txt", "");
    lazyattn(&["chat", "--doc", &empty]).assert_error(2, &["empty.txt"]);
    // Port 1 of loopback needs privileges to listen on, so nobody does.
    lazyattn(&["chat", "--server", "http://127.0.0.1:1"]).assert_error(6, &["no server answers"]);
}

#[test]
fn an_answer_that_does_not_fit_ends_with_its_own_code() {
    let args = ["--max-tokens", "1000000"];
    chat(&args, &["Hello"]).assert_error(4, &["context"]);
}

#[test]
fn ctrl_c_cancels_the_answer_and_the_chat_goes_on() {
    // So hot that no end token is likely, so long that it cannot end before the signal.
    let args = [
        "chat",
        "--temperature",
        "100",
        "--seed",
        "3",
        "--max-tokens",
        "1800",
        "--doc",
        "assets/demo/Saltwick.txt",
    ];
    let mut child = command(&args).current_dir(env!("CARGO_MANIFEST_DIR")).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdin.write_all(b"Tell me everything.\n").unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    send_signal(&child, "INT");
    let mut errors = BufReader::new(child.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    let cancelled = errors.find(|line| line.starts_with("cancelled") || line.starts_with("first token"));
    assert!(cancelled.unwrap().starts_with("cancelled"));
    stdin.write_all(b"/stats\n/docs\n").unwrap();
    drop(stdin);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("nothing was answered yet") && rest.contains("Saltwick"), "{rest}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn ctrl_c_ends_a_script_that_waits_for_a_line() {
    let mut child = command(&["chat"]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"/stats\n").unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "nothing was answered yet\n");
    send_signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_server_answers_as_this_process_does_and_reuses_between_chats() {
    let served = Served::start(&mut command(&["serve", "--grpc-port", "0"]));
    assert!(served.ready.contains("gRPC on http://127.0.0.1:"), "{}", served.ready);
    let lines = [CAPTAIN, "Who founded Hill Boats?"];
    let args = ["--docs", demo_documents()];
    let local = chat(&args, &lines);
    let remote: Vec<Ran> =
        (0..2).map(|_| chat(&[&args[..], &["--server", &served.url]].concat(), &lines)).collect();
    for ran in &remote {
        assert_eq!((ran.code, &ran.stdout), (0, &local.stdout), "{}", ran.stderr);
    }
    assert!(remote[0].stderr.contains("0 of 10 documents reused"), "{}", remote[0].stderr);
    assert!(!remote[1].stderr.contains(" 0 of 10 documents reused"), "{}", remote[1].stderr);
}
