//! Runs the Python example against a real server, the API as a stranger sees it, and the tests of the tuning recipe that need no
//! torch.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::ci::{FEATURES, Outcome};
use crate::shell;

const EXAMPLE: &str = "docs/examples/python";
const RECIPE: &str = "docs/recipes/block-finetune";
/// Long enough for a loaded machine, short enough to fail rather than hang.
const PATIENCE: Duration = Duration::from_secs(180);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// What the example prints when the answers are right and the documents were computed once.
const EXPECTED: [&str; 3] = ["Maria Stone", "David Hill", "3 of 3 documents reused"];

/// Runs the example where Python and its packages can be had.
///
/// # Errors
/// If the server does not start, the example fails or prints something else, or the server does not drain.
pub(crate) fn run(root: &Path) -> Result<Outcome> {
    let python = match environment(root)? {
        Ok(python) => python,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    shell::run(shell::tool(root, &python).arg(Path::new(RECIPE).join("test_template.py")))?;
    let mut server = Server::start(root, &binary(root)?)?;
    let mut command = shell::tool(root, &python);
    command.arg(Path::new(EXAMPLE).join("ask.py")).arg(&server.url);
    let output = output_in_time(&mut command)?;
    print!("{output}");
    for expected in EXPECTED {
        ensure!(output.contains(expected), "the example did not print {expected:?}");
    }
    server.drain()?;
    Ok(Outcome::Passed("the recipe has the engine's template, the example ran and the server drained".into()))
}

/// The interpreter of a virtual environment with the packages of both, or why there is none.
fn environment(root: &Path) -> Result<Result<PathBuf, String>> {
    if !shell::succeeds(shell::tool(root, "python3").arg("--version")) {
        return Ok(Err("python3 is not installed".into()));
    }
    let folder = shell::target_folder(root).join("python-example");
    let python = folder.join("bin/python");
    let has_pip = |python: &Path| shell::succeeds(shell::tool(root, python).args(["-m", "pip", "--version"]));
    if !has_pip(&python) && !shell::succeeds(shell::tool(root, "python3").args(["-m", "venv"]).arg(&folder)) {
        return Ok(Err("python3 cannot make a virtual environment with pip".into()));
    }
    let mut install = shell::tool(root, &python);
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary",
        ":all:",
    ]);
    install.args(["--retries", "1", "--timeout", "10"]);
    for list in [Path::new(EXAMPLE).join("requirements.txt"), Path::new(RECIPE).join("requirements-test.txt")]
    {
        install.arg("-r").arg(list);
    }
    if shell::run(&mut install).is_err() {
        return Ok(Err("the packages of the example and the recipe cannot be installed here".into()));
    }
    Ok(Ok(python))
}

/// The binary that the test stage built; asked for in the same way, so that cargo finds nothing to do.
fn binary(root: &Path) -> Result<PathBuf> {
    let mut command = shell::cargo(root);
    command.args(["test", "--no-run", "--workspace", "--features", FEATURES, "--test", "cli"]);
    let messages = shell::read(command.args(["--message-format", "json-render-diagnostics"]))?;
    let parsed = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    // Its unit tests have the same name.
    let mut binaries = parsed.filter(|message| {
        message["target"]["kind"][0] == "bin"
            && message["target"]["name"] == "lazyattn"
            && message["profile"]["test"] == false
    });
    let path = binaries.find_map(|message| message["executable"].as_str().map(PathBuf::from));
    path.context("cargo named no binary `lazyattn`")
}

/// A server process; it does not outlive this value.
struct Server {
    child: Child,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail on a server that has ended, which is as it should be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(root: &Path, binary: &Path) -> Result<Server> {
        let mut command = shell::tool(root, binary);
        command.args(["serve", "--grpc-port", "0", "--kv-blocks", "256"]).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start the server")?;
        let stderr = child.stderr.take().context("the server has no stderr")?;
        let mut server = Server { child, url: String::new() };
        let (sender, ready) = mpsc::channel();
        // Reads on to the end, so that the server never waits for a reader.
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                println!("server: {line}");
                // Nobody waits for a second one.
                let _ = line.starts_with("ready: ").then(|| sender.send(line));
            }
        });
        let line = ready.recv_timeout(PATIENCE).context("the server did not say that it is ready")?;
        server.url = line.split_whitespace().last().unwrap_or_default().to_owned();
        Ok(server)
    }

    /// Asks it to end and checks that it does so well.
    fn drain(&mut self) -> Result<()> {
        shell::run(Command::new("kill").args(["-TERM", &self.child.id().to_string()]))?;
        let status = wait_in_time(&mut self.child).context("the server did not drain")?;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }
}

/// Runs to the end and returns stdout; a command that takes too long is killed.
fn output_in_time(command: &mut Command) -> Result<String> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start the example")?;
    let mut stdout = child.stdout.take().context("the example has no stdout")?;
    let reader = thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let status = wait_in_time(&mut child).inspect_err(|_| {
        let _ = child.kill();
    })?;
    let text = reader.join().map_err(|_| anyhow::anyhow!("the reader of the example failed"))??;
    if !status.success() {
        bail!("the example ended with {status}; it printed: {text}");
    }
    Ok(text)
}

fn wait_in_time(child: &mut Child) -> Result<ExitStatus> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        ensure!(begin.elapsed() < PATIENCE, "it did not end within {} s", PATIENCE.as_secs());
        thread::sleep(POLL_INTERVAL);
    }
}
