//! Conversations: checked here, rendered by whoever has the model's template.

use lazy_attn_engine::{Part, PartContent};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChatRole {
    /// Instructions to the model.
    System,
    /// Who asks.
    User,
    /// The model.
    Assistant,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: ChatRole,
    /// What is said.
    pub text: String,
}

/// A document with its title, which the template writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TitledDocument {
    /// Its title, empty for none.
    pub title: String,
    /// Its text or tokens.
    pub content: PartContent,
}

/// A checked conversation: at least one message, the last one by the user, a system message only in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatPrompt {
    /// The messages in order.
    pub messages: Vec<ChatMessage>,
    /// Documents for the answer.
    pub documents: Vec<TitledDocument>,
}

/// Renders conversations with the template of a model.
pub trait ChatRenderer {
    /// The parts of the prompt, in order.
    ///
    /// # Errors
    /// What is wrong and what to do, as the end of a sentence that starts with the field's path.
    fn render(&self, prompt: &ChatPrompt) -> Result<Vec<Part>, String>;
}
