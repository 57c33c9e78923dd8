//! From logits to a token: penalties and bias, temperature, top-k, top-p, min-p, then the draw.
//!
//! Plain functions on one row of logits. The draw comes from a counter-based generator keyed by the sequence's seed and
//! counted by its step, so a sequence's tokens do not depend on its batch or on preemption.

mod candidates;
mod penalties;
mod philox;
mod softmax;

use lazy_attn_types::{OutputParams, SamplingParams, TokenId};

pub use self::philox::SequenceSeed;
use crate::TokenLogprob;
use candidates::Candidate;
use penalties::Penalties;

/// Why no token could be chosen; ends only the sequence whose logits these are.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// A logit is NaN or plus infinity: the model's numbers overflowed.
    #[error("the logit of token {token} is {value}; the model's numbers overflowed, try a wider dtype")]
    NotFinite {
        /// The first such token.
        token: u32,
        /// Its logit.
        value: f32,
    },
    /// Every logit is minus infinity, or there is none.
    #[error("none of the {num_logits} logits allows its token")]
    NothingAllowed {
        /// Logits of the row.
        num_logits: usize,
    },
}

/// A chosen token and what is reported with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chosen<'a> {
    /// The token and its log-probability under the raw logits (0 unless log-probabilities were asked for).
    pub token: TokenLogprob,
    /// The most likely tokens under the raw logits, best first, equal ones by id.
    pub top: &'a [TokenLogprob],
}

/// Workspace of one row, shared by all sequences; after the first rows of a size it allocates nothing.
#[derive(Debug, Default)]
pub struct SamplingScratch {
    logits: Vec<f32>,
    weights: Vec<f32>,
    candidates: Vec<Candidate>,
    top: Vec<TokenLogprob>,
}

/// Chooses the tokens of one sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    temperature: f32,
    top_k: usize,
    top_p: f64,
    min_p: f32,
    top_logprobs: usize,
    penalties: Penalties,
    seed: SequenceSeed,
}

impl Sampler {
    /// A sampler for one sequence; `prompt` is read only where a penalty looks at it.
    ///
    /// `params` and `output` have been validated.
    #[must_use]
    pub fn new(
        params: &SamplingParams,
        output: OutputParams,
        seed: SequenceSeed,
        prompt: impl IntoIterator<Item = TokenId>,
    ) -> Sampler {
        Sampler {
            temperature: params.temperature,
            top_k: params.top_k as usize,
            top_p: f64::from(params.top_p),
            min_p: params.min_p,
            top_logprobs: output.top_logprobs as usize,
            penalties: Penalties::new(params, prompt),
            seed,
        }
    }

