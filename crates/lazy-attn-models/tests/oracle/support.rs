//! Tiny models behind the traits of this crate.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use half::{bf16, f16};
use lazy_attn::KvDtype;
use lazy_attn_models::config::{Bias, HeadWeights, QkNorm, RopeConfig, RopePairing, RopeScaling};
use lazy_attn_models::cpu::{CpuExecutor, CpuOptions, KvBudget, WeightDtype};
use lazy_attn_models::weights::{RawTensor, TensorDtype, TensorSource};
use lazy_attn_models::{ModelConfig, ModelError, Silent};
use lazy_attn_testkit::oracle::{Pairing, Rope, RopeKind};
use lazy_attn_testkit::{Player, TinyModel, TinyTensor};
use lazy_attn_types::BlockSize;

/// An element type of weights or of the KV store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    F32,
    F16,
    Bf16,
    Q8_0,
}

/// How a tiny model is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    /// How the file has the weights.
    pub(crate) weights: Stored,
    /// How the executor holds them.
    pub(crate) weight_dtype: WeightDtype,
    pub(crate) kv: Stored,
    pub(crate) block_size: u32,
    pub(crate) num_threads: usize,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            weights: Stored::F32,
            weight_dtype: WeightDtype::F32,
            kv: Stored::F32,
            block_size: 16,
            num_threads: 2,
        }
    }
}

/// What the crate calls the model.
pub(crate) fn config(model: &TinyModel) -> ModelConfig {
    let c = &model.config;
    ModelConfig {
        family: "llama".into(),
        hidden_size: c.hidden_size,
        intermediate_size: c.ffn_size,
        num_layers: c.num_layers,
        num_q_heads: c.num_q_heads,
        num_kv_heads: c.num_kv_heads,
        head_dim: c.head_dim,
        vocab_size: c.vocab_size,
        rms_norm_eps: c.rms_eps as f32,
        max_context_tokens: 1 << 20,
        rope: rope(&c.rope),
        sliding_window: c.sliding_window,
        head: if c.tied_head { HeadWeights::Tied } else { HeadWeights::Untied },
        bias: Bias { qkv: c.bias.qkv, output: c.bias.output, mlp: c.bias.mlp },
        qk_norm: if c.qk_norm { QkNorm::PerHead } else { QkNorm::Off },
    }
}

/// What the crate calls a rotary embedding.
pub(crate) fn rope(rope: &Rope) -> RopeConfig {
    let exact = |value: f64| {
        assert_eq!(f64::from(value as f32), value, "tiny models have parameters that float32 holds");
        value as f32
    };
    let scaling = match rope.kind {
        RopeKind::Default => RopeScaling::Default,
        RopeKind::Linear { factor } => RopeScaling::Linear { factor: exact(factor) },
        RopeKind::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            RopeScaling::Llama3 {
                factor: exact(factor),
                low_freq_factor: exact(low_freq_factor),
                high_freq_factor: exact(high_freq_factor),
                original_context: exact(original_context),
            }
        }
        RopeKind::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, truncate } => {
            RopeScaling::Yarn {
                factor: exact(factor),
                original_context: exact(original_context),
                beta_fast: exact(beta_fast),
                beta_slow: exact(beta_slow),
                attention_factor: exact(attention_factor),
                truncate,
            }
        }
    };
    let pairing = match rope.pairing {
        Pairing::HalfSplit => RopePairing::HalfSplit,
        Pairing::Interleaved => RopePairing::Interleaved,
    };
    RopeConfig { theta: exact(rope.theta), rotary_dim: rope.rotary_dim, pairing, scaling }
}

/// The tensors of a tiny model, matrices stored as `dtype` and vectors as float32.
pub(crate) struct TinySource {
    tensors: BTreeMap<String, TinyTensor>,
    dtype: Stored,
}

impl TinySource {
    pub(crate) fn new(model: &TinyModel, dtype: Stored) -> TinySource {
        let tensors = model.tensors().into_iter().map(|tensor| (tensor.name.clone(), tensor));
        TinySource { tensors: tensors.collect(), dtype }
    }
}

impl TensorSource for TinySource {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<RawTensor<'_>, ModelError> {
        let refused = |problem: String| ModelError::Tensor { name: name.to_owned(), problem };
        let tensor = self.tensors.get(name).ok_or_else(|| refused("is missing".into()))?;
        if tensor.shape != shape {
            return Err(refused(format!("has shape {:?} instead of {shape:?}", tensor.shape)));
        }
        let stored = if shape.len() == 1 { Stored::F32 } else { self.dtype };
        let (dtype, bytes) = encode(&tensor.data, stored);
        Ok(RawTensor { dtype, shape: shape.to_vec(), bytes: Cow::Owned(bytes) })
    }

    fn total_bytes(&self) -> u64 {
        self.tensors.values().map(|tensor| encode(&tensor.data, self.dtype).1.len() as u64).sum()
    }
}

fn encode(values: &[f32], stored: Stored) -> (TensorDtype, Vec<u8>) {
    match stored {
        Stored::F32 => (TensorDtype::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Stored::F16 => {
            (TensorDtype::F16, values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect())
        }
        Stored::Bf16 => {
            (TensorDtype::Bf16, values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect())
        }
        Stored::Q8_0 => (TensorDtype::Q8_0, values.chunks(32).flat_map(q8_0_block).collect()),
    }
}

/// A Q8_0 block: a float16 scale and 32 signed bytes.
fn q8_0_block(values: &[f32]) -> Vec<u8> {
    let scale = values.iter().fold(0.0f32, |max, x| max.max(x.abs())) / 127.0;
    let mut bytes = f16::from_f32(scale).to_le_bytes().to_vec();
    bytes.extend(values.iter().map(|x| (x / scale) as i8 as u8));
    bytes
}

pub(crate) fn as_f64(logits: &[f32]) -> Vec<f64> {
    logits.iter().copied().map(f64::from).collect()
}

pub(crate) type TinyPlayer = Player<CpuExecutor>;

/// A player of `model` on the CPU executor, its blocks scattered.
pub(crate) fn player(model: &TinyModel, setup: Setup) -> TinyPlayer {
    let kv_dtype = match setup.kv {
        Stored::F16 => KvDtype::F16,
        Stored::Bf16 => KvDtype::Bf16,
        Stored::F32 | Stored::Q8_0 => KvDtype::F32,
    };
    let options = CpuOptions {
        num_threads: NonZeroUsize::new(setup.num_threads),
        weight_dtype: setup.weight_dtype,
        kv_dtype: Some(kv_dtype),
        kv_budget: KvBudget::Blocks(16384 / setup.block_size),
        block_size: BlockSize::new(setup.block_size).unwrap(),
        max_step_tokens: 512,
    };
    let (config, tensors) = (config(model), TinySource::new(model, setup.weights));
    let model = lazy_attn_models::ModelParts { config: &config, tensors: &tensors, fingerprint_parts: &[] };
    Player::new(CpuExecutor::new(model, &options, &Silent).unwrap(), 3)
}
