//! The model that comes with this crate loads, and is what its card says.

use lazy_attn_models::config::{HeadWeights, RopePairing, RopeScaling};
use lazy_attn_models::weights::{TensorDtype, expected_tensors};
use lazy_attn_models::{HashCoverage, LoadOptions, ModelRef, load};
use lazy_attn_types::{TokenId, TokenizerSource};

#[test]
fn the_embedded_model_is_what_its_card_says() {
    let model = load(&ModelRef::Embedded, &LoadOptions::default()).unwrap();
    let config = &model.config;
    assert_eq!((config.num_layers, config.hidden_size, config.intermediate_size), (12, 576, 1536));
    assert_eq!((config.num_q_heads, config.num_kv_heads, config.head_dim), (9, 3, 64));
    assert_eq!((config.vocab_size, config.max_context_tokens), (8192, 8192));
    assert_eq!((config.rope.theta, config.rope.rotary_dim), (100_000.0, 64));
    assert_eq!(config.rope.scaling, RopeScaling::Default);
    // Written by the usual converter: rows of q and k are permuted. With half-split pairs the logits of the reference
    // are missed by more than 1, with interleaved ones they are met to 1e-4.
    assert_eq!(config.rope.pairing, RopePairing::Interleaved);
    assert_eq!(config.head, HeadWeights::Tied);
    assert_eq!(config.num_parameters(), 47_200_320);
    assert_eq!(model.hash.coverage, HashCoverage::Whole);
}

#[test]
fn every_tensor_of_the_embedded_model_is_there() {
    let model = load(&ModelRef::Embedded, &LoadOptions::default()).unwrap();
    let mut bytes = 0;
    for (name, shape) in expected_tensors(&model.config) {
        let tensor = model.tensors.tensor(&name, &shape).unwrap();
        let dtype = if shape.len() == 1 { TensorDtype::F32 } else { TensorDtype::Q4_0 };
        assert_eq!(tensor.dtype, dtype, "{name}");
        assert!(tensor.to_f32().iter().all(|x| x.abs() < 1000.0), "{name} is not sane");
        bytes += tensor.bytes.len() as u64;
    }
    assert_eq!(model.tensors.total_bytes(), bytes);
}

#[test]
fn the_embedded_tokenizer_ends_answers_as_its_card_says() {
    let model = load(&ModelRef::Embedded, &LoadOptions::default()).unwrap();
    assert_eq!(model.special.bos, Some(TokenId(1)));
    assert_eq!(model.special.end, [TokenId(2), TokenId(0)]);
    assert!(!model.special.add_bos);
    assert!(model.special.chat_template.as_deref().is_some_and(|t| t.contains("<|im_start|>assistant")));
    let Some(TokenizerSource::Gguf(vocab)) = &model.tokenizer else { panic!("no vocabulary") };
    assert_eq!((vocab.model.as_str(), vocab.pre.as_str()), ("gpt2", "smollm"));
    assert_eq!((vocab.tokens.len(), vocab.merges.len(), vocab.token_types.len()), (8192, 7940, 8192));
}

#[test]
fn a_tensor_of_another_shape_or_name_is_refused_by_name() {
    let model = load(&ModelRef::Embedded, &LoadOptions::default()).unwrap();
    let error = |name: &str, shape: &[usize]| model.tensors.tensor(name, shape).unwrap_err().to_string();
    assert_eq!(
        error("model.norm.weight", &[577]),
        "tensor `model.norm.weight`: has shape [576], but the config asks for [577]"
    );
    assert_eq!(error("lm_head.weight", &[8192, 576]), "tensor `lm_head.weight`: is not in the file");
}
