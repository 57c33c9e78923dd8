//! Question sets from files: one JSON value, or several one after the other (JSON lines), gzipped or not.
//!
//! The layout is told by the keys of an entry, so a file needs no label:
//!
//! | keys | layout |
//! |---|---|
//! | `docs` | rows of this project: `{docs: [{title, text}], question, answers, gold_doc_index}` |
//! | `paragraphs` | SQuAD 1.1, 2.0, XQuAD: an article, also inside `{data: [..]}` |
//! | `supporting_facts` | HotpotQA and 2WikiMultihopQA, also in an array |
//! | `ctxs` | natural questions over several documents ("Lost in the Middle") |
//! | `input`, `context` | LongBench |

mod layouts;
mod longbench;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde_json::{Deserializer, Value};

use crate::{EvalError, Question};

/// Most bytes of a file after unpacking.
pub const MAX_BYTES: u64 = 1 << 30;

/// The first `limit` questions of the file at `path`. Questions without a right answer are left out.
///
/// # Errors
/// [`EvalError::Read`], [`EvalError::TooLarge`], [`EvalError::Entry`] for the first entry that is not in a known layout,
/// [`EvalError::Empty`] if no question was found.
pub fn read(path: &Path, limit: usize) -> Result<Vec<Question>, EvalError> {
    let name = path.display().to_string();
    let bytes = unpacked(path).map_err(|source| EvalError::Read { path: name.clone(), source })?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(EvalError::TooLarge { path: name, max_bytes: MAX_BYTES });
    }
    parse(&bytes, &name, limit)
}

/// Up to one byte more than [`MAX_BYTES`].
fn unpacked(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = BufReader::new(File::open(path)?);
    let mut bytes = Vec::new();
    if path.extension().is_some_and(|extension| extension == "gz") {
        MultiGzDecoder::new(file).take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    } else {
        file.by_ref().take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// The first `limit` questions of `bytes`, which came from `path`.
///
/// # Errors
/// As of [`read`].
pub fn parse(bytes: &[u8], path: &str, limit: usize) -> Result<Vec<Question>, EvalError> {
    let mut found = Found { path, limit, num_entries: 0, questions: Vec::new() };
    for value in Deserializer::from_slice(bytes).into_iter::<Value>() {
        if found.is_full() {
            break;
        }
        let value = value.map_err(|error| found.problem(format!("it is not JSON: {error}")))?;
        found.take(value)?;
    }
    let Found { mut questions, .. } = found;
    questions.truncate(limit);
    if questions.is_empty() {
        return Err(EvalError::Empty { path: path.to_owned() });
    }
    Ok(questions)
}

struct Found<'a> {
    path: &'a str,
    limit: usize,
    num_entries: usize,
    questions: Vec<Question>,
}

impl Found<'_> {
    fn is_full(&self) -> bool {
        self.questions.len() >= self.limit
    }

    /// A value of the file: an entry, or a list of entries.
    fn take(&mut self, value: Value) -> Result<(), EvalError> {
        let entries = match value {
            Value::Array(entries) => entries,
            Value::Object(mut object) => match object.remove("data") {
                Some(Value::Array(entries)) => entries,
                _ => vec![Value::Object(object)],
            },
            other => vec![other],
        };
        for entry in entries {
            if self.is_full() {
                break;
            }
            let mut questions = questions_of(entry).map_err(|problem| self.problem(problem))?;
            questions.retain(|question| question.answers.iter().any(|answer| !answer.trim().is_empty()));
            self.questions.append(&mut questions);
            self.num_entries += 1;
        }
        Ok(())
    }

    fn problem(&self, problem: String) -> EvalError {
        EvalError::Entry { path: self.path.to_owned(), entry: self.num_entries + 1, problem }
    }
}

fn questions_of(entry: Value) -> Result<Vec<Question>, String> {
    let has = |key: &str| entry.get(key).is_some();
    let questions = if has("docs") {
        serde_json::from_value::<layouts::Row>(entry).map(|row| vec![row.into()])
    } else if has("paragraphs") {
        serde_json::from_value::<layouts::Article>(entry).map(layouts::Article::questions)
    } else if has("ctxs") {
        serde_json::from_value::<layouts::Retrieved>(entry).map(|row| vec![row.into()])
    } else if has("supporting_facts") {
        serde_json::from_value::<layouts::Hops>(entry).map(|row| vec![row.into()])
    } else if has("input") && has("context") {
        serde_json::from_value::<longbench::Task>(entry).map(|row| vec![row.into()])
    } else {
        let keys = entry.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>().join(", "));
        let keys = keys.unwrap_or_else(|| "none: it is no object".to_owned());
        return Err(format!("its keys ({keys}) are of no known layout; give rows with `docs`"));
    };
    questions.map_err(|error| error.to_string())
}
