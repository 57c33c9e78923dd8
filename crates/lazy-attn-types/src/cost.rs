//! What a step would cost on a device: the yardstick of everything around an executor, and the clock of simulations.

use std::collections::HashSet;
use std::time::Duration;

use crate::StepInput;

/// How the times that a step takes for its memory and for its arithmetic go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// The slower one hides the other (the roofline model, Williams et al., 2009): the best that kernels can do.
    Perfect,
    /// They add up, as they nearly do where every launch is bound by one of them and waits for the launch before it.
    None,
}

/// What a step amounts to, whoever counts it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StepSize {
    /// Tokens that run through the layers.
    pub tokens: f64,
    /// Tokens whose logits are wanted.
    pub rows: f64,
    /// Tokens whose keys and values are read from memory: each distinct segment once, if readings are shared.
    pub kv_tokens: f64,
    /// Pairs of a token and a key that it sees.
    pub token_keys: f64,
    /// Tokens whose keys and values are copied to another place.
    pub copied_tokens: f64,
}

impl StepSize {
    /// The size of `input` if every distinct segment is read once, whatever part of it is seen.
    #[must_use]
    pub fn of(input: &StepInput) -> StepSize {
        let mut seen = HashSet::new();
        let distinct = input.segments.iter().filter(|view| seen.insert(view.handle));
        let kv_tokens = distinct.map(|view| f64::from(view.num_tokens)).sum();
        let keys = input.runs.iter().map(|run| {
            let views = input.segments_of(run);
            let earlier = &views[..views.len().saturating_sub(1)];
            let earlier = earlier.iter().map(|view| f64::from(view.num_tokens - view.first_seen)).sum();
            visible_pairs(run.num_tokens, run.first_local, earlier)
        });
        StepSize {
            tokens: input.tokens.len() as f64,
            rows: input.output_tokens.len() as f64,
            kv_tokens,
            token_keys: keys.sum(),
            copied_tokens: input.reencodings.iter().map(|moved| f64::from(moved.num_tokens)).sum(),
        }
    }
}

/// Pairs of a token and a key that it sees, for tokens `first_local..` of a segment behind `num_earlier` others.
#[must_use]
pub fn visible_pairs(num_tokens: u32, first_local: u32, num_earlier: f64) -> f64 {
    let (tokens, first) = (f64::from(num_tokens), f64::from(first_local));
    tokens * (num_earlier + first + (tokens + 1.0) / 2.0)
}

/// A model on a device.
///
/// The time of a step: its weights, keys and values over the bandwidth; two operations per weight and token and four per
/// visible key and element of all query heads of all layers over the rate; and what every step takes whatever is in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CostModel {
    /// Weights of the layers, which every token meets.
    pub layer_weights: f64,
    /// Weights of the head, which only rows meet.
    pub head_weights: f64,
    /// Bytes of a weight.
    pub weight_size: f64,
    /// `num_layers * num_q_heads * head_dim`.
    pub attention_width: f64,
    /// Bytes of keys and values per token.
    pub kv_bytes_per_token: u64,
    /// Bytes per second that kernels reach.
    pub bytes_per_second: f64,
    /// Operations per second that kernels reach.
    pub flops_per_second: f64,
    /// Seconds of a step that are neither: launches, small kernels, planning, drawing.
    pub step_seconds: f64,
    /// How memory and arithmetic go together.
    pub overlap: Overlap,
}

impl CostModel {
    /// Llama 3.1 8B in bf16 on an H100 with perfect kernels: 80 % of 3.35 TB/s, 50 % of 989 TFLOP/s, and nothing else; every
    /// token is taken to meet all weights. It flatters the device and is severe with the engine.
    #[must_use]
    pub fn llama_8b_on_h100() -> CostModel {
        CostModel {
            layer_weights: 8.03e9,
            head_weights: 0.0,
            weight_size: 2.0,
            attention_width: 32.0 * 32.0 * 128.0,
            // Keys and values, 32 layers, 8 heads of 128, 2 bytes.
            kv_bytes_per_token: 2 * 32 * 8 * 128 * 2,
            bytes_per_second: 0.8 * 3.35e12,
            flops_per_second: 0.5 * 989e12,
            step_seconds: 0.0,
            overlap: Overlap::Perfect,
        }
    }

