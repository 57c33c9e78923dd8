//! Small models with seeded weights.
//!
//! Every weight is `i * 2^-s` with an integer `|i| <= 127` and one `|i| = 127` in each run of 32 along a row: f32, f16
//! and bf16 hold it exactly, and so does Q8_0. A test in another weight dtype therefore compares arithmetic, not
//! rounding of weights.

use crate::oracle::{BiasFlags, Oracle, OracleConfig, OracleWeights, Pairing, Rope, RopeKind};
use crate::rng::SplitMix64;

/// A tensor as an engine would read it from a file.
#[derive(Debug, Clone, PartialEq)]
pub struct TinyTensor {
    /// Its Hugging Face name.
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Row-major elements.
    pub data: Vec<f32>,
}

/// A small model: shape and seed decide every bit of it.
#[derive(Debug, Clone, PartialEq)]
pub struct TinyModel {
    /// Its shape.
    pub config: OracleConfig,
    /// Seed of its weights.
    pub seed: u64,
}

impl TinyModel {
    /// The shape most tests start from: 2 layers, hidden 64, 4 query and 2 KV heads of 16, plain RoPE, untied head.
    #[must_use]
    pub fn base() -> TinyModel {
        let rope =
            Rope { theta: 10000.0, rotary_dim: 16, pairing: Pairing::HalfSplit, kind: RopeKind::Default };
        let config = OracleConfig {
            num_layers: 2,
            hidden_size: 64,
            ffn_size: 96,
            num_q_heads: 4,
            num_kv_heads: 2,
            head_dim: 16,
            vocab_size: 97,
            rms_eps: 2f64.powi(-17),
            rope,
            sliding_window: None,
            bias: BiasFlags::default(),
            qk_norm: false,
            tied_head: false,
        };
        TinyModel { config, seed: 1 }
    }

    /// The base with `group` query heads per KV head (two KV heads).
    #[must_use]
    pub fn gqa(group: usize) -> TinyModel {
        TinyModel::base().with(|config| config.num_q_heads = group * config.num_kv_heads)
    }

    /// The base with another head size, rotated whole.
    #[must_use]
    pub fn head_dim(head_dim: usize) -> TinyModel {
        TinyModel::base().with(|config| {
            config.head_dim = head_dim;
            config.rope.rotary_dim = head_dim;
        })
    }

    /// The base with another rotary embedding.
    #[must_use]
    pub fn rope(kind: RopeKind) -> TinyModel {
        TinyModel::base().with(|config| config.rope.kind = kind)
    }

