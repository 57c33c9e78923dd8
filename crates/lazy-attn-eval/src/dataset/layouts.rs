//! The layouts of question sets over given documents. Fields that are not needed are not read.

use serde::Deserialize;

use crate::{Question, SourceDocument};

/// A row of this project.
#[derive(Deserialize)]
pub(super) struct Row {
    docs: Vec<RowDocument>,
    question: String,
    answers: Vec<String>,
    #[serde(default)]
    gold_doc_index: Vec<usize>,
    #[serde(default)]
    classes: Vec<String>,
    /// What made it.
    #[serde(default, alias = "src")]
    group: String,
}

#[derive(Deserialize)]
struct RowDocument {
    #[serde(default)]
    title: String,
    text: String,
}

impl From<RowDocument> for SourceDocument {
    fn from(RowDocument { title, text }: RowDocument) -> SourceDocument {
        SourceDocument { title, text }
    }
}

impl From<Row> for Question {
    fn from(row: Row) -> Question {
        let Row { docs, question, answers, gold_doc_index: gold, classes, group } = row;
        let documents = docs.into_iter().map(SourceDocument::from).collect();
        Question { documents, text: question, answers, gold, classes, group }
    }
}

/// An article of SQuAD. Each question is asked over its own paragraph.
#[derive(Deserialize)]
pub(super) struct Article {
    #[serde(default)]
    title: String,
    paragraphs: Vec<Paragraph>,
}

#[derive(Deserialize)]
struct Paragraph {
    context: String,
    qas: Vec<Asked>,
}

#[derive(Deserialize)]
struct Asked {
    question: String,
    /// Empty if it cannot be answered (SQuAD 2.0).
    answers: Vec<Span>,
}

#[derive(Deserialize)]
struct Span {
    text: String,
}

impl Article {
    pub(super) fn questions(self) -> Vec<Question> {
        let title = self.title.replace('_', " ");
        let of_paragraph = |Paragraph { context, qas }: Paragraph| {
            let document = SourceDocument { title: title.clone(), text: context };
            let question = move |Asked { question, answers }: Asked| Question {
                documents: vec![document.clone()],
                text: question,
                answers: answers.into_iter().map(|span| span.text).collect(),
                gold: vec![0],
                ..Question::default()
            };
            qas.into_iter().map(question).collect::<Vec<_>>()
        };
        self.paragraphs.into_iter().flat_map(of_paragraph).collect()
    }
}

/// A question of HotpotQA or 2WikiMultihopQA, as published or as a table of columns.
#[derive(Deserialize)]
pub(super) struct Hops {
    question: String,
    answer: String,
    context: GivenDocuments,
    supporting_facts: Facts,
    #[serde(default, rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum GivenDocuments {
    /// `[title, [sentence, ..]]` each.
    Pairs(Vec<(String, Vec<String>)>),
    Columns {
        title: Vec<String>,
        sentences: Vec<Vec<String>>,
    },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Facts {
    /// `[title, index of the sentence]` each.
    Pairs(Vec<(String, i64)>),
    Columns {
        title: Vec<String>,
    },
}

impl From<Hops> for Question {
    fn from(hops: Hops) -> Question {
        let documents = match hops.context {
            GivenDocuments::Pairs(pairs) => pairs,
            GivenDocuments::Columns { title, sentences } => title.into_iter().zip(sentences).collect(),
        };
        let supporting: Vec<String> = match hops.supporting_facts {
            Facts::Pairs(pairs) => pairs.into_iter().map(|(title, _)| title).collect(),
            Facts::Columns { title } => title,
        };
        let holds = documents.iter().enumerate().filter(|(_, (title, _))| supporting.contains(title));
        let gold = holds.map(|(index, _)| index).collect();
        let document = |(title, sentences): (String, Vec<String>)| {
            // HotpotQA keeps the space in front of a sentence, 2WikiMultihopQA does not.
            let sentences: Vec<&str> = sentences.iter().map(|sentence| sentence.trim()).collect();
            SourceDocument { title, text: sentences.join(" ") }
        };
        Question {
            documents: documents.into_iter().map(document).collect(),
            text: hops.question,
            answers: vec![hops.answer],
            gold,
            group: hops.kind,
            ..Question::default()
        }
    }
}

/// A question with documents that were retrieved for it.
#[derive(Deserialize)]
pub(super) struct Retrieved {
    question: String,
    answers: Vec<String>,
    ctxs: Vec<RetrievedDocument>,
}

#[derive(Deserialize)]
struct RetrievedDocument {
    #[serde(default)]
    title: String,
    text: String,
    #[serde(default)]
    isgold: bool,
}

impl From<Retrieved> for Question {
    fn from(Retrieved { question, answers, ctxs }: Retrieved) -> Question {
        let gold = ctxs.iter().enumerate().filter(|(_, document)| document.isgold);
        let gold: Vec<usize> = gold.map(|(index, _)| index).collect();
        // The files of one question set differ only in where the answering document stands.
        let group = gold.first().map(|at| format!("gold at {at}")).unwrap_or_default();
        let document =
            |RetrievedDocument { title, text, .. }: RetrievedDocument| SourceDocument { title, text };
        let documents = ctxs.into_iter().map(document).collect();
        Question { documents, text: question, answers, gold, group, ..Question::default() }
    }
}