    /// Chooses the token that follows `output`, the tokens this sequence has generated so far.
    ///
    /// `logits`: `[vocab_size]`. The choice depends on `logits`, `output` and the seed, and on nothing else.
    ///
    /// # Errors
    /// [`SampleError::NotFinite`] for a NaN or overflowed logit, [`SampleError::NothingAllowed`] if all are minus
    /// infinity.
    pub fn sample<'a>(
        &mut self,
        scratch: &'a mut SamplingScratch,
        logits: &[f32],
        output: &[TokenId],
    ) -> Result<Chosen<'a>, SampleError> {
        check_logits(logits)?;
        self.penalties.count(output);
        let SamplingScratch { logits: adjusted, weights, candidates, top } = scratch;
        let adjusted = if self.penalties.change_logits() {
            adjusted.clear();
            adjusted.extend_from_slice(logits);
            self.penalties.apply(adjusted);
            &adjusted[..]
        } else {
            logits
        };
        let best = softmax::argmax(adjusted);
        let token = if self.temperature == 0.0 {
            best
        } else {
            let uniform = self.seed.uniform(output.len() as u64);
            let row = softmax::Row { logits: adjusted, max: adjusted[best], temperature: self.temperature };
            if self.keeps_all(logits.len()) {
                self.draw_from_all(&row, weights, uniform)
            } else {
                self.draw_from_best(&row, candidates, uniform)
            }
        };
        let logprob = self.report(logits, token, candidates, top);
        Ok(Chosen { token: TokenLogprob { token: TokenId(token as u32), logprob }, top })
    }

    /// Whether neither top-k nor top-p drops a token, so that no order is needed.
    fn keeps_all(&self, num_logits: usize) -> bool {
        (self.top_k == 0 || self.top_k >= num_logits) && self.top_p >= 1.0
    }

    fn draw_from_all(&self, row: &softmax::Row<'_>, weights: &mut Vec<f32>, uniform: f64) -> usize {
        softmax::weights(row, weights);
        if self.min_p > 0.0 {
            // The most likely token weighs 1, so a weight is its share of the most likely one.
            weights.iter_mut().filter(|weight| **weight < self.min_p).for_each(|weight| *weight = 0.0);
        }
        draw(weights.iter().copied(), softmax::sum(weights), uniform)
    }

    fn draw_from_best(&self, row: &softmax::Row<'_>, kept: &mut Vec<Candidate>, uniform: f64) -> usize {
        if self.top_k == 0 || self.top_k >= row.logits.len() {
            candidates::nucleus(row, self.top_p, kept);
        } else {
            candidates::best(row.logits, self.top_k, kept);
            if self.top_p < 1.0 {
                let total = kept.iter().map(|candidate| f64::from(row.weight(candidate.logit))).sum::<f64>();
                kept.truncate(candidates::num_reaching(row, kept, self.top_p * total).0);
            }
        }
        kept.truncate(kept.partition_point(|candidate| row.weight(candidate.logit) >= self.min_p));
        let weights = || kept.iter().map(|candidate| row.weight(candidate.logit));
        let total = weights().map(f64::from).sum::<f64>();
        kept[draw(weights(), total, uniform)].token as usize
    }

    /// Fills `top` and returns the log-probability of `token`, both of the raw logits.
    fn report(
        &self,
        logits: &[f32],
        token: usize,
        order: &mut Vec<Candidate>,
        top: &mut Vec<TokenLogprob>,
    ) -> f32 {
        top.clear();
        if self.top_logprobs == 0 {
            return 0.0;
        }
        let log_sum_exp = softmax::log_sum_exp(logits);
        let logprob = |logit: f32| (f64::from(logit) - log_sum_exp) as f32;
        candidates::best(logits, self.top_logprobs, order);
        top.extend(order.iter().map(|candidate| TokenLogprob {
            token: TokenId(candidate.token),
            logprob: logprob(candidate.logit),
        }));
        logprob(logits[token])
    }
}

/// Index of the entry in which `uniform * total` falls when weights are laid end to end.
fn draw(weights: impl Iterator<Item = f32>, total: f64, uniform: f64) -> usize {
    let target = uniform * total;
    let (mut reached, mut last_possible) = (0.0f64, 0);
    for (index, weight) in weights.enumerate().filter(|&(_, weight)| weight > 0.0) {
        reached += f64::from(weight);
        last_possible = index;
        if reached > target {
            break;
        }
    }
    // Rounding can leave the target a hair past the sum: then it is the last entry that can be drawn.
    last_possible
}

fn check_logits(logits: &[f32]) -> Result<(), SampleError> {
    // One pass without branches; the position is looked for only when there is something to report.
    let (num_bad, num_allowed) = logits.iter().fold((0u32, 0u32), |(bad, allowed), &logit| {
        (
            bad + u32::from(logit.is_nan() || logit == f32::INFINITY),
            allowed + u32::from(logit > f32::NEG_INFINITY),
        )
    });
    if num_bad > 0 {
        let is_bad = |logit: &&f32| logit.is_nan() || **logit == f32::INFINITY;
        if let Some((token, &value)) = (0u32..).zip(logits).find(|(_, logit)| is_bad(logit)) {
            return Err(SampleError::NotFinite { token, value });
        }
    }
    if num_allowed == 0 {
        return Err(SampleError::NothingAllowed { num_logits: logits.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
