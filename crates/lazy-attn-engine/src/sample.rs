//! One sequence from logits to text: sampler, stop conditions, detokenizer.

use std::sync::Arc;

use lazy_attn_text::{DetokenizeOptions, Detokenizer, Tokenizer};
use lazy_attn_types::sampling::EndTokens;
use lazy_attn_types::{OutputKind, OutputRow, SampledRow, StopParams, TokenId};

use crate::intake::Prepared;
use crate::sampling::{SampleError, Sampler, SamplingScratch, SequenceSeed};
use crate::stop::StopMatcher;
use crate::{FinishReason, GeneratedToken, TokenLogprob, TokenOrigin};

/// What one row of logits became.
#[derive(Debug)]
pub(crate) struct Sampled {
    pub(crate) token: GeneratedToken,
    /// Text that can no longer change.
    pub(crate) text: String,
    /// Why the sequence ends with this token, if it does.
    pub(crate) finish: Option<FinishReason>,
}

/// The state of a sequence that generates.
#[derive(Debug)]
pub(crate) struct Sample {
    sampler: Sampler,
    /// Taken when the sequence ends.
    text: Option<(Detokenizer, StopMatcher)>,
    generated: Vec<TokenId>,
    /// What `generated` begins with, whatever the logits say.
    forced: Arc<[TokenId]>,
    /// Tokens that end the sequence, the model's own among them unless the request ignores those.
    end_tokens: Vec<TokenId>,
    max_tokens: u32,
}

impl Sample {
    /// Sequence `index` of a request seeded with `seed`.
    pub(crate) fn new(
        prepared: &Prepared,
        tokenizer: &Tokenizer,
        model_end: &[TokenId],
        seed: SequenceSeed,
    ) -> Sample {
        let context = &prepared.context;
        let prompt = context.segments().iter().flat_map(|segment| segment.tokens().iter().copied());
        let prompt = prompt.chain([context.last_prompt_token()]);
        let stopping = &prepared.stopping;
        Sample {
            sampler: Sampler::new(&prepared.sampling, prepared.output, seed, prompt),
            text: Some((
                tokenizer.detokenizer(DetokenizeOptions::default()),
                StopMatcher::new(&stopping.stop_texts),
            )),
            generated: Vec::new(),
            forced: Arc::clone(&prepared.forced_output),
            end_tokens: end_tokens(stopping, model_end),
            max_tokens: stopping.max_tokens,
        }
    }

    pub(crate) fn num_generated(&self) -> u32 {
        // Bounded by `max_tokens`.
        self.generated.len() as u32
    }

    /// How it wants its row after `num_generated` tokens of an executor that samples.
    pub(crate) fn output_kind(&self, num_generated: u32) -> OutputKind {
        if (num_generated as usize) < self.forced.len() {
            return OutputKind::Logits;
        }
        self.sampler.row_sampling(num_generated).map_or(OutputKind::Logits, OutputKind::Token)
    }

    /// Takes the next token, or chooses it. A token that ends the sequence is reported, its own text is not.
    pub(crate) fn push(
        &mut self,
        scratch: &mut SamplingScratch,
        row: OutputRow<'_>,
    ) -> Result<Sampled, SampleError> {
        let token = self.token(scratch, row)?;
        let id = token.chosen.token;
        self.generated.push(id);
        let mut text = String::new();
        let mut finish = self.end_tokens.contains(&id).then_some(FinishReason::StopToken(id));
        if let (None, Some((detokenizer, matcher))) = (&finish, &mut self.text) {
            let step = matcher.push(&detokenizer.push(id));
            text = step.text;
            finish = step.stopped_by.map(FinishReason::StopText);
        }
        if finish.is_none() && self.num_generated() == self.max_tokens {
            finish = Some(FinishReason::Length);
        }
        if finish.is_some() {
            text.push_str(&self.flush());
        }
        Ok(Sampled { token, text, finish })
    }

    fn token(
        &mut self,
        scratch: &mut SamplingScratch,
        row: OutputRow<'_>,
    ) -> Result<GeneratedToken, SampleError> {
        match row {
            OutputRow::Logits(logits) => {
                let (chosen, origin) = match self.forced.get(self.generated.len()) {
                    Some(&token) => (self.sampler.score(scratch, logits, token)?, TokenOrigin::Forced),
                    None => (self.sampler.sample(scratch, logits, &self.generated)?, TokenOrigin::Sampled),
                };
                Ok(GeneratedToken { chosen: chosen.token, top: chosen.top.to_vec(), origin })
            }
            OutputRow::Sampled(SampledRow::Token(token)) => {
                let chosen = TokenLogprob { token, logprob: 0.0 };
                Ok(GeneratedToken { chosen, top: Vec::new(), origin: TokenOrigin::Sampled })
            }
            OutputRow::Sampled(SampledRow::NotFinite) => Err(SampleError::Overflowed),
            OutputRow::Sampled(SampledRow::NothingAllowed) => Err(SampleError::NoneAllowed),
        }
    }

    /// What was held back: an incomplete character, and text that only looked like the beginning of a stop text.
    fn flush(&mut self) -> String {
        let Some((detokenizer, mut matcher)) = self.text.take() else { return String::new() };
        let mut text = matcher.push(&detokenizer.finish()).text;
        text.push_str(&matcher.finish());
        text
    }
}

fn end_tokens(stopping: &StopParams, model_end: &[TokenId]) -> Vec<TokenId> {
    let model_end = match stopping.end_tokens {
        EndTokens::Stop => model_end,
        EndTokens::Ignore => &[],
    };
    stopping.stop_tokens.iter().chain(model_end).copied().collect()
}
