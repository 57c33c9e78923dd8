//! LongBench: one long text per question, cut into the documents it was joined from.

use serde::Deserialize;

use crate::{Question, SourceDocument};

/// How the joined sets open a document: with one of these and its number, alone on a line or in front of its text.
const OPENINGS: [&str; 2] = ["Passage ", "Paragraph "];

/// A row of LongBench.
#[derive(Deserialize)]
pub(super) struct Task {
    input: String,
    context: String,
    answers: Vec<String>,
    #[serde(default)]
    all_classes: Option<Vec<String>>,
    #[serde(default)]
    dataset: String,
}

impl From<Task> for Question {
    fn from(task: Task) -> Question {
        Question {
            documents: documents(&task.context),
            text: task.input,
            answers: task.answers,
            classes: task.all_classes.unwrap_or_default(),
            group: task.dataset,
            ..Question::default()
        }
    }
}

/// The documents of `context`, numbered from 1 in order, or all of it as one document.
fn documents(context: &str) -> Vec<SourceDocument> {
    for opening in OPENINGS {
        let found = numbered(context, opening);
        if !found.is_empty() {
            return found;
        }
    }
    vec![SourceDocument { title: String::new(), text: context.trim().to_owned() }]
}

fn numbered(context: &str, opening: &str) -> Vec<SourceDocument> {
    let mut found: Vec<SourceDocument> = Vec::new();
    for line in context.lines() {
        let mark = format!("{opening}{}:", found.len() + 1);
        match (line.strip_prefix(&mark), found.last_mut()) {
            (Some(rest), _) => {
                found.push(SourceDocument { title: String::new(), text: rest.trim().to_owned() });
            }
            // The first line of a document whose opening stands alone is its title.
            (None, Some(last)) if last.title.is_empty() && last.text.is_empty() => {
                last.title = line.trim().to_owned();
            }
            (None, Some(last)) => {
                if !last.text.is_empty() {
                    last.text.push('\n');
                }
                last.text.push_str(line.trim_end());
            }
            (None, None) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(context: &str) -> Vec<(String, String)> {
        documents(context).into_iter().map(|document| (document.title, document.text)).collect()
    }

    fn pair(title: &str, text: &str) -> (String, String) {
        (title.to_owned(), text.to_owned())
    }

    #[test]
    fn joined_documents_come_apart_with_their_titles() {
        let joined = "Passage 1:\nHarbour\nThe boat.\nIt leaves.\nPassage 2:\nLamp\nWhale oil.";
        assert_eq!(pairs(joined), [pair("Harbour", "The boat.\nIt leaves."), pair("Lamp", "Whale oil.")]);
        let inline = "Paragraph 1: The boat.\n\nParagraph 2: Whale oil.";
        assert_eq!(pairs(inline), [pair("", "The boat.\n"), pair("", "Whale oil.")]);
    }

    #[test]
    fn a_text_without_openings_is_one_document() {
        assert_eq!(pairs(" Once.\nPassage 2:\nb "), [pair("", "Once.\nPassage 2:\nb")]);
    }
}
