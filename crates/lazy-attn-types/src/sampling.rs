//! How tokens are chosen and when a sequence ends. Plain data with one validation each.

use crate::TokenId;

/// A parameter outside its range; names the field, the number and what is allowed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field} is {value}, but must be {allowed}")]
pub struct ParamError {
    /// Path of the field in the request, for example `sampling.top_p`.
    pub field: &'static str,
    /// The value that was given.
    pub value: String,
    /// What would be accepted.
    pub allowed: &'static str,
}

fn check(
    ok: bool,
    field: &'static str,
    value: impl ToString,
    allowed: &'static str,
) -> Result<(), ParamError> {
    if ok { Ok(()) } else { Err(ParamError { field, value: value.to_string(), allowed }) }
}

/// How the next token is chosen from the logits.
///
/// The order is that of the field: penalties and bias on the logits, temperature, top-k, top-p, min-p, then the draw.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy; larger is flatter.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probability reaches this.
    pub top_p: f32,
    /// Drop tokens less likely than this share of the most likely one.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of every token already generated.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit for each time it was generated.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Seed of the draw; sequences of one request use `seed + index`. Absent: the engine picks and reports one.
    pub seed: Option<u64>,
    /// Sequences of this request, sharing documents and prompt.
    pub n: u32,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
            n: 1,
        }
    }
}

impl SamplingParams {
    /// Most sequences one request may run.
    pub const MAX_N: u32 = 64;
    /// Most biased tokens one request may name.
    pub const MAX_LOGIT_BIAS: usize = 1024;

    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`ParamError`] for the first field outside its range, NaN included.
    pub fn validate(&self) -> Result<(), ParamError> {
        let p = self;
        check(
            (0.0..=100.0).contains(&p.temperature),
            "sampling.temperature",
            p.temperature,
            "from 0 to 100",
        )?;
        check(p.top_p > 0.0 && p.top_p <= 1.0, "sampling.top_p", p.top_p, "above 0 and at most 1")?;
        check((0.0..=1.0).contains(&p.min_p), "sampling.min_p", p.min_p, "from 0 to 1")?;
        let penalty = p.repetition_penalty;
        check(
            penalty > 0.0 && penalty <= 10.0,
            "sampling.repetition_penalty",
            penalty,
            "above 0 and at most 10",
        )?;
        check(
            in_penalty_range(p.presence_penalty),
            "sampling.presence_penalty",
            p.presence_penalty,
            "from -10 to 10",
        )?;
        let frequency = p.frequency_penalty;
        check(in_penalty_range(frequency), "sampling.frequency_penalty", frequency, "from -10 to 10")?;
        let num_bias = p.logit_bias.len();
        check(num_bias <= Self::MAX_LOGIT_BIAS, "sampling.logit_bias", num_bias, "at most 1024 entries")?;
        for (_, bias) in &p.logit_bias {
            check((-100.0..=100.0).contains(bias), "sampling.logit_bias", bias, "from -100 to 100")?;
        }
        check((1..=Self::MAX_N).contains(&p.n), "sampling.n", p.n, "from 1 to 64")
    }
}

fn in_penalty_range(value: f32) -> bool {
    (-10.0..=10.0).contains(&value)
}

/// When a sequence ends.
#[derive(Debug, Clone, PartialEq)]
pub struct StopParams {
    /// Most tokens to generate, at least 1.
    pub max_tokens: u32,
    /// Generation ends when one of these texts appears; the text itself is not returned.
    pub stop_texts: Vec<String>,
    /// Generation ends when one of these tokens is chosen, besides the model's own end tokens.
    pub stop_tokens: Vec<TokenId>,
    /// Whether the model's own end tokens end the sequence.
    pub end_tokens: EndTokens,
}

/// What the model's end tokens do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EndTokens {
    /// They end the sequence.
    #[default]
    Stop,
    /// They are ordinary tokens (for benchmarks of a fixed length).
    Ignore,
}

