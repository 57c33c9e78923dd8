//! What a line of a chat means.

use std::path::PathBuf;

use crate::ui::Table;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// Nothing is asked.
    Nothing,
    /// Words for the model.
    Say(String),
    /// An order to the program.
    Do(Command),
}

/// What a line that starts with `/` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// A document more.
    AddDocument(DocumentSource),
    /// One less, by its number in the list, from 1.
    RemoveDocument(usize),
    /// The list of documents.
    Documents,
    /// Tokens and times.
    Stats,
    /// Forget what was said.
    Clear,
    /// The commands.
    Help,
    /// The end.
    Quit,
}

/// Where the text of a document comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DocumentSource {
    /// A file, or a folder of them.
    Path(PathBuf),
    /// The next lines.
    Typed {
        /// Empty for none.
        title: String,
    },
}

/// The commands as they are typed, for help and completion.
pub(super) const COMMANDS: [(&str, &str, &str); 8] = [
    ("/doc add", " FILE", "add a text file, or the .txt and .md files of a folder, as documents"),
    ("/doc add -", " [TITLE]", "add the next lines, up to one with only a dot, as a document"),
    ("/doc rm", " N", "remove document N of the list"),
    ("/docs", "", "list the documents"),
    ("/stats", "", "tokens computed and reused, times"),
    ("/clear", "", "forget the conversation, keep the documents"),
    ("/help", "", "this list"),
    ("/quit", "", "end, as Ctrl-D does; Ctrl-C cancels an answer"),
];

/// One line per command.
pub(super) fn help() -> Vec<String> {
    let mut table = Table::new(&["command", "what it does"]);
    for (name, arguments, what) in COMMANDS {
        table.row([format!("{name}{arguments}"), what.to_owned()]);
    }
    table.lines()
}

/// Reads a line; the error says what to type instead.
pub(super) fn parse(line: &str) -> Result<Line, String> {
    let line = line.trim();
    let Some(command) = line.strip_prefix('/') else {
        return Ok(if line.is_empty() { Line::Nothing } else { Line::Say(line.to_owned()) });
    };
    let (word, rest) = split(command);
    let command = match (word, rest) {
        ("doc", rest) => document(rest)?,
        ("docs", "") => Command::Documents,
        ("stats", "") => Command::Stats,
        ("clear", "") => Command::Clear,
        ("help", "") => Command::Help,
        ("quit" | "exit", "") => Command::Quit,
        ("docs" | "stats" | "clear" | "help" | "quit" | "exit", rest) => {
            return Err(format!("/{word} takes no argument, but {rest:?} follows it; leave it out"));
        }
        _ => return Err(format!("/{word} is no command; /help lists them")),
    };
    Ok(Line::Do(command))
}

fn document(rest: &str) -> Result<Command, String> {
    match split(rest) {
        ("add", "") => Err("/doc add needs a file, a folder or `-`".to_owned()),
        ("add", source) => match split(source) {
            ("-", title) => Ok(Command::AddDocument(DocumentSource::Typed { title: title.to_owned() })),
            _ => Ok(Command::AddDocument(DocumentSource::Path(path(source)))),
        },
        ("rm", number) => number
            .parse()
            .map(Command::RemoveDocument)
            .map_err(|_| format!("/doc rm needs a number of the list, not {number:?}; /docs lists them")),
        _ => Err("write `/doc add FILE`, `/doc add -` or `/doc rm N`".to_owned()),
    }
}

/// No shell is there to do this.
fn path(text: &str) -> PathBuf {
    match (text.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    }
}

/// The first word, and the rest without white space around it.
fn split(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_words_for_the_model_or_commands() {
        let add = |source| Ok(Line::Do(Command::AddDocument(source)));
        let typed = |title: &str| DocumentSource::Typed { title: title.to_owned() };
        let cases = [
            ("  ", Ok(Line::Nothing)),
            (" When? ", Ok(Line::Say("When?".to_owned()))),
            ("/docs ", Ok(Line::Do(Command::Documents))),
            ("/doc rm 2", Ok(Line::Do(Command::RemoveDocument(2)))),
            ("/doc add a b.txt", add(DocumentSource::Path("a b.txt".into()))),
            ("/doc add -", add(typed(""))),
            ("/doc  add  - Night boat", add(typed("Night boat"))),
            ("/exit", Ok(Line::Do(Command::Quit))),
        ];
        for (line, meaning) in cases {
            assert_eq!(parse(line), meaning, "{line}");
        }
    }

    #[test]
    fn what_is_no_command_says_what_to_type_instead() {
        for (line, words) in [
            ("/dcos", "/help"),
            ("/", "/help"),
            ("/doc", "/doc add FILE"),
            ("/doc add", "needs a file"),
            ("/doc rm", "/docs lists them"),
            ("/doc rm -1", "/docs lists them"),
            ("/clear all", "takes no argument"),
        ] {
            assert!(parse(line).unwrap_err().contains(words), "{line}");
        }
    }

    #[test]
    fn help_names_every_command_that_is_understood() {
        for (name, arguments, _) in COMMANDS {
            let example = arguments.replace(" FILE", " a").replace(" N", " 1").replace(" [TITLE]", "");
            assert!(matches!(parse(&format!("{name}{example}")), Ok(Line::Do(_))), "{name}");
        }
    }
}
