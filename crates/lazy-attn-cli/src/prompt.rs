//! Prompts from questions and conversations, with the templates of the loaded model.

use std::time::{SystemTime, UNIX_EPOCH};

use lazy_attn_engine::{Part, PartContent};
use lazy_attn_proto::v1::{self, inline_document, part};
use lazy_attn_server::convert::{ChatPrompt, ChatRenderer, ChatRole, TitledDocument};
use lazy_attn_text::{
    BlockTemplate, ChatInput, ChatMessage, ChatTemplate, Document, GenerationPrompt, TemplateTokens,
    TextError, Tokenizer,
};
use lazy_attn_types::SpecialTokens;

use crate::documents::TextDocument;
use crate::exit::{Exit, Failure};

/// Stands for the last message while a conversation is cut in front of it.
const LAST_MESSAGE_MARK: &str = "lazyattn-last-message-mark";

/// What the model's template allows.
#[derive(Debug)]
pub(crate) struct Templates {
    /// For questions over documents, and why it is missing.
    block: Result<BlockTemplate, String>,
    /// For conversations, and why it is missing.
    chat: Result<ChatTemplate, String>,
}

impl Templates {
    /// The templates of a model; a model without one gets that of ChatML if it has its tokens.
    pub(crate) fn new(special: &SpecialTokens, tokenizer: &Tokenizer) -> Templates {
        let chat = match &special.chat_template {
            Some(source) => compile(source, special, tokenizer).map_err(|error| error.to_string()),
            None => Err("the model has no chat template".to_owned()),
        };
        let block = match &chat {
            Ok(chat) => BlockTemplate::from_chat(chat, now_unix_seconds()).map_err(|error| error.to_string()),
            Err(_) if tokenizer.token_id("<|im_start|>").is_some() => Ok(BlockTemplate::chatml()),
            Err(problem) => Err(problem.clone()),
        };
        Templates { block, chat }
    }

    /// The template of questions over documents.
    ///
    /// # Errors
    /// [`Exit::Model`] if the model has none.
    pub(crate) fn block_template(&self) -> Result<&BlockTemplate, Failure> {
        self.block.as_ref().map_err(|problem| {
            Failure::new(Exit::Model, format!("{problem}; write the prompt yourself with `generate`"))
        })
    }

    /// The parts of a question over documents.
    ///
    /// # Errors
    /// [`Exit::Model`] if the model has no template for it.
    pub(crate) fn question_parts(
        &self,
        system: Option<&str>,
        documents: &[TextDocument],
        question: &str,
    ) -> Result<Vec<v1::Part>, Failure> {
        let template = self.block_template()?;
        let inputs: Vec<Document<'_>> = documents
            .iter()
            .map(|document| Document { title: Some(&document.title), text: &document.text })
            .collect();
        let prompt = template.prompt(system.unwrap_or(BlockTemplate::QUESTION_SYSTEM), &inputs, question);
        let titles = documents.iter().map(|document| document.title.clone());
        let documents = titles.zip(prompt.documents).map(|(title, text)| document_part(title, text));
        Ok([text_part(prompt.system)]
            .into_iter()
            .chain(documents)
            .chain([text_part(prompt.question)])
            .collect())
    }

    fn chat_parts(&self, prompt: &ChatPrompt) -> Result<Vec<Part>, String> {
        let chat =
            self.chat.as_ref().map_err(|problem| format!("cannot be rendered: {problem}; give parts"))?;
        if prompt.messages.iter().any(|message| message.text.contains(LAST_MESSAGE_MARK)) {
            return Err(format!("contains the reserved text {LAST_MESSAGE_MARK:?}; change it"));
        }
        let Some((last, earlier)) = prompt.messages.split_last() else {
            return Err("has no message; give one".to_owned());
        };
        let mut messages: Vec<ChatMessage<'_>> = earlier
            .iter()
            .map(|message| ChatMessage { role: role_name(message.role), content: &message.text })
            .collect();
        messages.push(ChatMessage { role: role_name(last.role), content: LAST_MESSAGE_MARK });
        let input = ChatInput {
            messages: &messages,
            documents: &[],
            generation_prompt: GenerationPrompt::Open,
            now_unix_seconds: now_unix_seconds(),
        };
        let rendered = chat.render(&input).map_err(|error| format!("cannot be rendered: {error}"))?;
        let Some((before, after)) = rendered.split_once(LAST_MESSAGE_MARK) else {
            return Err("cannot be rendered: the model's template does not write the last message".to_owned());
        };
        let text = |text: String| Part::Text(PartContent::Text(text));
        let mut parts = Vec::with_capacity(prompt.documents.len() + 2);
        if !before.is_empty() {
            parts.push(text(before.to_owned()));
        }
        parts.extend(prompt.documents.iter().map(|document| Part::Document(self.document(document))));
        parts.push(text(format!("{}{after}", last.text)));
        Ok(parts)
    }

    fn document(&self, document: &TitledDocument) -> PartContent {
        match (&document.content, &self.block) {
            (PartContent::Text(text), Ok(template)) => {
                PartContent::Text(template.document_part(&Document { title: Some(&document.title), text }))
            }
            (content, _) => content.clone(),
        }
    }
}

impl ChatRenderer for Templates {
    fn render(&self, prompt: &ChatPrompt) -> Result<Vec<Part>, String> {
        self.chat_parts(prompt)
    }
}

fn compile(source: &str, special: &SpecialTokens, tokenizer: &Tokenizer) -> Result<ChatTemplate, TextError> {
    let tokens = TemplateTokens::of(tokenizer, special.bos, special.end.first().copied())?;
    ChatTemplate::new(source, tokens)
}

fn role_name(role: ChatRole) -> &'static str {
    match role {
        ChatRole::System => "system",
        ChatRole::User => "user",
        ChatRole::Assistant => "assistant",
    }
}

/// A document that stands in the request.
pub(crate) fn document_part(title: String, text: String) -> v1::Part {
    v1::Part {
        part: Some(part::Part::InlineDocument(v1::InlineDocument {
            source: Some(inline_document::Source::Text(text)),
            title,
            ..v1::InlineDocument::default()
        })),
    }
}

/// Text of a prompt or a message.
pub(crate) fn text_part(text: String) -> v1::Part {
    v1::Part { part: Some(part::Part::Text(text)) }
}

/// For templates that write the date.
fn now_unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
