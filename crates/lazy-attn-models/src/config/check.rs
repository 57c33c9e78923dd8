//! Bounds of a config: what is past them is a damaged file or a model this engine was not made for.

use super::{ModelConfig, RopeScaling};
use crate::ModelError;

/// Most decoder layers.
pub const MAX_LAYERS: usize = 1024;
/// Widest residual stream.
pub const MAX_HIDDEN_SIZE: usize = 1 << 16;
/// Widest feed-forward layer.
pub const MAX_INTERMEDIATE_SIZE: usize = 1 << 20;
/// Most query heads.
pub const MAX_HEADS: usize = 1 << 12;
/// Most elements of a head.
pub const MAX_HEAD_DIM: usize = 1 << 10;
/// Largest vocabulary.
pub const MAX_VOCAB_SIZE: usize = 1 << 22;
/// Longest context: positions stay below 2^30.
pub const MAX_CONTEXT_TOKENS: usize = 1 << 30;

impl ModelConfig {
    /// Checks every size against its bound and against the others.
    ///
    /// # Errors
    /// [`ModelError::Config`] naming the first key that is out of bounds.
    pub fn validate(&self) -> Result<(), ModelError> {
        for (key, size, max) in [
            ("hidden_size", self.hidden_size, MAX_HIDDEN_SIZE),
            ("intermediate_size", self.intermediate_size, MAX_INTERMEDIATE_SIZE),
            ("num_hidden_layers", self.num_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_q_heads, MAX_HEADS),
            ("num_key_value_heads", self.num_kv_heads, MAX_HEADS),
            ("head_dim", self.head_dim, MAX_HEAD_DIM),
            ("vocab_size", self.vocab_size, MAX_VOCAB_SIZE),
            ("max_position_embeddings", self.max_context_tokens, MAX_CONTEXT_TOKENS),
        ] {
            if !(1..=max).contains(&size) {
                return Err(ModelError::config(key, format!("is {size}, but must be from 1 to {max}")));
            }
        }
        if !self.num_q_heads.is_multiple_of(self.num_kv_heads) {
            let problem = format!(
                "is {}, which does not divide the {} query heads",
                self.num_kv_heads, self.num_q_heads
            );
            return Err(ModelError::config("num_key_value_heads", problem));
        }
        if self.sliding_window == Some(0) {
            return Err(ModelError::config("sliding_window", "is 0, but must be at least 1"));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            let problem = format!("is {}, but must be above 0 and below 1", self.rms_norm_eps);
            return Err(ModelError::config("rms_norm_eps", problem));
        }
        self.validate_rope()
    }

    fn validate_rope(&self) -> Result<(), ModelError> {
        let rope = &self.rope;
        let range = 2..=self.head_dim;
        if !rope.rotary_dim.is_multiple_of(2) || !range.contains(&rope.rotary_dim) {
            let problem = format!(
                "rotates {} of {} dimensions, but must rotate an even number from 2 up to all of them",
                rope.rotary_dim, self.head_dim
            );
            return Err(ModelError::config("partial_rotary_factor", problem));
        }
        if !(rope.theta.is_finite() && rope.theta > 1.0) {
            return Err(ModelError::config("rope_theta", format!("is {}, but must be above 1", rope.theta)));
        }
        for (key, value) in scaling_numbers(&rope.scaling) {
            if !(value.is_finite() && value > 0.0) {
                return Err(ModelError::config(key, format!("is {value}, but must be above 0")));
            }
        }
        match rope.scaling {
            RopeScaling::Llama3 { low_freq_factor: low, high_freq_factor: high, .. } if low >= high => {
                Err(ModelError::config(
                    "high_freq_factor",
                    format!("is {high}, but must be above low_freq_factor {low}"),
                ))
            }
            RopeScaling::Yarn { attention_factor, .. }
                if attention_factor != 1.0 && rope.rotary_dim != self.head_dim =>
            {
                let problem =
                    "scales only the rotated dimensions of a partly rotated head, which is not supported";
                Err(ModelError::config("attention_factor", problem))
            }
            _ => Ok(()),
        }
    }

    /// Elements of all weights, for progress and memory estimates.
    #[must_use]
    pub fn num_parameters(&self) -> u64 {
        let tensors = crate::weights::expected_tensors(self);
        tensors.iter().map(|(_, shape)| shape.iter().map(|&size| size as u64).product::<u64>()).sum()
    }
}

fn scaling_numbers(scaling: &RopeScaling) -> Vec<(&'static str, f32)> {
    match *scaling {
        RopeScaling::Default => Vec::new(),
        RopeScaling::Linear { factor } => vec![("factor", factor)],
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => vec![
            ("factor", factor),
            ("low_freq_factor", low_freq_factor),
            ("high_freq_factor", high_freq_factor),
            ("original_max_position_embeddings", original_context),
        ],
        RopeScaling::Yarn {
            factor,
            original_context,
            beta_fast,
            beta_slow,
            attention_factor,
            truncate: _,
        } => vec![
            ("factor", factor),
            ("original_max_position_embeddings", original_context),
            ("beta_fast", beta_fast),
            ("beta_slow", beta_slow),
            ("attention_factor", attention_factor),
        ],
    }
}