impl Default for StopParams {
    fn default() -> Self {
        StopParams {
            max_tokens: 128,
            stop_texts: Vec::new(),
            stop_tokens: Vec::new(),
            end_tokens: EndTokens::Stop,
        }
    }
}

impl StopParams {
    /// Most stop texts, and most stop tokens, of one request.
    pub const MAX_STOPS: usize = 16;
    /// Longest stop text in bytes.
    pub const MAX_STOP_TEXT_BYTES: usize = 256;

    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`ParamError`] for the first field outside its range.
    pub fn validate(&self) -> Result<(), ParamError> {
        check(self.max_tokens >= 1, "stopping.max_tokens", self.max_tokens, "at least 1")?;
        let num_texts = self.stop_texts.len();
        check(num_texts <= Self::MAX_STOPS, "stopping.stop_texts", num_texts, "at most 16 entries")?;
        let num_tokens = self.stop_tokens.len();
        check(num_tokens <= Self::MAX_STOPS, "stopping.stop_tokens", num_tokens, "at most 16 entries")?;
        for text in &self.stop_texts {
            let fits = (1..=Self::MAX_STOP_TEXT_BYTES).contains(&text.len());
            check(fits, "stopping.stop_texts", text.len(), "texts of 1 to 256 bytes")?;
        }
        Ok(())
    }
}

/// What is reported besides the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutputParams {
    /// Log-probabilities of this many most likely tokens per generated token; 0 reports none.
    pub top_logprobs: u32,
}

impl OutputParams {
    /// Most log-probabilities per token.
    pub const MAX_TOP_LOGPROBS: u32 = 100;

    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`ParamError`] if `top_logprobs` is above [`OutputParams::MAX_TOP_LOGPROBS`].
    pub fn validate(&self) -> Result<(), ParamError> {
        let fits = self.top_logprobs <= Self::MAX_TOP_LOGPROBS;
        check(fits, "response.top_logprobs", self.top_logprobs, "at most 100")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut SamplingParams)) -> &'static str {
        let mut params = SamplingParams::default();
        change(&mut params);
        params.validate().unwrap_err().field
    }

    #[test]
    fn defaults_are_valid() {
        SamplingParams::default().validate().unwrap();
        StopParams::default().validate().unwrap();
        OutputParams::default().validate().unwrap();
    }

    #[test]
    fn each_field_is_refused_by_name_outside_its_range() {
        assert_eq!(refused(|p| p.temperature = f32::NAN), "sampling.temperature");
        assert_eq!(refused(|p| p.temperature = -0.1), "sampling.temperature");
        assert_eq!(refused(|p| p.top_p = 0.0), "sampling.top_p");
        assert_eq!(refused(|p| p.min_p = 1.5), "sampling.min_p");
        assert_eq!(refused(|p| p.repetition_penalty = 0.0), "sampling.repetition_penalty");
        assert_eq!(refused(|p| p.presence_penalty = 11.0), "sampling.presence_penalty");
        assert_eq!(refused(|p| p.frequency_penalty = f32::INFINITY), "sampling.frequency_penalty");
        assert_eq!(refused(|p| p.logit_bias = vec![(TokenId(0), f32::NAN)]), "sampling.logit_bias");
        assert_eq!(refused(|p| p.n = 0), "sampling.n");
        assert_eq!(refused(|p| p.n = 65), "sampling.n");
    }

    #[test]
    fn bounds_hold_at_the_bound_and_one_past_it() {
        let at = StopParams { stop_texts: vec!["x".into(); 16], ..StopParams::default() };
        let past = StopParams { stop_texts: vec!["x".into(); 17], ..StopParams::default() };
        assert!(at.validate().is_ok() && past.validate().is_err());
        assert!(OutputParams { top_logprobs: 100 }.validate().is_ok());
        assert!(OutputParams { top_logprobs: 101 }.validate().is_err());
    }
}
