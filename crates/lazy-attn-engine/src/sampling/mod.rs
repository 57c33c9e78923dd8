//! From logits to a token: penalties and bias, temperature, top-k, top-p, min-p, then the draw.
//!
//! Plain functions on one row of logits. The draw comes from a counter-based generator keyed by the sequence's seed and
//! counted by its step, so a sequence's tokens do not depend on its batch or on preemption.

mod candidates;
mod penalties;
mod philox;
mod softmax;

use lazy_attn_types::{OutputParams, RowSampling, SampledRow, SamplingParams, TokenId};

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
    /// The same, found by the executor, which does not tell which logit it was.
    #[error("a logit is NaN or plus infinity; the model's numbers overflowed, try a wider dtype")]
    Overflowed,
    /// Every logit is minus infinity, found by the executor.
    #[error("no logit allows its token")]
    NoneAllowed,
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
    /// Of its first draw.
    row: RowSampling,
    top_logprobs: usize,
    penalties: Penalties,
}

/// Draws one row as [`Sampler`] does where nothing but the token is wanted: what an executor that samples has to return.
///
/// `logits`: `[vocab_size]`.
pub fn sample_row(scratch: &mut SamplingScratch, logits: &[f32], row: &RowSampling) -> SampledRow {
    match check_logits(logits) {
        Ok(()) => SampledRow::Token(TokenId(choose(scratch.workspace(), logits, row) as u32)),
        Err(SampleError::NothingAllowed { .. } | SampleError::NoneAllowed) => SampledRow::NothingAllowed,
        Err(SampleError::NotFinite { .. } | SampleError::Overflowed) => SampledRow::NotFinite,
    }
}

/// What a draw works on.
struct Workspace<'a> {
    weights: &'a mut Vec<f32>,
    candidates: &'a mut Vec<Candidate>,
}

impl SamplingScratch {
    fn workspace(&mut self) -> Workspace<'_> {
        Workspace { weights: &mut self.weights, candidates: &mut self.candidates }
    }
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
        let &SamplingParams { temperature, top_k, top_p, min_p, .. } = params;
        Sampler {
            row: RowSampling { temperature, top_k, top_p, min_p, seed: seed.get(), draw: 0 },
            top_logprobs: output.top_logprobs as usize,
            penalties: Penalties::new(params, prompt),
        }
    }

    /// How the token after `num_generated` is drawn, if nothing else of its logits is looked at: no penalty, no bias, no
    /// log-probability.
    #[must_use]
    pub fn row_sampling(&self, num_generated: u32) -> Option<RowSampling> {
        let is_plain = self.top_logprobs == 0 && !self.penalties.may_change_logits();
        is_plain.then_some(self.row_at(num_generated.into()))
    }

    fn row_at(&self, draw: u64) -> RowSampling {
        RowSampling { draw, ..self.row }
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
        let token = choose(Workspace { weights, candidates }, adjusted, &self.row_at(output.len() as u64));
        let logprob = self.report(logits, token, candidates, top);
        Ok(Chosen { token: TokenLogprob { token: TokenId(token as u32), logprob }, top })
    }

    /// Takes `token` whatever the logits say, with its log-probability also where none was asked for.
    ///
    /// `logits`: `[vocab_size]`, with an entry for `token`.
    ///
    /// # Errors
    /// As of [`Sampler::sample`].
    pub fn score<'a>(
        &self,
        scratch: &'a mut SamplingScratch,
        logits: &[f32],
        token: TokenId,
    ) -> Result<Chosen<'a>, SampleError> {
        check_logits(logits)?;
        let SamplingScratch { candidates, top, .. } = scratch;
        let index = token.0 as usize;
        self.report(logits, index, candidates, top);
        let logprob = (f64::from(logits[index]) - softmax::log_sum_exp(logits)) as f32;
        Ok(Chosen { token: TokenLogprob { token, logprob }, top })
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

/// The token of `logits`, which have been checked.
fn choose(workspace: Workspace<'_>, logits: &[f32], sampling: &RowSampling) -> usize {
    let best = softmax::argmax(logits);
    if sampling.temperature == 0.0 {
        return best;
    }
    let uniform = SequenceSeed::new(sampling.seed, 0).uniform(sampling.draw);
    let row = softmax::Row { logits, max: logits[best], temperature: sampling.temperature };
    // Where neither top-k nor top-p drops a token no order is needed.
    if top_k(sampling, logits).is_none() && sampling.top_p >= 1.0 {
        draw_from_all(&row, sampling.min_p, workspace.weights, uniform)
    } else {
        draw_from_best(&row, sampling, workspace.candidates, uniform)
    }
}

/// Tokens that are kept, if not all.
fn top_k(sampling: &RowSampling, logits: &[f32]) -> Option<usize> {
    let top_k = sampling.top_k as usize;
    (top_k != 0 && top_k < logits.len()).then_some(top_k)
}

fn draw_from_all(row: &softmax::Row<'_>, min_p: f32, weights: &mut Vec<f32>, uniform: f64) -> usize {
    softmax::weights(row, weights);
    if min_p > 0.0 {
        // The most likely token weighs 1, so a weight is its share of the most likely one.
        weights.iter_mut().filter(|weight| **weight < min_p).for_each(|weight| *weight = 0.0);
    }
    draw(weights.iter().copied(), softmax::sum(weights), uniform)
}

fn draw_from_best(
    row: &softmax::Row<'_>,
    sampling: &RowSampling,
    kept: &mut Vec<Candidate>,
    uniform: f64,
) -> usize {
    let top_p = f64::from(sampling.top_p);
    match top_k(sampling, row.logits) {
        None => candidates::nucleus(row, top_p, kept),
        Some(top_k) => {
            candidates::best(row.logits, top_k, kept);
            if top_p < 1.0 {
                let total = kept.iter().map(|candidate| f64::from(row.weight(candidate.logit))).sum::<f64>();
                kept.truncate(candidates::num_reaching(row, kept, top_p * total).0);
            }
        }
    }
    kept.truncate(kept.partition_point(|candidate| row.weight(candidate.logit) >= sampling.min_p));
    let weights = || kept.iter().map(|candidate| row.weight(candidate.logit));
    let total = weights().map(f64::from).sum::<f64>();
    kept[draw(weights(), total, uniform)].token as usize
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
