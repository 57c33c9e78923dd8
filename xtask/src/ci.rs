//! The stages of a full check, in the order in which they fail fastest.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::{kernels, python, shell, tidy};

/// One feature set for every stage, so that no stage rebuilds what another one built.
pub(crate) const FEATURES: &str =
    "lazy-attn/candle,lazy-attn-cli/cuda,lazy-attn-cli/hub,lazy-attn-cli/embedded-model";

/// Turns on the tests and benches that need a device: they are read here and run where there is one.
const DEVICE_TESTS: &str = "lazy-attn/cuda-device,lazy-attn-models/cuda-device";

/// Not published, so not packaged.
const UNPUBLISHED: [&str; 3] = ["lazy-attn-fuzz", "lazy-attn-testkit", "xtask"];

#[derive(Args)]
pub(crate) struct CiArguments {
    /// Runs only this stage; may be given several times.
    #[arg(long = "stage", value_enum)]
    stages: Vec<Stage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// rustfmt leaves every file as it is.
    Fmt,
    /// The rules of ARCHITECTURE.md and STYLE.md.
    Tidy,
    /// clippy without a warning, all targets.
    Clippy,
    /// Unit and integration tests.
    Test,
    /// Examples in documentation comments.
    Doctest,
    /// Every example of every published crate runs to its end.
    Examples,
    /// The Python example against the built server, where Python and its packages can be had.
    Python,
    /// rustdoc without a warning.
    Doc,
    /// Licences, advisories and duplicate dependencies, where cargo-deny is installed.
    Deny,
    /// Every published crate packages.
    Package,
    /// CUDA sources compile and spill only where it is known; fetches nvcc, and is skipped where it cannot.
    Kernels,
}

/// How a stage that did not fail ended.
pub(crate) enum Outcome {
    Passed(String),
    Skipped(String),
}

fn passed() -> Outcome {
    Outcome::Passed(String::new())
}

struct Line {
    stage: Stage,
    time: Duration,
    result: Result<Outcome>,
}

pub(crate) fn run(root: &Path, arguments: &CiArguments) -> Result<()> {
    let stages =
        if arguments.stages.is_empty() { Stage::value_variants() } else { arguments.stages.as_slice() };
    let mut lines = Vec::new();
    for (index, &stage) in stages.iter().enumerate() {
        println!("\n=== [{}/{}] {}", index + 1, stages.len(), stage.name());
        let begin = Instant::now();
        let result = stage.run(root);
        let failed = result.is_err();
        lines.push(Line { stage, time: begin.elapsed(), result });
        if failed {
            break;
        }
    }
    summarise(&lines)
}

fn summarise(lines: &[Line]) -> Result<()> {
    println!("\n=== summary");
    let mut failure = None;
    for line in lines {
        let (word, detail) = match &line.result {
            Ok(Outcome::Passed(detail)) => ("passed", detail.clone()),
            Ok(Outcome::Skipped(why)) => ("skipped", why.clone()),
            Err(error) => {
                failure = Some(line.stage);
                ("FAILED", format!("{error:#}"))
            }
        };
        println!("{:<9} {:<8} {:>7.1} s  {detail}", line.stage.name(), word, line.time.as_secs_f64());
    }
    if let Some(stage) = failure {
        bail!("stage `{0}` failed; repeat it with `cargo xtask ci --stage {0}`", stage.name());
    }
    println!("all {} stages passed", lines.len());
    Ok(())
}

impl Stage {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    fn run(self, root: &Path) -> Result<Outcome> {
        match self {
            Stage::Fmt => {
                shell::run(shell::cargo(root).args(["fmt", "--all", "--check"]))?;
                Ok(passed())
            }
            Stage::Tidy => tidy::run(root).map(|()| passed()),
            Stage::Clippy => clippy(root),
            Stage::Test => test(root),
            Stage::Doctest => doctest(root),
            Stage::Examples => examples(root),
            Stage::Python => python::run(root),
            Stage::Doc => doc(root),
            Stage::Deny => deny(root),
            Stage::Package => package(root),
            Stage::Kernels => kernels::check(root),
        }
    }
}

fn clippy(root: &Path) -> Result<Outcome> {
    let mut command = shell::cargo(root);
    command.args(["clippy", "--workspace", "--all-targets", "--features", FEATURES]);
    command.args(["--features", DEVICE_TESTS]);
    shell::run(command.args(["--", "-D", "warnings"]))?;
    Ok(passed())
}

fn test(root: &Path) -> Result<Outcome> {
    let mut command = shell::cargo(root);
    if shell::succeeds(shell::cargo(root).args(["nextest", "--version"])) {
        command.args(["nextest", "run", "--no-fail-fast", "--status-level", "slow"]);
        command.args(["--final-status-level", "fail"]);
    } else {
        command.args(["test", "--no-fail-fast", "--lib", "--bins", "--tests", "--examples"]);
    }
    let closing = shell::watch(command.args(["--workspace", "--features", FEATURES]), is_closing_line)?;
    summary_of_tests(&closing)
}

