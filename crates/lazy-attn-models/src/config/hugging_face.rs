//! A Hugging Face `config.json` to a [`ModelConfig`]. A key that is not known to change nothing is an error: a model
//! that runs must run exactly.

use serde_json::Value;

use super::fields::{Fields, missing};
use super::hugging_face_rope::rope;
use super::{Bias, HeadWeights, ModelConfig, QkNorm};
use crate::ModelError;

/// Keys that are read below.
const READ: &[&str] = &[
    "architectures",
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rms_norm_eps",
    "rope_interleaved",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "use_sliding_window",
    "vocab_size",
];

/// Keys that do not change what the decoder computes: names, token ids, training, storage, default sampling.
const HARMLESS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_flash_attn_2_enabled",
    "_name_or_path",
    "attention_dropout",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_dropout",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
];

/// Switches that must be off if they are there: `false`, `{}` or `[]`.
const MUST_BE_OFF: &[&str] = &[
    "add_cross_attention",
    "is_decoder",
    "is_encoder_decoder",
    "pruned_heads",
    "tie_encoder_decoder",
    "use_mrope",
];

/// The families whose config files are understood.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

impl Family {
    const ALL: [(Family, &str, &str); 4] = [
        (Family::Llama, "llama", "LlamaForCausalLM"),
        (Family::Mistral, "mistral", "MistralForCausalLM"),
        (Family::Qwen2, "qwen2", "Qwen2ForCausalLM"),
        (Family::Qwen3, "qwen3", "Qwen3ForCausalLM"),
    ];

    fn read(fields: &Fields<'_>) -> Result<(Family, &'static str), ModelError> {
        let name = fields.text("model_type")?.ok_or_else(|| missing("model_type"))?;
        let found = Family::ALL.into_iter().find(|(_, known, _)| *known == name);
        let (family, name, class) = found.ok_or_else(|| {
            let problem = format!("is `{name}`, but llama, mistral, qwen2 and qwen3 are supported");
            ModelError::config("model_type", problem)
        })?;
        let classes = fields.list("architectures")?.unwrap_or_default();
        match classes.iter().find(|found| found.as_str() != Some(class)) {
            Some(other) => {
                let problem = format!("holds {other}, but a {name} model must be a {class}");
                Err(ModelError::config("architectures", problem))
            }
            None => Ok((family, name)),
        }
    }
}

impl ModelConfig {
    /// Reads the object in a Hugging Face `config.json` of a Llama, Mistral, Qwen2 or Qwen3 model.
    ///
    /// Absent keys have the defaults of `transformers`, except sizes, which must be given.
    ///
    /// # Errors
    /// [`ModelError::Config`] naming the first key that is missing, unknown or has a value this engine cannot run
    /// exactly.
    pub fn from_hugging_face(config: &Value) -> Result<ModelConfig, ModelError> {
        let fields = Fields::new("config.json", config)?;
        let (family, name) = Family::read(&fields)?;
        check_keys(&fields)?;
        let num_q_heads = fields.required("num_attention_heads")?;
        let hidden_size = fields.required("hidden_size")?;
        let head_dim = head_dim(&fields, family, hidden_size, num_q_heads)?;
        let num_layers = fields.required("num_hidden_layers")?;
        let (rope, extended_context) = rope(&fields, head_dim)?;
        let config = ModelConfig {
            family: name.to_owned(),
            hidden_size,
            intermediate_size: fields.required("intermediate_size")?,
            num_layers,
            num_q_heads,
            num_kv_heads: num_kv_heads(&fields, family, num_q_heads)?,
            head_dim,
            vocab_size: fields.required("vocab_size")?,
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            max_context_tokens: fields.required("max_position_embeddings")?.max(extended_context),
            rope,
            sliding_window: sliding_window(&fields, family, num_layers)?,
            head: match fields.flag("tie_word_embeddings")? {
                Some(true) => HeadWeights::Tied,
                _ => HeadWeights::Untied,
            },
            bias: bias(&fields, family)?,
            qk_norm: if family == Family::Qwen3 { QkNorm::PerHead } else { QkNorm::Off },
        };
        config.validate()?;
        Ok(config)
    }
}

fn check_keys(fields: &Fields<'_>) -> Result<(), ModelError> {
    if fields.get("quantization_config").is_some() {
        let problem = "says the weights are quantised, which is supported for GGUF files only";
        return Err(ModelError::config("quantization_config", problem));
    }
    let off = [Value::Bool(false), Value::Object(serde_json::Map::new()), Value::Array(Vec::new())];
    for key in fields.keys() {
        if MUST_BE_OFF.contains(&key) {
            let value = fields.get(key).unwrap_or(&Value::Null);
            if !off.contains(value) {
                return Err(ModelError::config(key, format!("is {value}, but must be off")));
            }
        } else if !READ.contains(&key) && !HARMLESS.contains(&key) {
            return Err(ModelError::config(key, "is unknown, and may change the model's results"));
        }
    }
    match fields.text("hidden_act")? {
        None | Some("silu") => Ok(()),
        Some(other) => Err(ModelError::config("hidden_act", format!("is `{other}`, but must be `silu`"))),
    }
}

