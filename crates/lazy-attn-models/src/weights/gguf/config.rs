//! GGUF metadata to a [`ModelConfig`].

use super::file::GgufFile;
use super::keys::Keys;
use super::value::Value;
use crate::ModelError;
use crate::config::{
    Bias, HeadWeights, ModelConfig, QkNorm, RopeConfig, RopePairing, RopeScaling, yarn_attention_factor,
};
use crate::weights::{RawTensor, TensorDtype};

/// Keys of an architecture that are read below, or that change nothing.
const KNOWN_KEYS: &[&str] = &[
    ".attention.causal",
    ".attention.head_count",
    ".attention.head_count_kv",
    ".attention.key_length",
    ".attention.layer_norm_rms_epsilon",
    ".attention.sliding_window",
    ".attention.value_length",
    ".block_count",
    ".context_length",
    ".embedding_length",
    ".expert_count",
    ".expert_used_count",
    ".feed_forward_length",
    ".rope.dimension_count",
    ".rope.freq_base",
    ".rope.scale_linear",
    ".rope.scaling.attn_factor",
    ".rope.scaling.factor",
    ".rope.scaling.finetuned",
    ".rope.scaling.original_context_length",
    ".rope.scaling.type",
    ".rope.scaling.yarn_beta_fast",
    ".rope.scaling.yarn_beta_slow",
    ".tensor_data_layout",
    ".vocab_size",
];

/// The decoder that `file` describes.
///
/// Architecture `llama` (Llama, Mistral, TinyLlama, SmolLM2) stores the rows of q and k in interleaved pairs; `qwen2`
/// and `qwen3` store them as Hugging Face does.
///
/// # Errors
/// [`ModelError::Config`] naming a key that is missing, unknown or has a value this engine cannot run exactly.
pub fn model_config(file: &GgufFile) -> Result<ModelConfig, ModelError> {
    let architecture = match file.value("general.architecture") {
        Some(Value::Text(text)) => text.as_str(),
        _ => return Err(ModelError::config("general.architecture", "is missing or not a text")),
    };
    let keys = Keys { file, architecture };
    check_container(&keys)?;
    let pairing = match architecture {
        "llama" => RopePairing::Interleaved,
        "qwen2" | "qwen3" => RopePairing::HalfSplit,
        other => {
            let problem = format!("is `{other}`, but llama, qwen2 and qwen3 are supported");
            return Err(keys.error("general.architecture", problem));
        }
    };
    check_keys(&keys)?;
    let config = read(&keys, pairing)?;
    config.validate()?;
    Ok(config)
}

/// Refuses files that are a part of a model, or change one.
fn check_container(keys: &Keys<'_>) -> Result<(), ModelError> {
    if keys.integer("split.count")?.is_some_and(|count| count > 1) {
        return Err(
            keys.error("split.count", "says the model is split; join the parts with `gguf-split --merge`")
        );
    }
    match keys.text("general.type")? {
        None | Some("model") => Ok(()),
        Some(other) => Err(keys.error("general.type", format!("is `{other}`, but must be `model`"))),
    }
}

fn check_keys(keys: &Keys<'_>) -> Result<(), ModelError> {
    let mut own: Vec<&str> = keys
        .file
        .keys()
        .filter_map(|key| key.strip_prefix(keys.architecture))
        .filter(|key| key.starts_with('.'))
        .collect();
    own.sort_unstable();
    if let Some(unknown) = own.into_iter().find(|key| !KNOWN_KEYS.contains(key)) {
        return Err(keys.error(unknown, "is unknown, and may change the model's results"));
    }
    if keys.integer(".expert_count")?.is_some_and(|count| count > 0) {
        return Err(
            keys.error(".expert_count", "says the model is a mixture of experts, which is not supported")
        );
    }
    if keys.flag(".attention.causal")? == Some(false) {
        return Err(keys.error(".attention.causal", "is false, but only causal models are supported"));
    }
    Ok(())
}