    /// The same model with this project's kernels, fitted to the rows of docs/performance.md: cuBLASLt reads weights at 2.70
    /// TB/s, large steps reach 669 TFLOP/s beside it, and a step takes 0.75 ms that is neither. `docs/capacity.md` has how far
    /// it is from each row.
    #[must_use]
    pub fn measured_llama_8b_on_h100() -> CostModel {
        CostModel {
            layer_weights: 6.98e9,
            head_weights: 128_256.0 * 4096.0,
            bytes_per_second: 2.70e12,
            flops_per_second: 669e12,
            step_seconds: 0.75e-3,
            overlap: Overlap::None,
            ..CostModel::llama_8b_on_h100()
        }
    }

    /// The time of a step. Copies read and write keys and values.
    #[must_use]
    pub fn time(&self, step: &StepSize) -> Duration {
        let kv_tokens = step.kv_tokens + 2.0 * step.copied_tokens;
        let weights = self.layer_weights + if step.rows > 0.0 { self.head_weights } else { 0.0 };
        let bytes = weights * self.weight_size + kv_tokens * self.kv_bytes_per_token as f64;
        let products = 2.0 * (self.layer_weights * step.tokens + self.head_weights * step.rows);
        let flops = products + 4.0 * self.attention_width * step.token_keys;
        let (memory, arithmetic) = (bytes / self.bytes_per_second, flops / self.flops_per_second);
        let together = match self.overlap {
            Overlap::Perfect => memory.max(arithmetic),
            Overlap::None => memory + arithmetic,
        };
        Duration::from_secs_f64(self.step_seconds + together)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `num_rows` sequences that decode, each over `keys` keys, of which `kv_tokens` are distinct.
    fn decodes(num_rows: f64, keys: f64, kv_tokens: f64) -> StepSize {
        StepSize {
            tokens: num_rows,
            rows: num_rows,
            kv_tokens,
            token_keys: num_rows * keys,
            ..StepSize::default()
        }
    }

    fn documents(count: u32, num_tokens: u32) -> StepSize {
        let tokens = f64::from(count * num_tokens);
        let token_keys = f64::from(count) * visible_pairs(num_tokens, 0, 0.0);
        StepSize { tokens, kv_tokens: tokens, token_keys, ..StepSize::default() }
    }

    /// What a step was measured to take (docs/performance.md), in milliseconds.
    fn measured() -> [(&'static str, StepSize, f64); 7] {
        let question = StepSize {
            tokens: 32.0,
            rows: 1.0,
            kv_tokens: 10_272.0,
            token_keys: visible_pairs(32, 0, 10_240.0),
            ..StepSize::default()
        };
        [
            ("decode, 1 sequence of 2048", decodes(1.0, 2048.0, 2048.0), 6.40),
            ("decode, 8 over the same 2048", decodes(8.0, 2048.0, 2048.0), 6.72),
            ("decode, 32 over the same 2048", decodes(32.0, 2048.0, 2048.0), 7.19),
            ("decode, 64 over the same 8192", decodes(64.0, 8192.0, 8192.0), 8.27),
            ("question of 32 behind 10240 resident", question, 7.9),
            ("encode 16 documents of 512", documents(16, 512), 179.0),
            ("encode 4 documents of 2048", documents(4, 2048), 184.0),
        ]
    }

    #[test]
    fn the_calibrated_model_is_within_four_percent_of_every_measured_step() {
        let model = CostModel::measured_llama_8b_on_h100();
        for (name, step, milliseconds) in measured() {
            let error = model.time(&step).as_secs_f64() * 1e3 / milliseconds - 1.0;
            println!("{name}: {:+.1} %", 100.0 * error);
            // Three constants for seven rows: what is left is what the model does not know.
            assert!(error.abs() < 0.04, "{name}: {error:+.3}");
        }
    }

    #[test]
    fn perfect_kernels_are_faster_than_the_measured_ones_where_memory_counts() {
        let (perfect, measured) = (CostModel::llama_8b_on_h100(), CostModel::measured_llama_8b_on_h100());
        let step = decodes(64.0, 8192.0, 8192.0);
        assert!(perfect.time(&step) < measured.time(&step));
    }

    #[test]
    fn copies_are_read_and_written() {
        let model = CostModel::llama_8b_on_h100();
        let copies = StepSize { copied_tokens: 2048.0, ..decodes(1.0, 16.0, 16.0) };
        let reads = decodes(1.0, 16.0, 16.0 + 2.0 * 2048.0);
        assert_eq!(model.time(&copies), model.time(&reads));
    }

    #[test]
    fn a_token_sees_what_is_before_it() {
        assert_eq!(visible_pairs(1, 0, 0.0), 1.0);
        assert_eq!(visible_pairs(3, 2, 10.0), 13.0 + 14.0 + 15.0);
    }
}
