//! The model's own Jinja template, bounded in work and output.
//!
//! A template comes with a downloaded model, so it is bounded like any input: its length, the instructions it runs and
//! what it writes. It sees no file, no environment and no clock; the time is given by the caller.

mod bounds;
mod generation_tag;
mod json;
mod strftime;

use std::io;

use lazy_attn_types::TokenId;
use minijinja::{Environment, Error, ErrorKind, Value, context};

use crate::Tokenizer;
use crate::block::Document;
use crate::error::{TextError, check_size};

/// Name of the one template of an environment.
const TEMPLATE_NAME: &str = "chat";

/// One message of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChatMessage<'a> {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: &'a str,
    /// Its text.
    pub content: &'a str,
}

/// Whether the prompt ends with the opening of the assistant's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GenerationPrompt {
    /// It does: the model answers next.
    #[default]
    Open,
    /// It ends with the last message.
    None,
}

/// What a template is rendered with.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChatInput<'a> {
    /// The conversation, in order.
    pub messages: &'a [ChatMessage<'a>],
    /// Documents, for templates that place them themselves.
    pub documents: &'a [Document<'a>],
    /// How the prompt ends.
    pub generation_prompt: GenerationPrompt,
    /// Seconds since 1970-01-01 UTC, for templates that write the date.
    pub now_unix_seconds: u64,
}

/// Texts of the special tokens that templates write themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateTokens {
    /// `bos_token`; empty if the model has none.
    pub bos: String,
    /// `eos_token`; empty if the model has none.
    pub eos: String,
}

impl TemplateTokens {
    /// The texts of `bos` and `eos` in the vocabulary of `tokenizer`.
    ///
    /// # Errors
    /// [`TextError::UnknownToken`] for an id outside the vocabulary.
    pub fn of(
        tokenizer: &Tokenizer,
        bos: Option<TokenId>,
        eos: Option<TokenId>,
    ) -> Result<TemplateTokens, TextError> {
        let text = |token: Option<TokenId>| match token {
            None => Ok(String::new()),
            Some(token) => Ok(String::from_utf8_lossy(tokenizer.token_bytes(token)?).into_owned()),
        };
        Ok(TemplateTokens { bos: text(bos)?, eos: text(eos)? })
    }
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: TemplateTokens,
}

impl ChatTemplate {
    /// Longest template.
    pub const MAX_TEMPLATE_BYTES: usize = 256 << 10;
    /// Longest rendered prompt.
    pub const MAX_OUTPUT_BYTES: usize = 64 << 20;
    /// Most messages, and most documents, of one rendering.
    pub const MAX_ITEMS: usize = 4096;
    /// Most template instructions of one rendering; a real template runs a few hundred per message.
    const FUEL: u64 = 5_000_000;

    /// Compiles `source` as Hugging Face does: blocks take their line break and indentation with them.
    ///
    /// # Errors
    /// [`TextError::TooLarge`] past [`ChatTemplate::MAX_TEMPLATE_BYTES`], [`TextError::Template`] with the line of a
    /// syntax error.
    pub fn new(source: &str, tokens: TemplateTokens) -> Result<ChatTemplate, TextError> {
        check_size("the length of the chat template in bytes", source.len(), Self::MAX_TEMPLATE_BYTES)?;
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(Self::FUEL));
        bounds::apply(&mut environment);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.add_filter("tojson", json::to_json);
        environment.add_function("raise_exception", raise_exception);
        bounds::compile(&mut environment, TEMPLATE_NAME, generation_tag::replaced(source))
            .map_err(|error| template_error(&error))?;
        Ok(ChatTemplate { environment, tokens })
    }

    /// The prompt as one text.
    ///
    /// # Errors
    /// [`TextError::Template`] if the template refuses the conversation (its own words) or runs out of its bounds,
    /// [`TextError::TooLarge`] for too many messages or too long a prompt.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String, TextError> {
        check_size("the number of messages", input.messages.len(), Self::MAX_ITEMS)?;
        check_size("the number of documents", input.documents.len(), Self::MAX_ITEMS)?;
        let now = input.now_unix_seconds;
        let messages: Value = input
            .messages
            .iter()
            .map(|message| context! { role => message.role, content => message.content })
            .collect();
        let context = context! {
            messages,
            documents => documents_value(input.documents),
            tools => (),
            add_generation_prompt => input.generation_prompt == GenerationPrompt::Open,
            bos_token => self.tokens.bos,
            eos_token => self.tokens.eos,
            strftime_now => Value::from_function(move |format: &str| strftime::format_utc(now, format)),
        };
        let template =
            self.environment.get_template(TEMPLATE_NAME).map_err(|error| template_error(&error))?;
        let mut output = BoundedOutput::default();
        let rendered = template.render_captured_to(context, &mut output).map(drop);
        check_size("the length of the rendered prompt in bytes", output.num_bytes, Self::MAX_OUTPUT_BYTES)?;
        rendered.map_err(|error| template_error(&error))?;
        String::from_utf8(output.bytes)
            .map_err(|error| TextError::Template { line: None, problem: error.to_string() })
    }
}

/// As a template expects them: absent documents are `none`, not an empty list.
fn documents_value(documents: &[Document<'_>]) -> Value {
    if documents.is_empty() {
        return Value::from(());
    }
    documents
        .iter()
        .map(|document| context! { title => document.title.unwrap_or_default(), text => document.text })
        .collect()
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

fn template_error(error: &Error) -> TextError {
    let problem = match error.detail() {
        Some(detail) if error.kind() == ErrorKind::InvalidOperation => detail.to_owned(),
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    TextError::Template { line: error.line(), problem }
}

/// Collects output up to the bound, and counts what came.
#[derive(Default)]
struct BoundedOutput {
    bytes: Vec<u8>,
    num_bytes: usize,
}

impl io::Write for BoundedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.num_bytes = self.num_bytes.saturating_add(bytes.len());
        if self.num_bytes > ChatTemplate::MAX_OUTPUT_BYTES {
            return Err(io::Error::other("the prompt is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
