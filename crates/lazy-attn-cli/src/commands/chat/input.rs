//! Where the lines of a chat come from: an editor on a terminal, standard input elsewhere.

use std::io::{self, BufRead, Read as _};
use std::thread;

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::commands::chat::line::COMMANDS;
use crate::exit::{Exit, Failure};
use crate::ui::Paint;

/// Longest line; what is longer can only be a document, and those are files.
const MAX_LINE_BYTES: u64 = 4 << 20;
/// Most lines that the arrow keys bring back.
const MAX_HISTORY: usize = 1000;

/// What came instead of a line, or the line.
#[derive(Debug)]
pub(super) enum Read {
    /// A line without its end.
    Line(String),
    /// Ctrl-C on the terminal: the line is given up.
    Interrupted,
    /// There are no more.
    End,
    /// The script was told to stop.
    Stopped,
}

/// A source of lines.
pub(super) enum Input {
    /// A person.
    Terminal { editor: Box<Editor<Completion, DefaultHistory>>, paint: Paint },
    /// A file or a pipe.
    Script(mpsc::Receiver<io::Result<String>>),
}

impl Input {
    /// Lines that a person edits.
    pub(super) fn terminal(paint: Paint) -> Result<Input, Failure> {
        let config = Config::builder()
            .max_history_size(MAX_HISTORY)
            .and_then(|config| config.history_ignore_dups(true))
            .map_err(failure)?
            .completion_type(CompletionType::List)
            .auto_add_history(true)
            .build();
        let mut editor = Editor::with_config(config).map_err(failure)?;
        editor.set_helper(Some(Completion(FilenameCompleter::new())));
        Ok(Input::Terminal { editor: Box::new(editor), paint })
    }

    /// Lines of standard input. A thread reads them, so that a signal is heard while none comes.
    pub(super) fn script() -> Input {
        let (lines, receiver) = mpsc::channel(1);
        thread::spawn(move || {
            let mut reader = io::stdin().lock();
            while let Some(line) = next_line(&mut reader).transpose() {
                if lines.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Input::Script(receiver)
    }

    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal { .. })
    }

    /// The next line; `prompt` asks a person for it.
    pub(super) fn read(
        &mut self,
        runtime: &Runtime,
        interrupt: &mut Signal,
        prompt: &str,
    ) -> Result<Read, Failure> {
        match self {
            Input::Terminal { editor, paint } => {
                let line = editor.readline(&(prompt, &*paint.bold(prompt)));
                // While a line is edited Ctrl-C is a key: a signal from before then is for nobody.
                *interrupt = runtime.block_on(async { interrupts() })?;
                match line {
                    Ok(line) => Ok(Read::Line(line)),
                    Err(ReadlineError::Interrupted) => Ok(Read::Interrupted),
                    Err(ReadlineError::Eof) => Ok(Read::End),
                    Err(error) => Err(failure(error)),
                }
            }
            Input::Script(lines) => runtime.block_on(async {
                tokio::select! {
                    line = lines.recv() => match line {
                        Some(line) => Ok(Read::Line(line.map_err(cannot_read)?)),
                        None => Ok(Read::End),
                    },
                    _ = interrupt.recv() => Ok(Read::Stopped),
                }
            }),
        }
    }
}

/// What Ctrl-C sends, from now on.
pub(super) fn interrupts() -> io::Result<Signal> {
    signal(SignalKind::interrupt())
}

fn failure(error: ReadlineError) -> Failure {
    match error {
        ReadlineError::Io(error) => error.into(),
        error => Failure::new(Exit::Internal, format!("the terminal cannot be read: {error}")),
    }
}

fn cannot_read(error: io::Error) -> Failure {
    Failure::usage(format!("cannot read standard input: {error}"))
}

/// `None` at the end.
fn next_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let num_bytes = reader.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut bytes)?;
    if num_bytes as u64 > MAX_LINE_BYTES {
        let problem = format!("a line has more than {MAX_LINE_BYTES} bytes; put long text into a document");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    let line = String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a line is not UTF-8 text; convert it"))?;
    Ok((num_bytes > 0).then(|| line.trim_end_matches(['\n', '\r']).to_owned()))
}

/// Completes commands, and the files behind `/doc add`.
pub(super) struct Completion(FilenameCompleter);

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        if line.starts_with("/doc add ") {
            return self.0.complete_path(line, pos);
        }
        Ok((0, commands_with_prefix(line.get(..pos).unwrap_or(line))))
    }
}

fn commands_with_prefix(prefix: &str) -> Vec<Pair> {
    let names = COMMANDS.into_iter().filter(|(name, ..)| prefix.starts_with('/') && name.starts_with(prefix));
    names
        .map(|(name, arguments, _)| Pair {
            display: format!("{name}{arguments}"),
            replacement: if arguments.is_empty() { name.to_owned() } else { format!("{name} ") },
        })
        .collect()
}

impl Hinter for Completion {
    type Hint = String;
}

impl Highlighter for Completion {}

impl Validator for Completion {}

impl Helper for Completion {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_ends_and_the_last_needs_none() {
        let mut reader = &b"one\r\n\ntwo"[..];
        let lines: Vec<String> = std::iter::from_fn(|| next_line(&mut reader).unwrap()).collect();
        assert_eq!(lines, ["one", "", "two"]);
    }

    #[test]
    fn a_line_is_read_at_the_bound_and_refused_one_past_it() {
        for (num_bytes, is_read) in [(MAX_LINE_BYTES, true), (MAX_LINE_BYTES + 1, false)] {
            assert_eq!(
                next_line(&mut io::BufReader::new(io::repeat(b'a').take(num_bytes))).is_ok(),
                is_read,
                "{num_bytes}"
            );
        }
        assert!(next_line(&mut &b"\xff\n"[..]).is_err());
    }

    #[test]
    fn commands_are_completed_and_words_are_not() {
        let completed = |prefix| {
            commands_with_prefix(prefix).into_iter().map(|pair| pair.replacement).collect::<Vec<_>>()
        };
        assert_eq!(completed("/doc r"), ["/doc rm "]);
        assert_eq!(completed("/st"), ["/stats"]);
        assert_eq!(completed("/doc").len(), 4);
        assert!(completed("").is_empty() && completed("when").is_empty());
    }
}
