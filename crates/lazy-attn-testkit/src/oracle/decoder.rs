//! The forward pass.

use lazy_attn_types::{AttentionMode, SegmentKind, TokenId};

use super::{OracleConfig, OracleWeights, rope};
use crate::part::{Part, Placed, Spot, place, sees, spots};
use crate::rng::SplitMix64;

/// A decoder with its weights.
#[derive(Debug, Clone)]
pub struct Oracle {
    /// What it is.
    pub config: OracleConfig,
    /// Its tensors.
    pub weights: OracleWeights,
    /// Disturbance of every key and value, to learn what rounding them does to the logits.
    pub kv_noise: Option<KvNoise>,
}

/// Multiplies every key and value by its own `1 + r`, `r` uniform in `[-relative, relative]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvNoise {
    /// Bound of the disturbance, for example the unit roundoff of a dtype.
    pub relative: f64,
    /// Decides the draws.
    pub seed: u64,
}

/// One token of a greedy continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct GreedyStep {
    /// The token with the largest logit.
    pub token: TokenId,
    /// How far its logit is above the second largest.
    pub margin: f64,
    /// All logits it was chosen from.
    pub logits: Vec<f64>,
}

impl GreedyStep {
    fn of(logits: Vec<f64>) -> GreedyStep {
        let token = argmax(&logits);
        let runner_up = logits.iter().enumerate().filter(|&(id, _)| id != token);
        let second = runner_up.map(|(_, &logit)| logit).fold(f64::NEG_INFINITY, f64::max);
        GreedyStep { token: TokenId(token as u32), margin: logits[token] - second, logits }
    }
}

/// One row per token.
type Rows = Vec<Vec<f64>>;

impl Oracle {
    /// Logits of the token that follows `parts`, placed back to back from position 0.
    #[must_use]
    pub fn forward(&self, parts: &[Part], mode: AttentionMode) -> Vec<f64> {
        self.forward_placed(&place(parts, mode))
    }

    /// Logits of the token that follows `context`.
    ///
    /// # Panics
    /// If the context is empty or a token lies outside the vocabulary.
    #[must_use]
    pub fn forward_placed(&self, context: &[Placed]) -> Vec<f64> {
        self.forward_last(context, 1).remove(0)
    }

    /// Logits of the tokens that follow the last `num_rows` tokens of `context`, in order.
    ///
    /// # Panics
    /// If the context has fewer tokens, `num_rows` is 0, or a token lies outside the vocabulary.
    #[must_use]
    pub fn forward_last(&self, context: &[Placed], num_rows: usize) -> Vec<Vec<f64>> {
        let spots = spots(context);
        assert!(num_rows > 0 && num_rows <= spots.len(), "a context has at least one token per row");
        let embedding = &self.weights.get("model.embed_tokens.weight").data;
        let width = self.config.hidden_size;
        let mut hidden: Rows =
            spots.iter().map(|spot| embedding[spot.token.0 as usize * width..][..width].to_vec()).collect();
        let mask = self.mask(&spots);
        for layer in 0..self.config.num_layers {
            self.layer(&format!("model.layers.{layer}"), &spots, &mask, &mut hidden);
        }
        hidden[hidden.len() - num_rows..].iter().map(|row| self.head(row)).collect()
    }

    /// Continues `parts` by `num_tokens` greedy tokens, recomputing everything for each.
    #[must_use]
    pub fn greedy(&self, parts: &[Part], mode: AttentionMode, num_tokens: usize) -> Vec<GreedyStep> {
        let mut context = place(parts, mode);
        let mut steps = Vec::with_capacity(num_tokens);
        for _ in 0..num_tokens {
            let step = GreedyStep::of(self.forward_placed(&context));
            append(&mut context, step.token);
            steps.push(step);
        }
        steps
    }

    /// The same as [`Oracle::greedy`] with as many tokens as `guess` has, in one pass if the guess is right and in at most one
    /// more for each wrong token: a row is right if all tokens before it are.
    #[must_use]
    pub fn greedy_from(
        &self,
        parts: &[Part],
        mode: AttentionMode,
        mut guess: Vec<TokenId>,
    ) -> Vec<GreedyStep> {
        loop {
            let mut context = place(parts, mode);
            guess.iter().for_each(|&token| append(&mut context, token));
            // The row behind the prompt and one behind each guessed token; what follows the last is not asked for.
            let mut rows = self.forward_last(&context, guess.len() + 1);
            rows.truncate(guess.len());
            let steps: Vec<GreedyStep> = rows.into_iter().map(GreedyStep::of).collect();
            let found: Vec<TokenId> = steps.iter().map(|step| step.token).collect();
            if found == guess {
                return steps;
            }
            guess = found;
        }
    }

    pub(crate) fn embed(&self, token: TokenId) -> Vec<f64> {
        let width = self.config.hidden_size;
        self.weights.get("model.embed_tokens.weight").data[token.0 as usize * width..][..width].to_vec()
    }

    /// Logits of a row that has passed every layer.
    pub(crate) fn head(&self, row: &[f64]) -> Vec<f64> {
        let head = if self.config.tied_head { "model.embed_tokens" } else { "lm_head" };
        self.linear(head, false, &self.norm("model.norm.weight", row))
    }

    /// `mask[reader][key]`: whether the reader sees the key.
    fn mask(&self, spots: &[Spot]) -> Vec<Vec<bool>> {
        let window = self.config.sliding_window;
        spots.iter().map(|q| spots.iter().map(|k| sees(q, k, window)).collect()).collect()
    }