fn head_dim(
    fields: &Fields<'_>,
    family: Family,
    hidden_size: usize,
    num_q_heads: usize,
) -> Result<usize, ModelError> {
    if let Some(head_dim) = fields.integer("head_dim")? {
        return Ok(head_dim);
    }
    if family == Family::Qwen3 {
        return Ok(128);
    }
    if num_q_heads == 0 || !hidden_size.is_multiple_of(num_q_heads) {
        let problem = format!("is {num_q_heads}, which does not divide hidden_size {hidden_size}");
        return Err(ModelError::config("num_attention_heads", problem));
    }
    Ok(hidden_size / num_q_heads)
}

fn num_kv_heads(fields: &Fields<'_>, family: Family, num_q_heads: usize) -> Result<usize, ModelError> {
    match fields.integer("num_key_value_heads")? {
        Some(num_kv_heads) => Ok(num_kv_heads),
        // Llama 1 and 2 configs leave it out; those of the other families never do.
        None if family == Family::Llama => Ok(num_q_heads),
        None => Err(missing("num_key_value_heads")),
    }
}

fn bias(fields: &Fields<'_>, family: Family) -> Result<Bias, ModelError> {
    let attention = fields.flag("attention_bias")?.unwrap_or(false);
    let mlp = fields.flag("mlp_bias")?.unwrap_or(false);
    let (allows_attention, allows_mlp) = match family {
        Family::Llama => (true, true),
        Family::Qwen3 => (true, false),
        Family::Mistral | Family::Qwen2 => (false, false),
    };
    for (key, set, allowed) in
        [("attention_bias", attention, allows_attention), ("mlp_bias", mlp, allows_mlp)]
    {
        if set && !allowed {
            return Err(ModelError::config(key, "is true, but models of this family have no such switch"));
        }
    }
    Ok(Bias { qkv: attention || family == Family::Qwen2, output: attention, mlp })
}

/// The one window of all layers; models whose layers differ are refused.
fn sliding_window(fields: &Fields<'_>, family: Family, num_layers: usize) -> Result<Option<u32>, ModelError> {
    let window = fields.integer("sliding_window")?.map(|window| {
        u32::try_from(window)
            .map_err(|_| ModelError::config("sliding_window", format!("is {window}, which is too large")))
    });
    let window = window.transpose()?;
    let enabled = fields.flag("use_sliding_window")?;
    let own = match family {
        Family::Llama if window.is_some() || enabled == Some(true) => {
            return Err(ModelError::config("sliding_window", "is set, but Llama models have no window"));
        }
        Family::Llama => None,
        // Absent, it is 4096 in `transformers`; files of the versions without a window say `null`.
        Family::Mistral if !fields.mentions("sliding_window") => Some(4096),
        Family::Mistral if enabled == Some(false) => None,
        Family::Mistral => window,
        Family::Qwen2 | Family::Qwen3 if enabled == Some(true) => {
            qwen_window(fields, num_layers, window.or(Some(4096)))?
        }
        Family::Qwen2 | Family::Qwen3 => None,
    };
    match fields.list("layer_types")? {
        Some(types) => check_layer_types(types, num_layers, own),
        None => Ok(own),
    }
}

/// Qwen windows apply to the layers from `max_window_layers` on.
fn qwen_window(
    fields: &Fields<'_>,
    num_layers: usize,
    window: Option<u32>,
) -> Result<Option<u32>, ModelError> {
    match fields.integer("max_window_layers")?.unwrap_or(28) {
        0 => Ok(window),
        first if first >= num_layers => Ok(None),
        first => {
            let problem = format!(
                "is {first} of {num_layers} layers, but a window must hold for all layers or for none"
            );
            Err(ModelError::config("max_window_layers", problem))
        }
    }
}

fn check_layer_types(
    types: &[Value],
    num_layers: usize,
    window: Option<u32>,
) -> Result<Option<u32>, ModelError> {
    let wanted = if window.is_some() { "sliding_attention" } else { "full_attention" };
    match types.iter().find(|found| found.as_str() != Some(wanted)) {
        Some(other) => {
            let problem =
                format!("holds {other}, but every layer must be `{wanted}` for the windows this config sets");
            Err(ModelError::config("layer_types", problem))
        }
        None if types.len() != num_layers => Err(ModelError::config(
            "layer_types",
            format!("has {} entries for {num_layers} layers", types.len()),
        )),
        None => Ok(window),
    }
}
