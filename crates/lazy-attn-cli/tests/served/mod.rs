//! A server process for tests; it dies with the test.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

pub(crate) struct Served {
    pub(crate) child: Child,
    pub(crate) url: String,
    /// The line that says so.
    pub(crate) ready: String,
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
        let ready = lines.find_map(|line| line.ok().filter(|line| line.starts_with("ready: "))).unwrap();
        // Whatever comes later must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let url = ready.split_whitespace().last().unwrap().to_owned();
        Served { child, url, ready }
    }
}

/// Sends SIGNAL, for example `TERM`, to a process.
pub(crate) fn send_signal(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
}
