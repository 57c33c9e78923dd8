//! Text in and out: tokenizers and templates, which come with a downloaded model too.

use std::sync::Arc;

use lazy_attn_text::{
    ChatInput, ChatMessage, ChatTemplate, DetokenizeOptions, Document, TemplateTokens, Tokenizer,
};
use lazy_attn_types::{SpecialTokens, TokenizerSource};

use super::said;

const TEXT: &str = "Hello, wörld 123\n\n  <|im_start|>\u{1f600} aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!";

/// A `tokenizer.json`. What it encodes, it decodes.
pub(crate) fn tokenizer(bytes: &[u8]) -> String {
    let source = TokenizerSource::Json(Arc::from(bytes));
    let tokenizer = match Tokenizer::from_source(&source, &SpecialTokens::default()) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return error.to_string(),
    };
    match tokenizer.encode(TEXT) {
        Ok(tokens) => said(tokenizer.decode(&tokens, DetokenizeOptions::default())),
        Err(error) => error.to_string(),
    }
}

/// A chat template, with a conversation.
pub(crate) fn chat_template(bytes: &[u8]) -> String {
    let source = String::from_utf8_lossy(bytes);
    let template = match ChatTemplate::new(&source, TemplateTokens::default()) {
        Ok(template) => template,
        Err(error) => return error.to_string(),
    };
    let messages = [("system", "Answer."), ("user", "When?"), ("assistant", "At six."), ("user", "Why?")];
    let messages = messages.map(|(role, content)| ChatMessage { role, content });
    let documents = [Document { title: Some("A"), text: "The boat leaves at six." }];
    let input = ChatInput { messages: &messages, documents: &documents, ..ChatInput::default() };
    said(template.render(&input))
}
