//! Progress on stderr: bars on a terminal, one line per 10 % elsewhere, nothing with `--json`.

use std::io::{IsTerminal, stderr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use lazy_attn_models::Progress;

/// Whether progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verbosity {
    /// It is.
    Normal,
    /// It is not.
    Quiet,
}

const BYTES_STYLE: &str = "{msg:>11} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
const TOKENS_STYLE: &str = "{msg:>11} [{bar:32}] {pos}/{len} tokens {eta}";
const REQUESTS_STYLE: &str = "{msg:>11} [{bar:32}] {pos}/{len} requests {eta}";
const DOCUMENTS_STYLE: &str = "{msg:>11} [{bar:32}] {pos}/{len} documents {eta}";
const ANSWERS_STYLE: &str = "{msg:>11} [{bar:32}] {pos}/{len} answers {eta}";
/// Work below this is over before anybody could read of it.
const MIN_REPORTED_BYTES: u64 = 64 << 20;
/// Work from here on takes long enough for its rate to say something.
const MIN_RATED_BYTES: u64 = 1 << 30;
const MIN_REPORTED_TOKENS: u64 = 512;
const MIN_REPORTED_DOCUMENTS: u64 = 5;
const MIN_REPORTED_ANSWERS: u64 = 20;

/// One task: a bar, or lines at every tenth.
#[derive(Debug)]
enum Task {
    Bar(ProgressBar),
    Lines { name: String, total: u64, next_tenth: u64 },
}

impl Task {
    fn begin(name: &str, total: u64, style: &str) -> Task {
        if stderr().is_terminal() {
            let bar = ProgressBar::new(total).with_message(name.to_owned());
            let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            return Task::Bar(bar);
        }
        Task::Lines { name: name.to_owned(), total, next_tenth: 1 }
    }

    fn set(&mut self, done: u64) {
        match self {
            Task::Bar(bar) => bar.set_position(done),
            Task::Lines { name, total, next_tenth } => {
                let tenth = done.saturating_mul(10).checked_div(*total).unwrap_or(10).min(10);
                if tenth >= *next_tenth {
                    eprintln!("{name}: {} %", tenth * 10);
                    *next_tenth = tenth + 1;
                }
            }
        }
    }

    fn end(&self) {
        if let Task::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Shows downloads, hashing and packing of a model.
#[derive(Debug)]
pub(crate) struct LoadProgress {
    verbosity: Verbosity,
    load: Mutex<Option<Load>>,
    done: AtomicU64,
}

/// Bytes on their way.
#[derive(Debug)]
struct Load {
    task: Task,
    name: String,
    total: u64,
    begun: Instant,
}

impl LoadProgress {
    pub(crate) fn new(verbosity: Verbosity) -> LoadProgress {
        LoadProgress { verbosity, load: Mutex::new(None), done: AtomicU64::new(0) }
    }

    fn with_load(&self, change: impl FnOnce(&mut Option<Load>)) {
        // Progress is worth nothing after a panic on another thread.
        if let Ok(mut load) = self.load.lock() {
            change(&mut load);
        }
    }
}

impl Progress for LoadProgress {
    fn begin(&self, task: &str, total_bytes: u64) {
        let is_shown = self.verbosity == Verbosity::Normal && total_bytes >= MIN_REPORTED_BYTES;
        self.done.store(0, Ordering::Relaxed);
        let begin = || Load {
            task: Task::begin(task, total_bytes, BYTES_STYLE),
            name: task.to_owned(),
            total: total_bytes,
            begun: Instant::now(),
        };
        self.with_load(|slot| *slot = is_shown.then(begin));
    }

    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.with_load(|slot| slot.iter_mut().for_each(|load| load.task.set(done)));
    }

    fn finish(&self) {
        self.with_load(|slot| {
            if let Some(Load { task, name, total, begun }) = slot.take() {
                task.end();
                if total >= MIN_RATED_BYTES {
                    eprintln!("{}", rate_line(&name, total, begun.elapsed()));
                }
            }
        });
    }
}

/// How fast `total` bytes went; gigabytes are 10^9 bytes.
fn rate_line(name: &str, total: u64, time: Duration) -> String {
    let gigabytes = total as f64 / 1e9;
    let seconds = time.as_secs_f64().max(1e-3);
    format!("{name}: {gigabytes:.1} GB in {seconds:.1} s ({:.1} GB/s)", gigabytes / seconds)
}

/// Shows how many of several things are done.
#[derive(Debug)]
pub(crate) struct CountProgress {
    task: Option<Task>,
}

impl CountProgress {
    /// Documents that are registered.
    pub(crate) fn documents(verbosity: Verbosity, num_documents: u64) -> CountProgress {
        let is_shown = verbosity == Verbosity::Normal && num_documents >= MIN_REPORTED_DOCUMENTS;
        CountProgress { task: is_shown.then(|| Task::begin("registering", num_documents, DOCUMENTS_STYLE)) }
    }

    /// Answers of an evaluation.
    pub(crate) fn answers(verbosity: Verbosity, num_answers: u64) -> CountProgress {
        let is_shown = verbosity == Verbosity::Normal && num_answers >= MIN_REPORTED_ANSWERS;
        CountProgress { task: is_shown.then(|| Task::begin("asking", num_answers, ANSWERS_STYLE)) }
    }

    /// Requests of a workload, under the name of a policy; as a bar only, because lines of every tenth would be too many.
    pub(crate) fn requests(verbosity: Verbosity, policy: &str, num_requests: u64) -> CountProgress {
        let is_shown = verbosity == Verbosity::Normal && stderr().is_terminal();
        CountProgress { task: is_shown.then(|| Task::begin(policy, num_requests, REQUESTS_STYLE)) }
    }

    pub(crate) fn set(&mut self, num_done: u64) {
        self.task.iter_mut().for_each(|task| task.set(num_done));
    }
}

impl Drop for CountProgress {
    fn drop(&mut self) {
        self.task.iter().for_each(Task::end);
    }
}

/// Shows how much of a prompt is encoded.
#[derive(Debug)]
pub(crate) struct EncodeProgress {
    task: Option<Task>,
}

impl EncodeProgress {
    /// Progress over `total_tokens` that have to be computed.
    pub(crate) fn new(verbosity: Verbosity, total_tokens: u64) -> EncodeProgress {
        let is_shown = verbosity == Verbosity::Normal && total_tokens >= MIN_REPORTED_TOKENS;
        EncodeProgress { task: is_shown.then(|| Task::begin("encoding", total_tokens, TOKENS_STYLE)) }
    }

    pub(crate) fn is_shown(&self) -> bool {
        self.task.is_some()
    }

    pub(crate) fn set(&mut self, num_tokens: u64) {
        self.task.iter_mut().for_each(|task| task.set(num_tokens));
    }
}

impl Drop for EncodeProgress {
    fn drop(&mut self) {
        self.task.iter().for_each(Task::end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_told_in_gigabytes_of_ten_to_the_nine() {
        let line = rate_line("weights", 16_000_000_000, Duration::from_millis(500));
        assert_eq!(line, "weights: 16.0 GB in 0.5 s (32.0 GB/s)");
    }
}
