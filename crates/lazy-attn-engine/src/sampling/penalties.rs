//! Penalties and bias: changes to single logits before anything else looks at them.

use lazy_attn_types::{SamplingParams, TokenId};

/// What changes the logits of a sequence, and the tokens seen so far that it looks at.
#[derive(Debug, Clone)]
pub(super) struct Penalties {
    repetition: f32,
    presence: f32,
    frequency: f32,
    bias: Vec<(TokenId, f32)>,
    /// Distinct prompt tokens, ascending; empty unless the repetition penalty is on.
    prompt: Vec<TokenId>,
    /// Distinct output tokens, ascending, each with its count; empty unless a penalty is on.
    output: Vec<(TokenId, u32)>,
    num_counted: usize,
}

impl Penalties {
    pub(super) fn new(params: &SamplingParams, prompt: impl IntoIterator<Item = TokenId>) -> Penalties {
        let mut distinct = Vec::new();
        if params.repetition_penalty != 1.0 {
            distinct.extend(prompt);
            distinct.sort_unstable();
            distinct.dedup();
        }
        Penalties {
            repetition: params.repetition_penalty,
            presence: params.presence_penalty,
            frequency: params.frequency_penalty,
            bias: params.logit_bias.clone(),
            prompt: distinct,
            output: Vec::new(),
            num_counted: 0,
        }
    }

    fn look_at_output(&self) -> bool {
        self.repetition != 1.0 || self.presence != 0.0 || self.frequency != 0.0
    }

    /// Brings the counts up to `output`; only what came since the last call is read.
    pub(super) fn count(&mut self, output: &[TokenId]) {
        if !self.look_at_output() {
            return;
        }
        if output.len() < self.num_counted {
            self.output.clear();
            self.num_counted = 0;
        }
        for &token in &output[self.num_counted..] {
            match self.output.binary_search_by_key(&token, |&(seen, _)| seen) {
                Ok(at) => self.output[at].1 += 1,
                Err(at) => self.output.insert(at, (token, 1)),
            }
        }
        self.num_counted = output.len();
    }

    /// Whether [`Penalties::apply`] changes anything now or later.
    pub(super) fn may_change_logits(&self) -> bool {
        self.look_at_output() || !self.bias.is_empty()
    }

    /// Whether [`Penalties::apply`] would change anything now.
    pub(super) fn change_logits(&self) -> bool {
        !(self.bias.is_empty() && self.prompt.is_empty() && self.output.is_empty())
    }

    /// Changes `logits`; tokens outside them are ignored.
    pub(super) fn apply(&self, logits: &mut [f32]) {
        if self.repetition != 1.0 {
            let in_output = self.output.iter().map(|&(token, _)| token);
            let only_in_prompt = self.prompt.iter().copied().filter(|token| !self.was_generated(*token));
            for token in in_output.chain(only_in_prompt) {
                change(logits, token, |logit| {
                    if logit > 0.0 { logit / self.repetition } else { logit * self.repetition }
                });
            }
        }
        for &(token, count) in &self.output {
            change(logits, token, |logit| logit - self.presence - self.frequency * count as f32);
        }
        for &(token, bias) in &self.bias {
            change(logits, token, |logit| logit + bias);
        }
    }

    fn was_generated(&self, token: TokenId) -> bool {
        self.output.binary_search_by_key(&token, |&(seen, _)| seen).is_ok()
    }
}

fn change(logits: &mut [f32], token: TokenId, to: impl FnOnce(f32) -> f32) {
    if let Some(logit) = logits.get_mut(token.0 as usize) {
        // A tiny repetition penalty can overflow; plus infinity would make the softmax undefined. What the model
        // forbids (minus infinity) stays forbidden.
        *logit = to(*logit).min(f32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(params: &SamplingParams, prompt: &[u32], output: &[u32], logits: &[f32]) -> Vec<f32> {
        let mut penalties = Penalties::new(params, prompt.iter().copied().map(TokenId));
        let output: Vec<TokenId> = output.iter().copied().map(TokenId).collect();
        penalties.count(&output);
        let mut logits = logits.to_vec();
        penalties.apply(&mut logits);
        logits
    }

    #[test]
    fn repetition_looks_at_prompt_and_output_once_per_token() {
        let params = SamplingParams { repetition_penalty: 2.0, ..SamplingParams::default() };
        assert_eq!(changed(&params, &[0, 0, 1], &[1, 2, 2], &[4.0, -4.0, 2.0, 1.0]), [2.0, -8.0, 1.0, 1.0]);
    }

    #[test]
    fn presence_and_frequency_look_at_output_only() {
        let params =
            SamplingParams { presence_penalty: 1.0, frequency_penalty: 0.5, ..SamplingParams::default() };
        assert_eq!(changed(&params, &[0], &[1, 2, 2], &[0.0; 4]), [0.0, -1.5, -2.0, 0.0]);
    }

    #[test]
    fn bias_comes_last_adds_up_and_ignores_tokens_outside() {
        let logit_bias = vec![(TokenId(1), 3.0), (TokenId(9), 3.0), (TokenId(1), 1.0)];
        let params = SamplingParams { repetition_penalty: 2.0, logit_bias, ..SamplingParams::default() };
        assert_eq!(changed(&params, &[1, 9], &[9], &[1.0, 1.0]), [1.0, 4.5]);
    }

    #[test]
    fn overflow_stays_finite_and_forbidden_stays_forbidden() {
        let params = SamplingParams {
            repetition_penalty: f32::MIN_POSITIVE,
            logit_bias: vec![(TokenId(1), 100.0)],
            ..SamplingParams::default()
        };
        assert_eq!(changed(&params, &[0], &[], &[9.0, f32::NEG_INFINITY]), [f32::MAX, f32::NEG_INFINITY]);
    }

    #[test]
    fn counting_step_by_step_equals_counting_at_once_and_survives_going_back() {
        let params = SamplingParams { frequency_penalty: 1.0, ..SamplingParams::default() };
        let output = [3, 1, 3, 3].map(TokenId);
        let mut penalties = Penalties::new(&params, []);
        for len in [1, 2, 4, 1, 4] {
            penalties.count(&output[..len]);
        }
        assert_eq!(penalties.output, [(TokenId(1), 1), (TokenId(3), 3)]);
    }
}
