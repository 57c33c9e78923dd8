//! What was said, the documents it was said about, and the request for the next answer.

use std::collections::VecDeque;

use lazy_attn_proto::v1::{self, CacheOutcome};
use lazy_attn_server::convert::Limits;
use lazy_attn_text::BlockTemplate;

use crate::documents::TextDocument;
use crate::exit::Failure;
use crate::prompt::{document_part, text_part};
use crate::ui::Table;

/// Turns that are sent again with the next question; earlier ones fall out.
const MAX_TURNS: usize = 100;

/// What every request of a chat has.
#[derive(Debug)]
pub(super) struct Options {
    /// Instructions to the model.
    pub(super) system: Option<String>,
    pub(super) exactness: v1::Exactness,
    pub(super) placement: v1::DocumentPlacement,
    pub(super) sampling: v1::SamplingOptions,
    pub(super) stopping: v1::StoppingOptions,
}

/// A conversation about documents.
#[derive(Debug)]
pub(super) struct Conversation {
    options: Options,
    documents: Vec<ChatDocument>,
    turns: VecDeque<Turn>,
}

#[derive(Debug)]
struct ChatDocument {
    content: TextDocument,
    /// Tokens and cache outcome in the last answer that used it.
    seen: Option<(u32, CacheOutcome)>,
}

impl ChatDocument {
    fn part(&self) -> v1::Part {
        document_part(self.content.title.clone(), self.content.text.clone())
    }
}

#[derive(Debug)]
struct Turn {
    question: String,
    answer: String,
}

impl Conversation {
    pub(super) fn new(options: Options) -> Conversation {
        Conversation { options, documents: Vec::new(), turns: VecDeque::new() }
    }

    /// Adds a document behind the others and returns its number.
    ///
    /// # Errors
    /// [`Exit::Usage`](crate::exit::Exit) past the bound of a request.
    pub(super) fn add(&mut self, content: TextDocument) -> Result<usize, Failure> {
        let max = Limits::default().max_documents;
        if self.documents.len() == max {
            return Err(Failure::usage(format!("a chat has at most {max} documents; remove one first")));
        }
        self.documents.push(ChatDocument { content, seen: None });
        Ok(self.documents.len())
    }

    /// Removes document `number`, from 1, and returns its title.
    ///
    /// # Errors
    /// [`Exit::Usage`](crate::exit::Exit) if there is none of that number.
    pub(super) fn remove(&mut self, number: usize) -> Result<String, Failure> {
        let num_documents = self.documents.len();
        let index = number.checked_sub(1).filter(|&index| index < num_documents).ok_or_else(|| {
            Failure::usage(format!("there is no document {number} among {num_documents}; /docs lists them"))
        })?;
        Ok(self.documents.remove(index).content.title)
    }

    /// Forgets what was said.
    pub(super) fn clear(&mut self) {
        self.turns.clear();
    }

    /// The request for an answer to `question`.
    pub(super) fn request(&self, question: &str) -> v1::GenerateRequest {
        let default_system = (!self.documents.is_empty()).then_some(BlockTemplate::QUESTION_SYSTEM);
        let system = self.options.system.as_deref().or(default_system);
        let turns = self.turns.iter().flat_map(|turn| {
            [(v1::Role::User, self.wording(&turn.question)), (v1::Role::Assistant, turn.answer.clone())]
        });
        let messages = system
            .map(|system| (v1::Role::System, system.to_owned()))
            .into_iter()
            .chain(turns)
            .chain([(v1::Role::User, self.wording(question))])
            .map(|(role, text)| message(role, text));
        let chat = v1::Chat {
            messages: messages.collect(),
            documents: self.documents.iter().map(ChatDocument::part).collect(),
        };
        v1::GenerateRequest {
            chat: Some(chat),
            exactness: Some(self.options.exactness),
            placement: self.options.placement.into(),
            sampling: Some(self.options.sampling.clone()),
            stopping: Some(self.options.stopping.clone()),
            ..v1::GenerateRequest::default()
        }
    }

    /// Block-tuned models saw questions behind documents in these words.
    fn wording(&self, question: &str) -> String {
        if self.documents.is_empty() { question.to_owned() } else { format!("Question: {question}") }
    }