    /// This model with a changed config.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut OracleConfig)) -> TinyModel {
        change(&mut self.config);
        self
    }

    /// The same model in float64.
    #[must_use]
    pub fn oracle(&self) -> Oracle {
        let mut weights = OracleWeights::default();
        for tensor in self.tensors() {
            let data = tensor.data.iter().copied().map(f64::from).collect();
            weights.insert(&tensor.name, &tensor.shape, data);
        }
        Oracle { config: self.config.clone(), weights, kv_noise: None }
    }

    /// All tensors; a tensor's values depend on the seed, its name and its shape only.
    #[must_use]
    pub fn tensors(&self) -> Vec<TinyTensor> {
        let c = &self.config;
        let (hidden, vocab) = (c.hidden_size, c.vocab_size);
        // A wide embedding makes logits of a tied head spread as those of an untied one do.
        let mut all = vec![self.matrix("model.embed_tokens.weight", vocab, hidden, 4.0)];
        for layer in 0..c.num_layers {
            self.push_layer(&format!("model.layers.{layer}"), &mut all);
        }
        all.push(self.vector("model.norm.weight", hidden, Vector::NormWeight));
        if !c.tied_head {
            all.push(self.matrix("lm_head.weight", vocab, hidden, 4.0));
        }
        all
    }

    fn push_layer(&self, prefix: &str, all: &mut Vec<TinyTensor>) {
        let c = &self.config;
        let (q_width, kv_width) = (c.num_q_heads * c.head_dim, c.num_kv_heads * c.head_dim);
        let (h, f) = (c.hidden_size, c.ffn_size);
        // q and k are wide, so that attention is sharp and a wrong position is far from harmless.
        let projections = [
            ("self_attn.q_proj", q_width, h, 2.0, c.bias.qkv),
            ("self_attn.k_proj", kv_width, h, 2.0, c.bias.qkv),
            ("self_attn.v_proj", kv_width, h, 1.0, c.bias.qkv),
            ("self_attn.o_proj", h, q_width, 1.0, c.bias.output),
            ("mlp.gate_proj", f, h, 1.0, c.bias.mlp),
            ("mlp.up_proj", f, h, 1.0, c.bias.mlp),
            ("mlp.down_proj", h, f, 1.0, c.bias.mlp),
        ];
        for (name, rows, columns, gain, has_bias) in projections {
            all.push(self.matrix(&format!("{prefix}.{name}.weight"), rows, columns, gain));
            if has_bias {
                all.push(self.vector(&format!("{prefix}.{name}.bias"), rows, Vector::Bias));
            }
        }
        let mut norms = vec![("input_layernorm", h), ("post_attention_layernorm", h)];
        if c.qk_norm {
            norms.extend([("self_attn.q_norm", c.head_dim), ("self_attn.k_norm", c.head_dim)]);
        }
        for (name, width) in norms {
            all.push(self.vector(&format!("{prefix}.{name}.weight"), width, Vector::NormWeight));
        }
    }

    /// `[rows, columns]` with a standard deviation of about `gain / sqrt(columns)`.
    fn matrix(&self, name: &str, rows: usize, columns: usize, gain: f64) -> TinyTensor {
        let mut rng = self.rng(name);
        // Uniform integers up to 127 deviate by 73.6; the step is the nearest power of two, which rounding keeps.
        let step = (gain / (columns as f64).sqrt() / 73.6).log2().round().exp2();
        let draw = |index: usize| {
            let value = rng.below(255) as f64 - 127.0;
            // The largest value opens every run of 32, so Q8_0 scales by exactly the step.
            let value = if (index % columns).is_multiple_of(32) { value.signum() * 127.0 } else { value };
            let value = if value == 0.0 { 1.0 } else { value };
            (value * step) as f32
        };
        let data = (0..rows * columns).map(draw).collect();
        TinyTensor { name: name.to_owned(), shape: vec![rows, columns], data }
    }

    fn vector(&self, name: &str, width: usize, kind: Vector) -> TinyTensor {
        let mut rng = self.rng(name);
        let draw = |_| match kind {
            Vector::NormWeight => (rng.below(65) as f32 + 32.0) / 64.0,
            Vector::Bias => (rng.below(129) as f32 - 64.0) / 128.0,
        };
        TinyTensor { name: name.to_owned(), shape: vec![width], data: (0..width).map(draw).collect() }
    }

    fn rng(&self, name: &str) -> SplitMix64 {
        let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        SplitMix64::new(name.bytes().fold(0xcbf2_9ce4_8422_2325 ^ self.seed, fold))
    }
}

#[derive(Clone, Copy)]
enum Vector {
    NormWeight,
    Bias,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_survives_bf16_and_f16() {
        for tensor in TinyModel::base().with(|c| c.bias.qkv = true).tensors() {
            for value in tensor.data {
                // bf16 is the upper half of the bits; f16 holds 11 significant bits down to 2^-14.
                assert_eq!(value.to_bits() & 0xffff, 0, "{}: {value}", tensor.name);
                let normal = value == 0.0 || (6.2e-5..65504.0).contains(&value.abs());
                assert!(normal, "{}: {value}", tensor.name);
            }
        }
    }

    #[test]
    fn q8_0_holds_every_matrix_exactly() {
        for tensor in TinyModel::gqa(3).tensors().iter().filter(|tensor| tensor.shape.len() == 2) {
            for run in tensor.data.chunks_exact(tensor.shape[1]).flat_map(|row| row.chunks(32)) {
                let scale = run.iter().fold(0.0f32, |max, x| max.max(x.abs())) / 127.0;
                let whole = run.iter().all(|x| (x / scale).fract() == 0.0);
                assert!(whole && scale.log2().fract() == 0.0, "{}: {run:?}", tensor.name);
            }
        }
    }

    #[test]
    fn shapes_follow_the_config() {
        let model = TinyModel::gqa(3).with(|c| c.tied_head = true);
        let tensors = model.tensors();
        let shape = |name: &str| tensors.iter().find(|t| t.name == name).map(|t| t.shape.clone());
        assert_eq!(shape("model.layers.1.self_attn.q_proj.weight"), Some(vec![96, 64]));
        assert_eq!(shape("model.layers.1.self_attn.k_proj.weight"), Some(vec![32, 64]));
        assert_eq!(shape("lm_head.weight"), None);
    }
}