    fn layer(&self, prefix: &str, spots: &[Spot], mask: &[Vec<bool>], hidden: &mut Rows) {
        let c = &self.config;
        let norm_name = format!("{prefix}.input_layernorm.weight");
        let normed: Rows = hidden.iter().map(|row| self.norm(&norm_name, row)).collect();
        let project = |name: &str| -> Rows {
            let name = format!("{prefix}.self_attn.{name}_proj");
            normed.iter().map(|row| self.linear(&name, c.bias.qkv, row)).collect()
        };
        let (mut q, mut k, mut v) = (project("q"), project("k"), project("v"));
        self.norm_and_rotate(&format!("{prefix}.self_attn.q_norm.weight"), spots, &mut q);
        self.norm_and_rotate(&format!("{prefix}.self_attn.k_norm.weight"), spots, &mut k);
        if let Some(noise) = self.kv_noise {
            let mut rng = SplitMix64::new(noise.seed);
            for value in k.iter_mut().chain(&mut v).flatten() {
                *value *= 1.0 + noise.relative * (2.0 * rng.unit() - 1.0);
            }
        }
        for (reader, row) in hidden.iter_mut().enumerate() {
            let mixed = self.attend(&q[reader], &k, &v, &mask[reader]);
            let out = self.linear(&format!("{prefix}.self_attn.o_proj"), c.bias.output, &mixed);
            add(row, &out);
        }
        for row in hidden.iter_mut() {
            self.feed_forward(prefix, row);
        }
    }

    pub(crate) fn feed_forward(&self, prefix: &str, row: &mut [f64]) {
        let has_bias = self.config.bias.mlp;
        let input = self.norm(&format!("{prefix}.post_attention_layernorm.weight"), row);
        let gate = self.linear(&format!("{prefix}.mlp.gate_proj"), has_bias, &input);
        let up = self.linear(&format!("{prefix}.mlp.up_proj"), has_bias, &input);
        let inner: Vec<f64> = gate.iter().zip(up).map(|(&g, u)| g / (1.0 + (-g).exp()) * u).collect();
        add(row, &self.linear(&format!("{prefix}.mlp.down_proj"), has_bias, &inner));
    }

    fn norm_and_rotate(&self, norm_name: &str, spots: &[Spot], rows: &mut Rows) {
        let rope = &self.config.rope;
        let frequencies = rope::frequencies(rope);
        for (row, spot) in rows.iter_mut().zip(spots) {
            for head in row.chunks_exact_mut(self.config.head_dim) {
                if self.config.qk_norm {
                    let normed = self.norm(norm_name, head);
                    head.copy_from_slice(&normed);
                }
                rope::rotate(rope, &frequencies, spot.position, head);
            }
        }
    }

    /// Plain softmax attention of one token over all keys its mask row shows, every head.
    fn attend(&self, q: &[f64], k: &Rows, v: &Rows, mask: &[bool]) -> Vec<f64> {
        let c = &self.config;
        let group = c.num_q_heads / c.num_kv_heads;
        let scale = 1.0 / (c.head_dim as f64).sqrt();
        let mut out = vec![0.0; c.num_q_heads * c.head_dim];
        for (head, out) in out.chunks_exact_mut(c.head_dim).enumerate() {
            let q = &q[head * c.head_dim..][..c.head_dim];
            let own = head / group * c.head_dim;
            let keys: Vec<usize> = (0..k.len()).filter(|&key| mask[key]).collect();
            let scores: Vec<f64> =
                keys.iter().map(|&key| scale * dot(q, &k[key][own..][..c.head_dim])).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (&key, weight) in keys.iter().zip(&weights) {
                for (out, value) in out.iter_mut().zip(&v[key][own..][..c.head_dim]) {
                    *out += weight / total * value;
                }
            }
        }
        out
    }

    pub(crate) fn norm(&self, name: &str, row: &[f64]) -> Vec<f64> {
        let mean_square = dot(row, row) / row.len() as f64;
        let scale = 1.0 / (mean_square + self.config.rms_eps).sqrt();
        row.iter().zip(&self.weights.get(name).data).map(|(x, w)| x * scale * w).collect()
    }

    /// `W x (+ b)` for the projection `name` (without `.weight`).
    pub(crate) fn linear(&self, name: &str, has_bias: bool, input: &[f64]) -> Vec<f64> {
        let weight = self.weights.get(&format!("{name}.weight"));
        assert_eq!(weight.shape[1], input.len(), "{name}: the input is as wide as the weight");
        let mut out: Vec<f64> = weight.data.chunks_exact(input.len()).map(|row| dot(row, input)).collect();
        if has_bias {
            add(&mut out, &self.weights.get(&format!("{name}.bias")).data);
        }
        out
    }
}

/// Appends a generated token: it belongs to the text at the end, or opens one behind a document.
pub(crate) fn append(context: &mut Vec<Placed>, token: TokenId) {
    let (kind, end) = match context.last() {
        Some(last) => (Some(last.kind), last.start + last.tokens.len() as u32),
        None => (None, 0),
    };
    if kind != Some(SegmentKind::Text) {
        context.push(Placed::new(SegmentKind::Text, Vec::new(), end));
    }
    if let Some(tail) = context.last_mut() {
        tail.tokens.push(token);
    }
}

/// Index of the largest logit, the first of equals.
#[must_use]
pub fn argmax(logits: &[f64]) -> usize {
    top(logits, 1)[0]
}

/// Indices of the `count` largest logits, largest first, the first of equals first.
#[must_use]
pub fn top(logits: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    order.truncate(count);
    order
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

pub(crate) fn add(into: &mut [f64], more: &[f64]) {
    for (x, y) in into.iter_mut().zip(more) {
        *x += y;
    }
}
