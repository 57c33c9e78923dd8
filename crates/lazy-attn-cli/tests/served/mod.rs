//! A server process for tests; it dies with the test.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

pub(crate) struct Served {
    pub(crate) child: Child,
    pub(crate) url: String,
    /// The line that says so.
    pub(crate) ready: String,
    /// Reads what comes later, so that the pipe is never full, and ends with the process.
    later: Option<JoinHandle<Vec<String>>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Served {
    /// Starts `command`, which is a `serve`, and waits until it listens.
    pub(crate) fn start(command: &mut Command) -> Served {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines.find_map(|line| line.ok().filter(|line| line.contains("ready: "))).unwrap();
        let later = Some(thread::spawn(move || lines.map_while(Result::ok).collect()));
        // In JSON more of the line follows.
        let url = ready.split_once("gRPC on ").unwrap().1.split('"').next().unwrap().to_owned();
        Served { child, url, ready, later }
    }

    /// Asks it to end, and returns what it said since it was ready.
    pub(crate) fn log(mut self) -> Vec<String> {
        send_signal(&self.child, "TERM");
        assert!(self.child.wait().unwrap().success());
        self.later.take().unwrap().join().unwrap()
    }
}

/// Sends SIGNAL, for example `TERM`, to a process.
pub(crate) fn send_signal(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
}