fn read(keys: &Keys<'_>, pairing: RopePairing) -> Result<ModelConfig, ModelError> {
    let file = keys.file;
    let num_q_heads = keys.required(".attention.head_count")?;
    let hidden_size = keys.required(".embedding_length")?;
    let head_dim = head_dim(keys, hidden_size, num_q_heads)?;
    let has = |name: &str| file.place(name).is_some();
    Ok(ModelConfig {
        family: keys.architecture.to_owned(),
        hidden_size,
        intermediate_size: keys.required(".feed_forward_length")?,
        num_layers: keys.required(".block_count")?,
        num_q_heads,
        num_kv_heads: keys.integer(".attention.head_count_kv")?.unwrap_or(num_q_heads),
        head_dim,
        vocab_size: vocab_size(keys)?,
        rms_norm_eps: keys
            .float(".attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| keys.error(".attention.layer_norm_rms_epsilon", "is missing from the metadata"))?,
        max_context_tokens: keys.required(".context_length")?,
        rope: rope(keys, head_dim, pairing)?,
        sliding_window: sliding_window(keys)?,
        head: if has("output.weight") { HeadWeights::Untied } else { HeadWeights::Tied },
        bias: Bias {
            qkv: has("blk.0.attn_q.bias"),
            output: has("blk.0.attn_output.bias"),
            mlp: has("blk.0.ffn_gate.bias"),
        },
        qk_norm: if has("blk.0.attn_q_norm.weight") { QkNorm::PerHead } else { QkNorm::Off },
    })
}

fn head_dim(keys: &Keys<'_>, hidden_size: usize, num_q_heads: usize) -> Result<usize, ModelError> {
    let head_dim = match keys.integer(".attention.key_length")? {
        Some(size) => size,
        None if num_q_heads > 0 && hidden_size.is_multiple_of(num_q_heads) => hidden_size / num_q_heads,
        None => {
            let problem =
                format!("is {num_q_heads}, which does not divide the embedding length {hidden_size}");
            return Err(keys.error(".attention.head_count", problem));
        }
    };
    match keys.integer(".attention.value_length")? {
        Some(size) if size != head_dim => {
            let problem = format!("is {size}, but keys have {head_dim}; both must be equal");
            Err(keys.error(".attention.value_length", problem))
        }
        _ => Ok(head_dim),
    }
}

/// Rows of the embedding, which the metadata must not contradict.
fn vocab_size(keys: &Keys<'_>) -> Result<usize, ModelError> {
    let embedding = keys.file.place("token_embd.weight");
    let place = embedding.ok_or_else(|| ModelError::tensor("model.embed_tokens.weight", "is missing"))?;
    let rows = place.shape.first().copied().unwrap_or(0);
    match keys.integer(".vocab_size")? {
        Some(size) if size != rows => {
            Err(keys.error(".vocab_size", format!("is {size}, but the embedding has {rows} rows")))
        }
        _ => Ok(rows),
    }
}

fn sliding_window(keys: &Keys<'_>) -> Result<Option<u32>, ModelError> {
    match keys.integer(".attention.sliding_window")? {
        None | Some(0) => Ok(None),
        Some(window) => match u32::try_from(window) {
            Ok(window) => Ok(Some(window)),
            Err(_) => {
                Err(keys.error(".attention.sliding_window", format!("is {window}, which is too large")))
            }
        },
    }
}

fn rope(keys: &Keys<'_>, head_dim: usize, pairing: RopePairing) -> Result<RopeConfig, ModelError> {
    let mut rope = RopeConfig {
        theta: keys.float(".rope.freq_base")?.unwrap_or(10_000.0),
        rotary_dim: keys.integer(".rope.dimension_count")?.unwrap_or(head_dim),
        pairing,
        scaling: rope_scaling(keys)?,
    };
    if let Some(place) = keys.file.place("rope_freqs.weight") {
        if place.dtype != TensorDtype::F32 || rope.scaling != RopeScaling::Default {
            return Err(ModelError::tensor(
                "rope_freqs.weight",
                "must be F32, and the only scaling of the frequencies",
            ));
        }
        let bytes = keys.file.tensor_bytes(place).into();
        let divisors = RawTensor { dtype: place.dtype, shape: place.shape.clone(), bytes }.to_f32();
        rope.scaling = RopeScaling::from_divisors(&rope, &divisors).ok_or_else(|| {
            ModelError::tensor(
                "rope_freqs.weight",
                "holds other divisors than Llama 3 scaling gives; they are not supported",
            )
        })?;
    }
    Ok(rope)
}

fn rope_scaling(keys: &Keys<'_>) -> Result<RopeScaling, ModelError> {
    let factor = match keys.float(".rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.float(".rope.scale_linear")?,
    };
    let required =
        |key: &str| keys.float(key)?.ok_or_else(|| keys.error(key, "is missing from the metadata"));
    match keys.text(".rope.scaling.type")? {
        Some("none") => Ok(RopeScaling::Default),
        Some("linear") => {
            Ok(RopeScaling::Linear { factor: factor.map_or_else(|| required(".rope.scaling.factor"), Ok)? })
        }
        Some("yarn") => {
            let factor = factor.map_or_else(|| required(".rope.scaling.factor"), Ok)?;
            let original = keys.required(".rope.scaling.original_context_length")?;
            Ok(RopeScaling::Yarn {
                factor,
                original_context: original as f32,
                beta_fast: keys.float(".rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: keys.float(".rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                attention_factor: keys.float(".rope.scaling.attn_factor")?.unwrap_or(1.0)
                    * yarn_attention_factor(factor),
                truncate: true,
            })
        }
        Some("longrope") => Err(keys.error(".rope.scaling.type", crate::config::LENGTH_DEPENDENT)),
        Some(other) => {
            let problem = format!("is `{other}`, an unknown RoPE type; none, linear and yarn are supported");
            Err(keys.error(".rope.scaling.type", problem))
        }
        None => match factor {
            Some(factor) if factor != 1.0 && factor != 0.0 => Ok(RopeScaling::Linear { factor }),
            _ => Ok(RopeScaling::Default),
        },
    }
}