fn doctest(root: &Path) -> Result<Outcome> {
    let mut command = shell::cargo(root);
    command.args(["test", "--doc", "--workspace", "--features", FEATURES]);
    let closing = shell::watch(&mut command, is_closing_line)?;
    summary_of_tests(&closing)
}

fn is_closing_line(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("Summary [") || line.starts_with("test result:")
}

/// A run that tested nothing proves nothing, so it does not pass.
fn summary_of_tests(closing: &[String]) -> Result<Outcome> {
    let num_passed: u32 = closing.iter().filter_map(|line| num_passed(line)).sum();
    if num_passed == 0 {
        bail!("no test ran");
    }
    Ok(Outcome::Passed(format!("{num_passed} passed")))
}

fn num_passed(closing_line: &str) -> Option<u32> {
    let before = closing_line.split(" passed").next()?;
    before.rsplit(' ').next()?.parse().ok()
}

fn examples(root: &Path) -> Result<Outcome> {
    let mut command = shell::cargo(root);
    command.args(["build", "--workspace", "--examples", "--features", FEATURES]);
    let messages = shell::read(command.args(["--message-format", "json-render-diagnostics"]))?;
    let executables = example_executables(&messages);
    for executable in &executables {
        println!("--- {executable}");
        shell::run(shell::tool(root, executable).stdin(Stdio::null()))?;
    }
    Ok(Outcome::Passed(format!("{} examples ran", executables.len())))
}

fn example_executables(messages: &str) -> Vec<String> {
    let parsed = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    parsed
        .filter(|message| message["target"]["kind"][0] == "example" && is_published(message))
        .filter_map(|message| message["executable"].as_str().map(str::to_owned))
        .collect()
}

/// The tools of the test kit rewrite fixtures; a check leaves the tree alone.
fn is_published(message: &serde_json::Value) -> bool {
    let manifest = message["manifest_path"].as_str().unwrap_or_default();
    !UNPUBLISHED.iter().any(|name| manifest.contains(&format!("/{name}/")))
}

fn doc(root: &Path) -> Result<Outcome> {
    let mut command = shell::cargo(root);
    command.env("RUSTDOCFLAGS", "-D warnings");
    shell::run(command.args(["doc", "--workspace", "--no-deps", "--features", FEATURES]))?;
    Ok(passed())
}

fn deny(root: &Path) -> Result<Outcome> {
    if !shell::succeeds(shell::cargo(root).args(["deny", "--version"])) {
        return Ok(Outcome::Skipped("cargo-deny is not installed".into()));
    }
    shell::run(shell::cargo(root).args(["deny", "--all-features", "check"]))?;
    Ok(passed())
}

/// `--no-verify`: the other stages built the same sources, and tidy found no include outside a crate; this one proves
/// the manifests and the file lists. `--offline`: what the other stages built is in the cache.
fn package(root: &Path) -> Result<Outcome> {
    let packages = shell::target_folder(root).join("package");
    if packages.exists() {
        std::fs::remove_dir_all(&packages)?;
    }
    let mut command = shell::cargo(root);
    command.args(["package", "--workspace", "--no-verify", "--allow-dirty", "--offline", "--quiet"]);
    for name in UNPUBLISHED {
        command.args(["--exclude", name]);
    }
    shell::run(&mut command)?;
    let archives = std::fs::read_dir(&packages).context("no packages were written")?;
    let num_archives =
        archives.flatten().filter(|entry| entry.path().extension().is_some_and(|e| e == "crate")).count();
    Ok(Outcome::Passed(format!("{num_archives} packages")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_of_both_runners_are_read() {
        let nextest = "     Summary [   1.2s] 41 tests run: 41 passed, 0 skipped";
        let plain = "test result: ok. 7 passed; 0 failed; 0 ignored";
        assert!(is_closing_line(nextest) && is_closing_line(plain));
        assert_eq!((num_passed(nextest), num_passed(plain)), (Some(41), Some(7)));
    }

    #[test]
    fn a_run_without_tests_does_not_pass() {
        assert!(summary_of_tests(&["test result: ok. 0 passed; 0 failed".to_owned()]).is_err());
        assert!(summary_of_tests(&[]).is_err());
    }

    #[test]
    fn only_examples_of_published_crates_are_run() {
        let messages = concat!(
            r#"{"target":{"kind":["example"]},"executable":"x"}"#,
            "\n",
            r#"{"target":{"kind":["bin"]},"executable":"y"}"#,
            "\n",
            r#"{"target":{"kind":["example"]},"executable":null}"#,
            "\n",
            r#"{"target":{"kind":["example"]},"executable":"z","manifest_path":"a/lazy-attn-testkit/Cargo.toml"}"#
        );
        assert_eq!(example_executables(messages), ["x"]);
    }
}
