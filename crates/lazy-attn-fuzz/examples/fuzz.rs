//! Fuzzes one target or all of them for some time; `cargo xtask fuzz` runs this.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use lazy_attn_fuzz::{Fuzzer, TARGETS, Target, try_input};

/// The stack of a server's worker, which is smaller than that of a main thread.
const STACK_BYTES: usize = 2 << 20;

#[derive(Parser)]
struct Arguments {
    /// Minutes over all targets.
    #[arg(long, default_value_t = 0.01)]
    minutes: f64,
    /// Only this target.
    #[arg(long)]
    target: Option<String>,
    /// The same seed gives the same inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs this input alone; needs `--target`.
    #[arg(long)]
    input: Option<PathBuf>,
    /// Where an input that breaks a bound is kept.
    #[arg(long, default_value = "target/fuzz")]
    save: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let is_wanted = |target: &&Target| arguments.target.as_ref().is_none_or(|name| name == target.name);
    let targets: Vec<&'static Target> = TARGETS.iter().filter(is_wanted).collect();
    if targets.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        bail!("there is no such target; choose one of {}", names.join(", "));
    }
    if let (Some(path), [target]) = (&arguments.input, &targets[..]) {
        let input = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let target = *target;
        let run =
            std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || try_input(target, &input))?;
        println!("{}", run.join().map_err(|_| anyhow::anyhow!("the guard itself panicked"))??);
        return Ok(());
    }
    fs::create_dir_all(&arguments.save)?;
    let each = Duration::from_secs_f64(arguments.minutes * 60.0 / targets.len() as f64);
    let mut num_crashes = 0;
    for target in targets {
        let (save, seed) = (arguments.save.clone(), arguments.seed);
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let run = thread.spawn(move || fuzz(target, seed, each, &save))?;
        num_crashes += run.join().map_err(|_| anyhow::anyhow!("the fuzzer itself panicked"))??;
    }
    if num_crashes > 0 {
        bail!("{num_crashes} inputs break a bound; they are in {}", arguments.save.display());
    }
    Ok(())
}

/// Runs one target and returns how many of its inputs break a bound, at most one.
fn fuzz(target: &'static Target, seed: u64, lasting: Duration, save: &Path) -> Result<usize> {
    let begin = Instant::now();
    let mut fuzzer = Fuzzer::new(target, seed)?;
    let mut num_inputs = 0u64;
    // What ends the process leaves its input behind.
    let current = save.join(format!("{}-running", target.name));
    while begin.elapsed() < lasting {
        let input = fuzzer.next_input();
        fs::write(&current, &input)?;
        num_inputs += 1;
        if let Err(crash) = fuzzer.try_next(input) {
            let path = save.join(format!("{}-{seed}-{num_inputs}", target.name));
            fs::write(&path, &crash.input)?;
            println!("{crash}; saved as {}", path.display());
            return Ok(1);
        }
    }
    fs::remove_file(&current).or_else(|error| if num_inputs == 0 { Ok(()) } else { Err(error) })?;
    println!(
        "{}: seed {seed}, {num_inputs} inputs in {:.1?}, {} outcomes, no finding",
        target.name,
        begin.elapsed(),
        fuzzer.num_outcomes()
    );
    Ok(0)
}
