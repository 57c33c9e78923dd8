//! The prompt of a question over documents, as separate parts.
//!
//! Block-tuned models see one user message that holds every document and then the question. The text is cut at fixed
//! places, so that each document is a part of its own whose tokens depend on nothing else.

use crate::chat::{ChatInput, ChatMessage, ChatTemplate};
use crate::error::TextError;

/// A document as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Document<'a> {
    /// Its title, if it has one.
    pub title: Option<&'a str>,
    /// Its text.
    pub text: &'a str,
}

/// The parts of a prompt, each to be tokenised alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockPrompt {
    /// Text before the documents.
    pub system: String,
    /// One part per document.
    pub documents: Vec<String>,
    /// Text after the documents: the question and the opening of the answer.
    pub question: String,
}

/// Where system text, documents and question go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockTemplate {
    before_system: String,
    before_documents: String,
    after_question: String,
}

/// Stands for the system text while a chat template is cut; no template writes it itself.
const SYSTEM_MARK: &str = "lazy-attn-system-mark";
/// Stands for documents and question while a chat template is cut.
const USER_MARK: &str = "lazy-attn-user-mark";

impl BlockTemplate {
    /// The system text block-tuned models were trained with for questions.
    pub const QUESTION_SYSTEM: &'static str = "Answer the question with a short phrase from the documents.";

    /// The template of ChatML models, the embedded one among them.
    #[must_use]
    pub fn chatml() -> BlockTemplate {
        BlockTemplate {
            before_system: "<|im_start|>system\n".into(),
            before_documents: "<|im_end|>\n<|im_start|>user\n".into(),
            after_question: "<|im_end|>\n<|im_start|>assistant\n".into(),
        }
    }

    /// Cuts a model's chat template: the documents and the question are its user message.
    ///
    /// A template without a system role gets the system text at the start of its user message.
    ///
    /// # Errors
    /// [`TextError::Template`] if the template does not render, or does not write its messages verbatim.
    pub fn from_chat(chat: &ChatTemplate, now_unix_seconds: u64) -> Result<BlockTemplate, TextError> {
        let system = ChatMessage { role: "system", content: SYSTEM_MARK };
        let user = ChatMessage { role: "user", content: USER_MARK };
        let input = ChatInput { now_unix_seconds, ..ChatInput::default() };
        if let Ok(rendered) = chat.render(&ChatInput { messages: &[system, user], ..input })
            && let Some((before, after_question)) = rendered.split_once(USER_MARK)
            && let Some((before_system, before_documents)) = before.split_once(SYSTEM_MARK)
        {
            return Ok(BlockTemplate {
                before_system: before_system.into(),
                before_documents: before_documents.into(),
                after_question: after_question.into(),
            });
        }
        let rendered = chat.render(&ChatInput { messages: &[user], ..input })?;
        let Some((before_system, after_question)) = rendered.split_once(USER_MARK) else {
            return Err(TextError::Template {
                line: None,
                problem: "it does not write a user message verbatim, so documents cannot be placed in it"
                    .into(),
            });
        };
        Ok(BlockTemplate {
            before_system: before_system.into(),
            before_documents: "\n\n".into(),
            after_question: after_question.into(),
        })
    }

    /// The part before the documents.
    #[must_use]
    pub fn system_part(&self, system: &str) -> String {
        format!("{}{system}{}", self.before_system, self.before_documents)
    }

    /// The part of one document: `Title: {title}\n{text}\n\n`, or `{text}\n\n` without a title, each on one line.
    #[must_use]
    pub fn document_part(&self, document: &Document<'_>) -> String {
        let text = one_line(document.text);
        match document.title.map(one_line).filter(|title| !title.is_empty()) {
            Some(title) => format!("Title: {title}\n{text}\n\n"),
            None => format!("{text}\n\n"),
        }
    }

    /// The part after the documents, for a user text that is not a question.
    #[must_use]
    pub fn user_part(&self, user: &str) -> String {
        format!("{user}{}", self.after_question)
    }

    /// The part after the documents: `Question: {question}` and the opening of the answer.
    #[must_use]
    pub fn question_part(&self, question: &str) -> String {
        self.user_part(&format!("Question: {question}"))
    }

    /// All parts of a question over `documents`.
    #[must_use]
    pub fn prompt(&self, system: &str, documents: &[Document<'_>], question: &str) -> BlockPrompt {
        BlockPrompt {
            system: self.system_part(system),
            documents: documents.iter().map(|document| self.document_part(document)).collect(),
            question: self.question_part(question),
        }
    }
}

/// `text` without line breaks: white space that holds one becomes a single space, and the ends are trimmed.
fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let lines = text.split(is_line_break).map(str::trim).filter(|line| !line.is_empty());
    for line in lines {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(line);
    }
    out
}

fn is_line_break(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{B}' | '\u{C}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chat::TemplateTokens;

    fn from_chat(source: &str) -> Result<BlockTemplate, TextError> {
        BlockTemplate::from_chat(&ChatTemplate::new(source, TemplateTokens::default())?, 0)
    }

    const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    #[test]
    fn the_parts_are_those_the_block_tuned_models_saw() {
        let documents = [
            Document { title: Some("Harbour"), text: "The pilot boat\nleaves at six." },
            Document { title: None, text: "Ferries run daily.\n" },
        ];
        let prompt = BlockTemplate::chatml().prompt(BlockTemplate::QUESTION_SYSTEM, &documents, "When?");
        assert_eq!(
            prompt.system,
            "<|im_start|>system\nAnswer the question with a short phrase from the documents.<|im_end|>\n\
             <|im_start|>user\n"
        );
        assert_eq!(
            prompt.documents,
            ["Title: Harbour\nThe pilot boat leaves at six.\n\n", "Ferries run daily.\n\n"]
        );
        assert_eq!(prompt.question, "Question: When?<|im_end|>\n<|im_start|>assistant\n");
    }

    #[test]
    fn cutting_a_chatml_template_gives_the_chatml_parts() {
        assert_eq!(from_chat(CHATML).unwrap(), BlockTemplate::chatml());
    }

    #[test]
    fn a_template_without_a_system_role_carries_it_in_the_user_message() {
        let source = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}\
            [INST] {{ messages[0].content }} [/INST]";
        let template = from_chat(source).unwrap();
        assert_eq!(template.system_part("Be brief."), "[INST] Be brief.\n\n");
        assert_eq!(template.user_part("Hi"), "Hi [/INST]");
    }

    #[test]
    fn a_template_that_hides_the_message_is_refused() {
        assert!(matches!(from_chat("nothing"), Err(TextError::Template { .. })));
    }

    proptest! {
        #[test]
        fn a_document_is_at_most_a_title_line_and_a_text_line(title in ".{0,9}|[a\n\r]{0,9}", text in "[a \n\t\r\u{2028}é]{0,40}") {
            let part = BlockTemplate::chatml().document_part(&Document { title: Some(&title), text: &text });
            let body = part.strip_suffix("\n\n").unwrap();
            let has_title = body.starts_with("Title: ");
            prop_assert_eq!(body.matches(is_line_break).count(), usize::from(has_title));
        }

        #[test]
        fn text_already_on_one_line_is_only_trimmed(text in "[a-z ]{0,40}") {
            prop_assert_eq!(one_line(&text), text.trim());
        }
    }
}
