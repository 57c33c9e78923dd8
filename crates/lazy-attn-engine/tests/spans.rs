//! What is traced of a request. Alone in its file: the subscriber is that of the process.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, not only the tests themselves

mod common;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use common::{RigOptions, answer, doc, free, request, text};
use tracing_subscriber::fmt::format::FmtSpan;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_request_is_traced_from_submitting_to_its_end_without_its_text() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .without_time()
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(move || writer.clone())
        .init();
    let rig = free(RigOptions::default());
    answer(&rig.handle, request(vec![doc("It is Rumpelstilzchen."), text("Rumpelstilzchen?")], 2));
    rig.handle.settled_stats().unwrap();
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    let of_request: Vec<&str> =
        lines.iter().filter_map(|line| line.split("request{request_id=1}: ").nth(1)).collect();
    let words = ["submitted", "admitted", "first token", "finished"];
    for (line, word) in of_request.iter().zip(words) {
        assert!(line.contains(word), "{word} is not in {line}");
    }
    assert_eq!(of_request.len(), words.len() + 1, "and its end:\n{log}");
    // 22 tokens of the document, 16 of the question, and then one.
    let steps: Vec<&str> =
        lines.iter().copied().filter(|line| line.contains("step{") && line.contains("close")).collect();
    assert_eq!(steps.len(), 2, "{log}");
    assert!(steps[0].contains("step{step=0 tokens=38 runs=3 running=1}"), "{}", steps[0]);
    assert!(steps[1].contains("step{step=1 tokens=1 runs=1 running=1}"), "{}", steps[1]);
    assert!(!log.contains("Rumpel"), "{log}");
}
