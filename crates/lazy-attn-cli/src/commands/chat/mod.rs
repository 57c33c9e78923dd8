//! `chat`: a conversation about documents that are computed once.
//!
//! Reading order: `line` what may be typed, `input` where it comes from, `conversation` what was said so far, `backend` who
//! answers, `answer` one answer as it comes, `report` its numbers.

mod answer;
mod backend;
mod conversation;
mod input;
mod line;
mod report;

use std::io::{IsTerminal, stderr, stdin, stdout};
use std::path::Path;

use lazy_attn_server::convert::{Limits, api_exactness};
use tokio::runtime::Runtime;
use tokio::signal::unix::Signal;

use crate::args::{ChatArgs, EngineArgs};
use crate::commands::run;
use crate::documents::{self, TextDocument};
use crate::exit::{Exit, Failure};
use crate::remote;
use crate::ui::{Out, Paint};
use answer::Ended;
use backend::Backend;
use conversation::{Conversation, Options};
use input::{Input, Read};
use line::{Command, DocumentSource, Line};
use report::Report;

/// Most tokens of an answer.
const MAX_TOKENS: u32 = 512;

pub(crate) fn chat(engine: &EngineArgs, args: &ChatArgs) -> Result<Exit, Failure> {
    let documents = documents::read_all(args.docs.as_deref(), &args.doc)?;
    let options = Options {
        system: args.system.clone(),
        exactness: api_exactness(args.exactness.rung()),
        placement: run::placement(&args.exactness),
        sampling: run::sampling(&args.sampling),
        stopping: run::stopping(&args.sampling, MAX_TOKENS),
    };
    let mut conversation = Conversation::new(options);
    for document in documents {
        conversation.add(document)?;
    }
    let runtime = remote::runtime()?;
    let backend = Backend::start(engine, &args.server, &runtime)?;
    let paint = Paint::of(&stderr());
    let is_interactive = stdin().is_terminal() && stdout().is_terminal();
    let input = if is_interactive { Input::terminal(Paint::of(&stdout()))? } else { Input::script() };
    if is_interactive {
        eprintln!("{}", paint.dim(&format!("{}; /help lists the commands, Ctrl-D ends", backend.name())));
    }
    // Not before the model is loaded, which Ctrl-C ends as usual.
    let interrupt = runtime.block_on(async { input::interrupts() })?;
    let report = Report::default();
    Chat { runtime, interrupt, backend, conversation, input, report, out: Out::new(), paint }.run()
}

/// A chat that runs.
struct Chat {
    runtime: Runtime,
    interrupt: Signal,
    backend: Backend,
    conversation: Conversation,
    input: Input,
    report: Report,
    out: Out,
    paint: Paint,
}

/// Whether the chat goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    Quit,
}

impl Chat {
    /// Reads lines until there are no more. On a terminal a mistake is told and forgotten; a script ends with it, so that
    /// nothing is built on what did not happen.
    fn run(&mut self) -> Result<Exit, Failure> {
        loop {
            let line = match self.input.read(&self.runtime, &mut self.interrupt, "> ")? {
                Read::Line(line) => line,
                Read::Interrupted => continue,
                Read::End => return Ok(Exit::Success),
                Read::Stopped => return Ok(Exit::Failed),
            };
            match self.line(&line) {
                Ok(Next::GoOn) => {}
                Ok(Next::Quit) => return Ok(Exit::Success),
                Err(failure) if self.input.is_terminal() && failure.error.is_some() => self.tell(&failure),
                Err(failure) => return Err(failure),
            }
        }
    }

    fn tell(&self, failure: &Failure) {
        if let Some(line) = failure.line() {
            eprintln!("{}", self.paint.red(&format!("error: {line}")));
        }
    }

    fn line(&mut self, line: &str) -> Result<Next, Failure> {
        match line::parse(line).map_err(Failure::usage)? {
            Line::Nothing => {}
            Line::Say(text) => self.say(&text)?,
            Line::Do(Command::Quit) => return Ok(Next::Quit),
            Line::Do(command) => self.run_command(command)?,
        }
        Ok(Next::GoOn)
    }

    fn say(&mut self, text: &str) -> Result<(), Failure> {
        let request = self.conversation.request(text);
        let answer = answer::answer(&mut self.backend, request, &mut self.out, &mut self.interrupt);
        let ended = self.runtime.block_on(answer)?;
        match ended {
            Ended::Finished(response) => {
                eprintln!("{}", self.paint.dim(&run::closing_line(&response)));
                self.conversation.answered(text, &response);
                self.report.add(&response);
            }
            Ended::Interrupted => {
                eprintln!("{}", self.paint.dim("cancelled; question and answer are forgotten"));
            }
        }
        Ok(())
    }

    fn run_command(&mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::AddDocument(source) => self.add(source)?,
            Command::RemoveDocument(number) => {
                let title = self.conversation.remove(number)?;
                self.note(&format!("removed {title:?}"));
            }
            Command::Documents => self.print(&self.conversation.document_lines())?,
            Command::Stats => self.print(&self.report.lines())?,
            Command::Clear => {
                self.conversation.clear();
                self.note("the conversation is forgotten, the documents stay");
            }
            Command::Help => self.print(&line::help())?,
            Command::Quit => {}
        }
        Ok(())
    }

    fn add(&mut self, source: DocumentSource) -> Result<(), Failure> {
        let added = match source {
            DocumentSource::Path(path) if path.is_dir() => documents::read_all(Some(&path), &[])?,
            DocumentSource::Path(path) => documents::read_all(None, &[path])?,
            DocumentSource::Typed { title } => vec![self.typed(title)?],
        };
        for document in added {
            let (title, num_bytes) = (document.title.clone(), document.text.len());
            let number = self.conversation.add(document)?;
            self.note(&format!("document {number}: {title:?}, {num_bytes} bytes"));
        }
        Ok(())
    }

    /// Lines up to one that holds only a dot, or the end of the input.
    fn typed(&mut self, title: String) -> Result<TextDocument, Failure> {
        if self.input.is_terminal() {
            self.note("write the document; a line with only a dot ends it, Ctrl-C gives it up");
        }
        let max = Limits::default().max_part_bytes;
        let mut text = String::new();
        loop {
            match self.input.read(&self.runtime, &mut self.interrupt, ". ")? {
                Read::Line(line) if line == "." => break,
                Read::Line(line) => text.extend([line.as_str(), "\n"]),
                Read::End => break,
                Read::Interrupted | Read::Stopped => return Err(Failure::usage("the document is given up")),
            }
            if text.len() > max {
                return Err(Failure::usage(format!("a document has at most {max} bytes; split it")));
            }
        }
        if text.trim().is_empty() {
            return Err(Failure::usage(
                "the document is empty: write text in front of the line with the dot",
            ));
        }
        let title = if title.is_empty() { documents::title_of(Path::new("typed")) } else { title };
        Ok(TextDocument { title, text })
    }

    /// What happened, for a person.
    fn note(&self, text: &str) {
        eprintln!("{}", self.paint.dim(text));
    }

    fn print(&mut self, lines: &[String]) -> Result<(), Failure> {
        lines.iter().try_for_each(|line| self.out.line(line))
    }
}
