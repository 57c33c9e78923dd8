//! Engine event to message.

use std::time::Duration;

use lazy_attn_engine::{
    EngineError, Event, FinishReason, GeneratedToken, PartOutcome, ResolvedPart, Timing, TokenLogprob,
    TokenOrigin, Usage,
};
use lazy_attn_proto::v1::{self, finished, generate_response};

use crate::convert::{api_exactness, document_attention};

/// Whether generated token ids are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenIdsInReply {
    /// They are.
    Report,
    /// They are not.
    Omit,
}

/// What the events of one request look like on the way back.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The caller's id of the request; empty takes the engine's.
    pub request_id: String,
    /// Name of the model.
    pub model: String,
    /// Whether token ids are reported.
    pub token_ids: TokenIdsInReply,
    /// Log-probabilities asked for; 0 reports none.
    pub top_logprobs: u32,
    /// Sequences of the request.
    pub n: u32,
}

impl Reply {
    /// The message of `event`.
    ///
    /// # Errors
    /// The engine's error if the request failed, which ends the stream.
    pub fn message(&self, event: Event) -> Result<v1::GenerateResponse, EngineError> {
        use generate_response::Event as Message;
        let message = match event {
            Event::Started { request, parts, seed, exactness } => Message::Started(v1::Started {
                request_id: self.id_or(&request.to_string()),
                prompt_tokens: parts.iter().map(|part| part.num_tokens).sum(),
                parts: parts.into_iter().zip(0u32..).map(|(part, index)| resolved(index, part)).collect(),
                seed,
                attention: document_attention(exactness.attention()).into(),
                exactness: Some(api_exactness(exactness)),
                model: self.model.clone(),
            }),
            Event::Delta { index, text, tokens } => Message::Delta(self.delta(index, text, tokens)),
            Event::Finished { index, reason } => Message::Finished(finished(index, reason)),
            Event::Done { usage: sums, timing: times } => {
                Message::Done(v1::Done { usage: Some(usage(sums)), timing: Some(timing(times)) })
            }
            Event::Failed(error) => return Err(error),
        };
        Ok(v1::GenerateResponse { event: Some(message) })
    }

    fn id_or(&self, engine_id: &str) -> String {
        if self.request_id.is_empty() { engine_id.to_owned() } else { self.request_id.clone() }
    }

    fn delta(&self, index: u32, text: String, tokens: Vec<GeneratedToken>) -> v1::TokenDelta {
        let token_ids = match self.token_ids {
            TokenIdsInReply::Report => tokens.iter().map(|token| token.chosen.token.0).collect(),
            TokenIdsInReply::Omit => Vec::new(),
        };
        let forced = tokens.iter().filter(|token| token.origin == TokenOrigin::Forced);
        let forced_logprobs = forced.map(|token| token.chosen.logprob).collect();
        let top_logprobs =
            if self.top_logprobs > 0 { tokens.into_iter().map(top_logprobs).collect() } else { Vec::new() };
        v1::TokenDelta { index, text, token_ids, top_logprobs, forced_logprobs }
    }
}

fn top_logprobs(token: GeneratedToken) -> v1::TopLogprobs {
    v1::TopLogprobs {
        id: token.chosen.token.0,
        logprob: token.chosen.logprob,
        top: token.top.into_iter().map(logprob).collect(),
    }
}

fn logprob(entry: TokenLogprob) -> v1::TokenLogprob {
    v1::TokenLogprob { id: entry.token.0, logprob: entry.logprob }
}

pub(crate) fn resolved(index: u32, part: ResolvedPart) -> v1::ResolvedPart {
    let outcome = match part.outcome {
        PartOutcome::Hit => v1::CacheOutcome::Hit,
        PartOutcome::Joined => v1::CacheOutcome::Joined,
        PartOutcome::Reencoded => v1::CacheOutcome::Reencoded,
        PartOutcome::Miss => v1::CacheOutcome::Miss,
    };
    v1::ResolvedPart {
        index,
        document_key: part.document_key,
        token_count: part.num_tokens,
        outcome: outcome.into(),
    }
}

fn finished(index: u32, reason: FinishReason) -> v1::Finished {
    use v1::FinishReason as Reason;
    let (reason, stop) = match reason {
        FinishReason::StopToken(token) => (Reason::Stop, Some(finished::Stop::StopTokenId(token.0))),
        FinishReason::StopText(text) => (Reason::StopText, Some(finished::Stop::StopText(text))),
        FinishReason::Length => (Reason::Length, None),
    };
    v1::Finished { index, reason: reason.into(), stop }
}

fn usage(sums: Usage) -> v1::Usage {
    v1::Usage {
        prompt_tokens: sums.prompt_tokens,
        cached_prompt_tokens: sums.cached_prompt_tokens,
        computed_prompt_tokens: sums.computed_prompt_tokens,
        completion_tokens: sums.completion_tokens,
        documents_total: sums.documents_total,
        documents_reused: sums.documents_reused,
        documents_reencoded: sums.documents_reencoded,
        cache_creation_tokens: sums.cache_creation_tokens,
        preemptions: sums.preemptions,
        recomputed_tokens: sums.recomputed_tokens,
    }
}

fn timing(times: Timing) -> v1::Timing {
    let message = |time: Duration| Some(time.into());
    v1::Timing {
        queue: message(times.queue),
        time_to_first_token: message(times.time_to_first_token),
        prefill: message(times.prefill),
        decode: message(times.decode),
    }
}
