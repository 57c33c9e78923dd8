//! Which tensors a config asks for.

use std::collections::HashSet;

use crate::ModelError;
use crate::config::{HeadWeights, ModelConfig, QkNorm};

/// Every tensor of a model with its shape, in the order of the layers.
#[must_use]
pub fn expected_tensors(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let hidden = config.hidden_size;
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![config.vocab_size, hidden])];
    for layer in 0..config.num_layers {
        layer_tensors(config, layer, &mut all);
    }
    all.push(("model.norm.weight".to_owned(), vec![hidden]));
    if config.head == HeadWeights::Untied {
        all.push(("lm_head.weight".to_owned(), vec![config.vocab_size, hidden]));
    }
    all
}

fn layer_tensors(config: &ModelConfig, layer: usize, all: &mut Vec<(String, Vec<usize>)>) {
    let (hidden, feed_forward) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.num_q_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let bias = config.bias;
    let projections = [
        ("self_attn.q_proj", q, hidden, bias.qkv),
        ("self_attn.k_proj", kv, hidden, bias.qkv),
        ("self_attn.v_proj", kv, hidden, bias.qkv),
        ("self_attn.o_proj", hidden, q, bias.output),
        ("mlp.gate_proj", feed_forward, hidden, bias.mlp),
        ("mlp.up_proj", feed_forward, hidden, bias.mlp),
        ("mlp.down_proj", hidden, feed_forward, bias.mlp),
    ];
    let mut push = |name: &str, shape: Vec<usize>| all.push((format!("model.layers.{layer}.{name}"), shape));
    push("input_layernorm.weight", vec![hidden]);
    for (name, outputs, inputs, has_bias) in projections {
        push(&format!("{name}.weight"), vec![outputs, inputs]);
        if has_bias {
            push(&format!("{name}.bias"), vec![outputs]);
        }
    }
    if config.qk_norm == QkNorm::PerHead {
        push("self_attn.q_norm.weight", vec![config.head_dim]);
        push("self_attn.k_norm.weight", vec![config.head_dim]);
    }
    push("post_attention_layernorm.weight", vec![hidden]);
}

/// Refuses a file that lacks a tensor of the model, or holds one the model would not use.
pub(super) fn check_inventory(config: &ModelConfig, present: &HashSet<&str>) -> Result<(), ModelError> {
    let expected = expected_tensors(config);
    if let Some((name, _)) = expected.iter().find(|(name, _)| !present.contains(name.as_str())) {
        return Err(ModelError::tensor(name, "is missing; the weights are incomplete or of another model"));
    }
    let known: HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    let tied_copy = |name: &str| config.head == HeadWeights::Tied && name == "lm_head.weight";
    let derived = |name: &str| name.ends_with(".rotary_emb.inv_freq");
    let mut unknown: Vec<_> =
        present.iter().filter(|name| !known.contains(*name) && !tied_copy(name) && !derived(name)).collect();
    unknown.sort_unstable();
    match unknown.first() {
        Some(name) => {
            Err(ModelError::tensor(name, "is in the file, but no part of the model its config describes"))
        }
        None => Ok(()),
    }
}
