//! What a decoder is: one plain-data description that covers every supported family.
//!
//! [`ModelConfig::from_hugging_face`] reads a `config.json`, [`weights::gguf`](crate::weights::gguf) the metadata of a
//! GGUF file; [`ModelConfig::named`] knows the shapes of well-known models.

mod check;
mod fields;
mod hugging_face;
mod hugging_face_rope;
mod named;
mod rope;

pub(crate) use fields::Fields;

pub use check::{
    MAX_CONTEXT_TOKENS, MAX_HEAD_DIM, MAX_HEADS, MAX_HIDDEN_SIZE, MAX_INTERMEDIATE_SIZE, MAX_LAYERS,
    MAX_VOCAB_SIZE,
};
pub use rope::{LENGTH_DEPENDENT, yarn_attention_factor};

/// Everything that decides the arithmetic of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Family name as its files give it: `llama`, `mistral`, `qwen2`, `qwen3`.
    pub family: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_layers: usize,
    /// Query heads.
    pub num_q_heads: usize,
    /// Key and value heads; divides `num_q_heads`.
    pub num_kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f32,
    /// Longest context the model was made for.
    pub max_context_tokens: usize,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// Logical sliding window: a query at `p` sees keys at positions above `p - window`; `None` sees all.
    pub sliding_window: Option<u32>,
    /// Whether the head is the embedding.
    pub head: HeadWeights,
    /// Which projections carry a bias.
    pub bias: Bias,
    /// Whether q and k are RMS-normalised per head before rotation (Qwen3).
    pub qk_norm: QkNorm,
}

/// Where the output head's weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadWeights {
    /// The embedding matrix.
    Tied,
    /// `lm_head.weight`.
    Untied,
}

/// Biases of the projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bias {
    /// On q, k and v.
    pub qkv: bool,
    /// On the attention output.
    pub output: bool,
    /// On gate, up and down.
    pub mlp: bool,
}

/// Norm of q and k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    Off,
    /// RMSNorm over `head_dim`, weights `q_norm` and `k_norm`.
    PerHead,
}

/// Rotary embedding of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f32,
    /// Rotated dimensions, even, at most `head_dim`.
    pub rotary_dim: usize,
    /// Which dimensions form a pair in the stored weights.
    pub pairing: RopePairing,
    /// How the frequencies are scaled.
    pub scaling: RopeScaling,
}

/// Which dimensions form a rotated pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairing {
    /// `d` with `d + rotary_dim / 2` (GPT-NeoX, Hugging Face Llama). What the kernels run.
    HalfSplit,
    /// `2d` with `2d + 1` (GGUF files of the llama family); q and k rows are permuted at load.
    Interleaved,
}

/// Frequency scaling that does not depend on the total length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// Frequencies divided by `factor`.
    Linear {
        /// Divisor.
        factor: f32,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, a smooth ramp between the two bounds.
    Llama3 {
        /// Divisor of the long wavelengths.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` are divided.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` are kept.
        high_freq_factor: f32,
        /// Context the model was first trained on.
        original_context: f32,
    },
    /// YaRN (arXiv:2309.00071); `attention_factor` scales q and k, so the softmax scale carries its square.
    Yarn {
        /// Context extension.
        factor: f32,
        /// Context the model was first trained on.
        original_context: f32,
        /// Fast-rotation bound of the ramp, in turns.
        beta_fast: f32,
        /// Slow-rotation bound of the ramp, in turns.
        beta_slow: f32,
        /// Factor on cos and sin of both q and k.
        attention_factor: f32,
        /// Whether ramp bounds are rounded to whole dimensions.
        truncate: bool,
    },
}
