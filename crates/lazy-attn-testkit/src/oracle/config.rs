//! What the oracle's decoder is.

use serde::{Deserialize, Serialize};

/// Everything that decides the arithmetic of a decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OracleConfig {
    /// Decoder layers.
    pub num_layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub ffn_size: usize,
    /// Query heads.
    pub num_q_heads: usize,
    /// KV heads; query head `h` reads KV head `h / (num_q_heads / num_kv_heads)`.
    pub num_kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Tokens.
    pub vocab_size: usize,
    /// Epsilon of every RMSNorm.
    pub rms_eps: f64,
    /// Rotary embedding.
    pub rope: Rope,
    /// A reader at `p` sees keys at positions above `p - window`.
    pub sliding_window: Option<u32>,
    /// Which projections carry a bias.
    pub bias: BiasFlags,
    /// RMSNorm of q and k per head, before rotation.
    pub qk_norm: bool,
    /// The head is the embedding.
    pub tied_head: bool,
}

/// Which projections carry a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BiasFlags {
    /// On q, k and v.
    pub qkv: bool,
    /// On the attention output.
    pub output: bool,
    /// On gate, up and down.
    pub mlp: bool,
}

/// Rotary embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Rotated dimensions; the rest of a head passes unrotated.
    pub rotary_dim: usize,
    /// Which dimensions form a pair.
    pub pairing: Pairing,
    /// How frequencies are scaled.
    pub kind: RopeKind,
}

/// Which dimensions form a rotated pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pairing {
    /// `d` with `d + rotary_dim / 2`.
    HalfSplit,
    /// `2d` with `2d + 1`.
    Interleaved,
}

/// Frequency scaling.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the parameters carry the names of the published configurations")]
pub enum RopeKind {
    /// Plain RoPE (arXiv:2104.09864).
    Default,
    /// Positions divided by `factor` (arXiv:2306.15595).
    Linear { factor: f64 },
    /// Llama 3.1.
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_context: f64 },
    /// YaRN (arXiv:2309.00071); `attention_factor` multiplies cos and sin of q and of k.
    Yarn {
        factor: f64,
        original_context: f64,
        beta_fast: f64,
        beta_slow: f64,
        attention_factor: f64,
        truncate: bool,
    },
}
