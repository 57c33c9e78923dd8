//! The weights of one layer.

use super::ops::Norm;
use crate::{
    ModelConfig, ModelError,
    config::{QkNorm, RopePairing},
    cpu::linear::{BiasUse, Linear, LinearPart, WeightDtype, load_vector},
    weights::TensorSource,
};

/// One decoder layer; products that share their input are fused.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) input_norm: Norm,
    pub(super) qkv: Linear,
    /// Norms of q and k per head.
    pub(super) qk_norm: Option<(Norm, Norm)>,
    pub(super) output: Linear,
    pub(super) mlp_norm: Norm,
    pub(super) gate_up: Linear,
    pub(super) down: Linear,
}

/// Where a layer's tensors come from.
#[derive(Clone, Copy)]
pub(super) struct Loader<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) source: &'a dyn TensorSource,
    pub(super) dtype: WeightDtype,
}

impl Loader<'_> {
    pub(super) fn layer(&self, index: usize) -> Result<Layer, ModelError> {
        let config = self.config;
        let prefix = format!("model.layers.{index}");
        let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
        let (q_width, kv_width) =
            (config.num_q_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let part = |name: &str, out_features: usize, has_bias: bool| LinearPart {
            name: format!("{prefix}.{name}"),
            out_features,
            bias: if has_bias { BiasUse::Added } else { BiasUse::Absent },
            row_order: None,
        };
        let rotated = |name: &str, num_heads: usize| LinearPart {
            row_order: self.head_order().map(|order| repeat_per_head(&order, num_heads)),
            ..part(name, num_heads * config.head_dim, config.bias.qkv)
        };
        let qkv = [
            rotated("self_attn.q_proj", config.num_q_heads),
            rotated("self_attn.k_proj", config.num_kv_heads),
            part("self_attn.v_proj", kv_width, config.bias.qkv),
        ];
        let output = [part("self_attn.o_proj", hidden, config.bias.output)];
        let gate_up =
            [part("mlp.gate_proj", ffn, config.bias.mlp), part("mlp.up_proj", ffn, config.bias.mlp)];
        let down = [part("mlp.down_proj", hidden, config.bias.mlp)];
        Ok(Layer {
            input_norm: self.norm(&format!("{prefix}.input_layernorm"), hidden)?,
            qkv: self.linear(&qkv, hidden)?,
            qk_norm: self.qk_norm(&prefix)?,
            output: self.linear(&output, q_width)?,
            mlp_norm: self.norm(&format!("{prefix}.post_attention_layernorm"), hidden)?,
            gate_up: self.linear(&gate_up, hidden)?,
            down: self.linear(&down, ffn)?,
        })
    }

    pub(super) fn linear(&self, parts: &[LinearPart], in_features: usize) -> Result<Linear, ModelError> {
        Linear::load(self.source, parts, in_features, self.dtype)
    }

    /// `[vocab_size, hidden_size]`, the embedding or the head.
    pub(super) fn vocabulary(&self, name: &str) -> Result<Linear, ModelError> {
        let (out_features, hidden) = (self.config.vocab_size, self.config.hidden_size);
        let part = LinearPart { name: name.into(), out_features, bias: BiasUse::Absent, row_order: None };
        self.linear(&[part], hidden)
    }

    pub(super) fn norm(&self, name: &str, width: usize) -> Result<Norm, ModelError> {
        let weight = load_vector(self.source, &format!("{name}.weight"), width)?;
        Ok(Norm { weight, eps: self.config.rms_norm_eps })
    }

    fn qk_norm(&self, prefix: &str) -> Result<Option<(Norm, Norm)>, ModelError> {
        if self.config.qk_norm == QkNorm::Off {
            return Ok(None);
        }
        let load = |name: &str| -> Result<Norm, ModelError> {
            let mut norm = self.norm(&format!("{prefix}.self_attn.{name}"), self.config.head_dim)?;
            if let Some(order) = self.head_order() {
                norm.weight = order.iter().map(|&index| norm.weight[index]).collect();
            }
            Ok(norm)
        };
        Ok(Some((load("q_norm")?, load("k_norm")?)))
    }

    /// The order that turns interleaved pairs into half-split ones, within a head; `None` if they are half-split.
    fn head_order(&self) -> Option<Vec<usize>> {
        let (config, rotary_dim) = (self.config, self.config.rope.rotary_dim);
        if config.rope.pairing == RopePairing::HalfSplit {
            return None;
        }
        let even = (0..rotary_dim).step_by(2);
        Some(even.clone().chain(even.map(|even| even + 1)).chain(rotary_dim..config.head_dim).collect())
    }
}

fn repeat_per_head(order: &[usize], num_heads: usize) -> Vec<usize> {
    (0..num_heads).flat_map(|head| order.iter().map(move |index| head * order.len() + index)).collect()
}
