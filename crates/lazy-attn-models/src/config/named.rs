//! Shapes of well-known models, for random weights.

use super::{Bias, HeadWeights, ModelConfig, QkNorm, RopeConfig, RopePairing, RopeScaling};

/// The columns in which the shapes differ.
struct Shape {
    name: &'static str,
    family: &'static str,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    q_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
    context: usize,
    theta: f32,
    /// Factor of Llama 3 scaling, 0 for none.
    llama3_factor: f32,
    head: HeadWeights,
}

use HeadWeights::{Tied, Untied};

#[rustfmt::skip]
const SHAPES: &[Shape] = &[
    shape("tiny", "llama", [64, 160, 2, 4, 2, 16, 512, 4096], (1e4, 0.0), Tied),
    shape("smollm2-135m", "llama", [576, 1536, 30, 9, 3, 64, 49_152, 8192], (1e5, 0.0), Tied),
    shape("tinyllama-1.1b", "llama", [2048, 5632, 22, 32, 4, 64, 32_000, 2048], (1e4, 0.0), Untied),
    shape("llama-2-7b", "llama", [4096, 11_008, 32, 32, 32, 128, 32_000, 4096], (1e4, 0.0), Untied),
    shape("llama-3.2-1b", "llama", [2048, 8192, 16, 32, 8, 64, 128_256, 131_072], (5e5, 32.0), Tied),
    shape("llama-3.2-3b", "llama", [3072, 8192, 28, 24, 8, 128, 128_256, 131_072], (5e5, 32.0), Tied),
    shape("llama-3.1-8b", "llama", [4096, 14_336, 32, 32, 8, 128, 128_256, 131_072], (5e5, 8.0), Untied),
    shape("llama-3.1-70b", "llama", [8192, 28_672, 80, 64, 8, 128, 128_256, 131_072], (5e5, 8.0), Untied),
    shape("mistral-7b-v0.1", "mistral", [4096, 14_336, 32, 32, 8, 128, 32_000, 32_768], (1e4, 0.0), Untied),
    shape("mistral-7b-v0.3", "mistral", [4096, 14_336, 32, 32, 8, 128, 32_768, 32_768], (1e6, 0.0), Untied),
    shape("qwen2.5-0.5b", "qwen2", [896, 4864, 24, 14, 2, 64, 151_936, 32_768], (1e6, 0.0), Tied),
    shape("qwen2.5-7b", "qwen2", [3584, 18_944, 28, 28, 4, 128, 152_064, 32_768], (1e6, 0.0), Untied),
    shape("qwen3-0.6b", "qwen3", [1024, 3072, 28, 16, 8, 128, 151_936, 40_960], (1e6, 0.0), Tied),
    shape("qwen3-8b", "qwen3", [4096, 12_288, 36, 32, 8, 128, 151_936, 40_960], (1e6, 0.0), Untied),
];

const fn shape(
    name: &'static str,
    family: &'static str,
    sizes: [usize; 8],
    (theta, llama3_factor): (f32, f32),
    head: HeadWeights,
) -> Shape {
    let [hidden, intermediate, layers, q_heads, kv_heads, head_dim, vocab, context] = sizes;
    Shape {
        name,
        family,
        hidden,
        intermediate,
        layers,
        q_heads,
        kv_heads,
        head_dim,
        vocab,
        context,
        theta,
        llama3_factor,
        head,
    }
}

impl ModelConfig {
    /// Names [`named`](ModelConfig::named) knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SHAPES.iter().map(|shape| shape.name)
    }

    /// The shape of a well-known model: `tiny`, `llama-3.2-1b`, `llama-3.1-8b`, ... (see [`names`](ModelConfig::names)).
    #[must_use]
    pub fn named(name: &str) -> Option<ModelConfig> {
        SHAPES.iter().find(|shape| shape.name == name).map(Shape::config)
    }
}

impl Shape {
    fn config(&self) -> ModelConfig {
        let scaling = match self.llama3_factor {
            0.0 => RopeScaling::Default,
            factor => RopeScaling::Llama3 {
                factor,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: 8192.0,
            },
        };
        ModelConfig {
            family: self.family.to_owned(),
            hidden_size: self.hidden,
            intermediate_size: self.intermediate,
            num_layers: self.layers,
            num_q_heads: self.q_heads,
            num_kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            vocab_size: self.vocab,
            rms_norm_eps: if self.family == "llama" || self.family == "mistral" { 1e-5 } else { 1e-6 },
            max_context_tokens: self.context,
            rope: RopeConfig {
                theta: self.theta,
                rotary_dim: self.head_dim,
                pairing: RopePairing::HalfSplit,
                scaling,
            },
            sliding_window: (self.name == "mistral-7b-v0.1").then_some(4096),
            head: self.head,
            bias: Bias { qkv: self.family == "qwen2", output: false, mlp: false },
            qk_norm: if self.family == "qwen3" { QkNorm::PerHead } else { QkNorm::Off },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_shape_is_a_valid_model_of_about_the_size_in_its_name() {
        for name in ModelConfig::names() {
            let config = ModelConfig::named(name).unwrap();
            config.validate().unwrap();
            let number = |suffix: char, unit: f64| {
                let digits = name.rsplit('-').find_map(|part| part.strip_suffix(suffix))?;
                digits.parse::<f64>().ok().map(|digits| digits * unit)
            };
            let Some(claimed) = number('b', 1e9).or_else(|| number('m', 1e6)) else { continue };
            let ratio = config.num_parameters() as f64 / claimed;
            // Names round, and some leave out the embedding.
            assert!((0.85..1.25).contains(&ratio), "{name} has {} parameters", config.num_parameters());
        }
    }

    #[test]
    fn an_unknown_name_is_no_shape() {
        assert_eq!(ModelConfig::named("llama-9"), None);
    }
}
