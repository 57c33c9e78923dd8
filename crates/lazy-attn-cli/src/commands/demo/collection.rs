//! The bundled documents and questions.

use std::path::Path;

use serde::Deserialize;

use crate::documents::{TextDocument, title_of};
use crate::exit::{Exit, Failure};

macro_rules! documents {
    ($($file:literal),+ $(,)?) => {
        [$(($file, include_str!(concat!("../../../assets/demo/", $file)))),+]
    };
}

/// File name and text of each document.
const DOCUMENTS: [(&str, &str); 10] = documents![
    "Saltwick.txt",
    "Gull-Rock-Lighthouse.txt",
    "MV-Swallow.txt",
    "Hill-Boats.txt",
    "Saltwick-Otters.txt",
    "The-Winter-Lamp.txt",
    "Mill-Street-Bakery.txt",
    "Storm-Hill.txt",
    "Elm-Valley-Railway.txt",
    "Customs-House.txt",
];

const QUESTIONS: &str = include_str!("../../../assets/demo/questions.json");

/// A question and the answers that are right.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Question {
    pub(super) question: String,
    answers: Vec<String>,
}

impl Question {
    /// Whether `answer` is one of the right ones, whatever its case and punctuation.
    pub(super) fn accepts(&self, answer: &str) -> bool {
        self.answers.iter().any(|right| plain(right) == plain(answer))
    }
}

/// What the demo asks about.
#[derive(Debug)]
pub(super) struct Collection {
    pub(super) documents: Vec<TextDocument>,
    pub(super) questions: Vec<Question>,
}

impl Collection {
    pub(super) fn bundled() -> Result<Collection, Failure> {
        let questions = serde_json::from_str(QUESTIONS)
            .map_err(|error| Failure::new(Exit::Internal, format!("questions.json: {error}")))?;
        let document =
            |(file, text): (&str, &str)| TextDocument { title: title_of(Path::new(file)), text: text.into() };
        Ok(Collection { documents: DOCUMENTS.map(document).into(), questions })
    }
}

/// Lower-case words without punctuation.
fn plain(text: &str) -> String {
    let words: String =
        text.to_lowercase().chars().map(|c| if c.is_alphanumeric() { c } else { ' ' }).collect();
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_right_whatever_its_case_and_punctuation_but_not_with_more_words() {
        let question = Question { question: String::new(), answers: vec!["Half past eight".into()] };
        assert!(question.accepts(" half past eight.\n"));
        assert!(
            !question.accepts("at half past eight")
                && !question.accepts("half past")
                && !question.accepts("")
        );
    }

    #[test]
    fn every_answer_stands_in_a_document() {
        let collection = Collection::bundled().unwrap();
        assert!(!collection.questions.is_empty());
        for question in &collection.questions {
            for answer in &question.answers {
                let stands = collection.documents.iter().any(|d| plain(&d.text).contains(&plain(answer)));
                assert!(stands, "{answer:?} stands in no document");
            }
        }
    }
}
