//! A stream to one message.

use lazy_attn_proto::v1::{self, generate_response::Event};

/// Why a stream does not add up to a response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// The stream ended early.
    #[error("the stream ended before `done`; the server or the engine was shut down")]
    Incomplete,
    /// An event names a sequence the request does not have.
    #[error("an event names sequence {index}, but the request has {n}")]
    UnknownSequence {
        /// The sequence.
        index: u32,
        /// Sequences of the request.
        n: u32,
    },
}

/// Adds up the messages of one stream.
#[derive(Debug)]
pub struct Collector {
    response: v1::CollectedResponse,
    choices: Vec<v1::Choice>,
    n: u32,
}

impl Collector {
    /// A collector for a request of `n` sequences.
    #[must_use]
    pub fn new(n: u32) -> Collector {
        let choices = (0..n).map(|index| v1::Choice { index, ..v1::Choice::default() }).collect();
        Collector { response: v1::CollectedResponse::default(), choices, n }
    }

    /// Adds one message.
    ///
    /// # Errors
    /// [`CollectError::UnknownSequence`] if it names a sequence that the request does not have.
    pub fn push(&mut self, message: v1::GenerateResponse) -> Result<(), CollectError> {
        match message.event {
            Some(Event::Started(started)) => {
                self.response.request_id = started.request_id;
                self.response.parts = started.parts;
                self.response.seed = started.seed;
                self.response.attention = started.attention;
                self.response.exactness = started.exactness;
                self.response.model = started.model;
            }
            Some(Event::Delta(delta)) => {
                let choice = self.choice(delta.index)?;
                choice.text.push_str(&delta.text);
                choice.token_ids.extend(delta.token_ids);
                choice.top_logprobs.extend(delta.top_logprobs);
                choice.forced_logprobs.extend(delta.forced_logprobs);
            }
            Some(Event::Finished(finished)) => {
                self.choice(finished.index)?.finish_reason = finished.reason;
            }
            Some(Event::Done(done)) => {
                self.response.usage = done.usage;
                self.response.timing = done.timing;
            }
            None => {}
        }
        Ok(())
    }

    fn choice(&mut self, index: u32) -> Result<&mut v1::Choice, CollectError> {
        let unknown = CollectError::UnknownSequence { index, n: self.n };
        self.choices.get_mut(index as usize).ok_or(unknown)
    }

    /// The whole response.
    ///
    /// # Errors
    /// [`CollectError::Incomplete`] if the stream did not end with `done`.
    pub fn finish(self) -> Result<v1::CollectedResponse, CollectError> {
        if self.response.usage.is_none() {
            return Err(CollectError::Incomplete);
        }
        let mut choices = self.choices;
        let first = choices.first().cloned().ok_or(CollectError::Incomplete)?;
        if choices.len() == 1 {
            choices.clear();
        }
        Ok(v1::CollectedResponse {
            text: first.text,
            token_ids: first.token_ids,
            top_logprobs: first.top_logprobs,
            forced_logprobs: first.forced_logprobs,
            finish_reason: first.finish_reason,
            choices,
            ..self.response
        })
    }
}