    /// Remembers a turn, and how its documents were found.
    pub(super) fn answered(&mut self, question: &str, response: &v1::CollectedResponse) {
        let parts: Vec<_> = response.parts.iter().filter(|part| !part.document_key.is_empty()).collect();
        if parts.len() == self.documents.len() {
            for (document, part) in self.documents.iter_mut().zip(parts) {
                document.seen = Some((part.token_count, part.outcome()));
            }
        }
        // A message must not be empty.
        if response.text.is_empty() {
            return;
        }
        if self.turns.len() == MAX_TURNS {
            self.turns.pop_front();
        }
        self.turns.push_back(Turn { question: question.to_owned(), answer: response.text.clone() });
    }

    /// One line per document.
    pub(super) fn document_lines(&self) -> Vec<String> {
        if self.documents.is_empty() {
            return vec!["no documents; `/doc add FILE` adds one".to_owned()];
        }
        let mut table = Table::new(&["n", "tokens", "last answer", "title"]);
        for (index, document) in self.documents.iter().enumerate() {
            let (tokens, outcome) = match document.seen {
                Some((num_tokens, outcome)) => (num_tokens.to_string(), outcome_word(outcome)),
                None => (String::new(), "not used yet"),
            };
            let title = document.content.title.clone();
            table.row([(index + 1).to_string(), tokens, outcome.to_owned(), title]);
        }
        table.lines()
    }
}

fn outcome_word(outcome: CacheOutcome) -> &'static str {
    match outcome {
        CacheOutcome::Hit => "reused",
        CacheOutcome::Joined => "shared",
        CacheOutcome::Reencoded => "re-encoded",
        CacheOutcome::Miss => "computed",
        CacheOutcome::Unspecified => "unknown",
    }
}

fn message(role: v1::Role, text: String) -> v1::Message {
    v1::Message { role: role.into(), content: vec![text_part(text)] }
}

#[cfg(test)]
mod tests {
    use lazy_attn_proto::v1::part;

    use super::*;

    fn conversation() -> Conversation {
        Conversation::new(Options {
            system: None,
            exactness: v1::Exactness::default(),
            placement: v1::DocumentPlacement::Unspecified,
            sampling: v1::SamplingOptions::default(),
            stopping: v1::StoppingOptions::default(),
        })
    }

    fn document(title: &str) -> TextDocument {
        TextDocument { title: title.to_owned(), text: "text".to_owned() }
    }

    fn answer(text: &str) -> v1::CollectedResponse {
        v1::CollectedResponse { text: text.to_owned(), ..v1::CollectedResponse::default() }
    }

    fn texts(request: v1::GenerateRequest) -> Vec<String> {
        let messages = request.chat.unwrap().messages;
        messages
            .into_iter()
            .flat_map(|message| message.content)
            .map(|part| match part.part {
                Some(part::Part::Text(text)) => text,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn earlier_turns_come_again_until_they_are_cleared() {
        let mut chat = conversation();
        chat.answered("One?", &answer("1"));
        chat.answered("Silence?", &answer(""));
        assert_eq!(texts(chat.request("Two?")), ["One?", "1", "Two?"]);
        chat.clear();
        assert_eq!(texts(chat.request("Two?")), ["Two?"]);
    }

    #[test]
    fn documents_bring_the_words_that_block_tuned_models_know() {
        let mut chat = conversation();
        chat.add(document("Harbour")).unwrap();
        let request = chat.request("When?");
        assert_eq!(request.chat.as_ref().unwrap().documents.len(), 1);
        assert_eq!(texts(request), [BlockTemplate::QUESTION_SYSTEM, "Question: When?"]);
    }

    #[test]
    fn documents_and_turns_hold_at_their_bounds_and_one_past_them() {
        let mut chat = conversation();
        let max = Limits::default().max_documents;
        for number in 1..=max {
            assert_eq!(chat.add(document(&format!("d{number}"))).unwrap(), number);
        }
        assert!(chat.add(document("one too many")).is_err());
        assert!(chat.remove(0).is_err() && chat.remove(max + 1).is_err());
        assert_eq!(chat.remove(2).unwrap(), "d2");
        for turn in 0..=MAX_TURNS {
            chat.answered(&turn.to_string(), &answer("yes"));
        }
        let texts = texts(chat.request("last?"));
        assert_eq!((texts.len(), texts[1].as_str()), (2 * MAX_TURNS + 2, "Question: 1"));
    }
}
