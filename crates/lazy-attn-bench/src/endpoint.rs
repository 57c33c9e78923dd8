//! Whatever answers requests.

use std::future::Future;
use std::sync::Arc;

use lazy_attn_engine::{
    EngineHandle, Event, GenerateRequest, GeneratedToken, Part, PartContent, PartOutcome, ResolvedPart,
};
use lazy_attn_types::sampling::EndTokens;
use lazy_attn_types::{OutputParams, StopParams, TokenId};

use crate::record::{DocumentOutcome, DocumentUse, Recorder};

/// A request as it is sent: documents in order, then the question; greedy, and as many tokens as `output_tokens` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Tokens of each document.
    pub documents: Vec<Arc<[TokenId]>>,
    /// Tokens of the question.
    pub query: Vec<TokenId>,
    /// Tokens to generate.
    pub output_tokens: u32,
}

/// Something that answers requests.
pub trait Endpoint {
    /// Sends `prompt` and tells `recorder` what comes back, until it has ended.
    fn answer(&self, prompt: Prompt, recorder: &mut Recorder) -> impl Future<Output = ()>;
}

/// Whether the margin of each token is noted, which costs log-probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Margins {
    /// It is not.
    Ignored,
    /// It is.
    Noted,
}

/// An engine of this process.
#[derive(Debug, Clone)]
pub struct EngineEndpoint {
    handle: EngineHandle,
    margins: Margins,
}

impl EngineEndpoint {
    /// The engine behind `handle`.
    #[must_use]
    pub fn new(handle: EngineHandle, margins: Margins) -> EngineEndpoint {
        EngineEndpoint { handle, margins }
    }

    fn request(&self, prompt: Prompt) -> GenerateRequest {
        let documents = prompt.documents.into_iter();
        let mut parts: Vec<Part> =
            documents.map(|tokens| Part::Document(PartContent::Tokens(tokens))).collect();
        parts.push(Part::Text(PartContent::Tokens(prompt.query.into())));
        let top_logprobs = if self.margins == Margins::Noted { 2 } else { 0 };
        GenerateRequest {
            stopping: StopParams {
                max_tokens: prompt.output_tokens,
                end_tokens: EndTokens::Ignore,
                ..StopParams::default()
            },
            output: OutputParams { top_logprobs },
            ..GenerateRequest::new(parts)
        }
    }
}

impl Endpoint for EngineEndpoint {
    async fn answer(&self, prompt: Prompt, recorder: &mut Recorder) {
        let num_documents = prompt.documents.len();
        let mut stream = match self.handle.submit(self.request(prompt)) {
            Ok(stream) => stream,
            Err(error) => return recorder.failed(error.to_string()),
        };
        while let Some(event) = stream.next().await {
            match event {
                Event::Started { parts, .. } => {
                    let prompt_tokens = parts.iter().map(|part| part.num_tokens).sum();
                    recorder
                        .started(prompt_tokens, parts.iter().take(num_documents).map(document_use).collect());
                }
                Event::Delta { tokens, .. } => {
                    let margins = tokens.iter().filter_map(margin).collect();
                    recorder.tokens(tokens.iter().map(|token| token.chosen.token).collect(), margins);
                }
                Event::Failed(error) => recorder.failed(error.to_string()),
                Event::Finished { .. } | Event::Done { .. } => {}
            }
        }
    }
}

fn document_use(part: &ResolvedPart) -> DocumentUse {
    let outcome = match part.outcome {
        PartOutcome::Hit | PartOutcome::Joined => DocumentOutcome::Hit,
        PartOutcome::Reencoded => DocumentOutcome::Reencoded,
        PartOutcome::Miss => DocumentOutcome::Computed,
    };
    DocumentUse { num_tokens: part.num_tokens, outcome }
}

fn margin(token: &GeneratedToken) -> Option<f32> {
    match token.top.as_slice() {
        [best, next, ..] => Some(best.logprob - next.logprob),
        _ => None,
    }
}
