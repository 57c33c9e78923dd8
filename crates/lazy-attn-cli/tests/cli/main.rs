//! The built binary, as a person or a script runs it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod answers;
mod bad_input;
mod bad_model;
#[cfg(feature = "embedded-model")]
mod chat;
mod device;
#[cfg(feature = "embedded-model")]
mod docs;
#[cfg(feature = "embedded-model")]
mod eval;
#[cfg(feature = "embedded-model")]
#[path = "../served/mod.rs"]
mod served;
mod settings;

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use serde_json::Value;

/// What a run left behind.
#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    /// Checks that it failed with `code` and one `error:` line that holds all of `words`.
    fn assert_error(&self, code: i32, words: &[&str]) {
        let Ran { stderr, stdout, .. } = self;
        assert_eq!(self.code, code, "{stderr}");
        assert!(stdout.is_empty(), "stdout: {stdout}");
        let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{stderr}");
        assert!(!stderr.contains("panicked") && !stderr.contains("backtrace"), "{stderr}");
        for word in words {
            assert!(errors[0].contains(word), "{word:?} is missing from: {stderr}");
        }
    }

    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }
}

fn command<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lazyattn"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // No test may depend on what lies in somebody's cache.
    command.env("HF_HOME", env!("CARGO_TARGET_TMPDIR"));
    command
}

fn lazyattn<S: AsRef<OsStr>>(args: &[S]) -> Ran {
    lazyattn_reading(args, b"")
}

fn lazyattn_reading<S: AsRef<OsStr>>(args: &[S], stdin: &[u8]) -> Ran {
    let mut child = command(args).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code().unwrap_or_else(|| panic!("killed by a signal: {output:?}")),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs `generate` on a request, with more arguments in front of it.
fn generate(args: &[&str], request: &Value) -> Ran {
    let args: Vec<&str> = [args, &["generate", "--request", "-"]].concat();
    lazyattn_reading(&args, request.to_string().as_bytes())
}

/// An empty folder of one test.
fn folder(test: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    fs::create_dir_all(&path).unwrap();
    path
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

fn demo_documents() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo")
}
