//! Running commands: plainly, quietly, or watched for their closing lines.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The folder that holds the workspace's `Cargo.toml`.
pub(crate) fn workspace_root() -> Result<PathBuf> {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").context("run this through `cargo xtask`")?;
    let parent = Path::new(&manifest).parent().context("xtask/ has no parent folder")?;
    Ok(parent.to_path_buf())
}

/// Where cargo writes what it builds, documents, packages and measures.
pub(crate) fn target_folder(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder))
}

/// `cargo` of the toolchain that runs this process, in `root`.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    // The path of xtask's own manifest would tell nested cargo runs a stale story.
    command.env_remove("CARGO_MANIFEST_DIR");
    command
}

/// `program` in `root`.
pub(crate) fn tool(root: &Path, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root);
    command
}

/// Runs to the end with inherited output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", describe(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", describe(command));
    }
    Ok(())
}

/// Runs to the end and returns stdout.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", describe(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}", describe(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no UTF-8", describe(command)))
}

/// Runs to the end and returns stderr, which is shown if it fails.
pub(crate) fn read_errors(command: &mut Command) -> Result<String> {
    let output = command
        .stdout(Stdio::inherit())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("cannot start {}", describe(command)))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!("{} ended with {}:\n{said}", describe(command), output.status);
    }
    Ok(said)
}

/// Runs to the end, echoing both streams, and returns every line that `keep` accepts.
pub(crate) fn watch(command: &mut Command, keep: fn(&str) -> bool) -> Result<Vec<String>> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", describe(command)))?;
    let stdout = child.stdout.take().context("no stdout")?;
    let stderr = child.stderr.take().context("no stderr")?;
    let kept = std::thread::scope(|scope| {
        let errors = scope.spawn(move || echo(BufReader::new(stderr), keep));
        let mut lines = echo(BufReader::new(stdout), keep);
        lines.extend(errors.join().unwrap_or_default());
        lines
    });
    let status = child.wait()?;
    if !status.success() {
        bail!("{} ended with {status}", describe(command));
    }
    Ok(kept)
}

fn echo(reader: impl BufRead, keep: fn(&str) -> bool) -> Vec<String> {
    let mut kept = Vec::new();
    for line in reader.lines().map_while(Result::ok) {
        println!("{line}");
        if keep(&line) {
            kept.push(line.trim().to_owned());
        }
    }
    kept
}

/// Whether `command` starts and ends well, with its output thrown away.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    format!("`{}`", words.join(" "))
}
