//! GGUF files: what their metadata means, and what is refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use lazy_attn_models::ModelConfig;
use lazy_attn_models::config::{Bias, QkNorm, RopePairing, RopeScaling};
use lazy_attn_models::weights::FileBytes;
use lazy_attn_models::weights::gguf::{GgufFile, GgufTensors, model_config, special_tokens, tokenizer};
use lazy_attn_types::TokenId;
use proptest::prelude::*;
use support::gguf::{F32, Gguf, Meta, Q4_0};
use support::testing::TempDir;
use support::{check_sizes, damage};

fn open(file: &Gguf) -> Result<(ModelConfig, GgufTensors), String> {
    read(file.bytes()).map(|(config, _, tensors)| (config, tensors))
}

/// Everything that loading does with the bytes of a file.
fn read(bytes: Vec<u8>) -> Result<(ModelConfig, Vec<TokenId>, GgufTensors), String> {
    let text = |error: lazy_attn_models::ModelError| error.to_string();
    let file = GgufFile::read("tiny.gguf".into(), FileBytes::Owned(bytes)).map_err(text)?;
    let config = model_config(&file).map_err(text)?;
    tokenizer(&file).map_err(text)?;
    let special = special_tokens(&file, config.vocab_size).map_err(text)?;
    let tensors = GgufTensors::new(file, &config).map_err(text)?;
    Ok((config, special.end, tensors))
}

fn config_with(architecture: &str, change: impl Fn(&mut Gguf)) -> ModelConfig {
    let mut file = Gguf::tiny(architecture);
    change(&mut file);
    open(&file).unwrap().0
}

/// The error after `change` must contain `wanted`.
fn refuses(wanted: &str, change: impl Fn(&mut Gguf)) {
    let mut file = Gguf::tiny("llama");
    change(&mut file);
    match open(&file) {
        Ok((config, _)) => panic!("`{wanted}` loads as {config:?}"),
        Err(error) => assert!(error.contains(wanted), "`{error}` does not say `{wanted}`"),
    }
}

#[test]
fn a_small_file_loads_with_its_sizes_and_tokens() {
    let (config, end, _) = read(Gguf::tiny("llama").bytes()).unwrap();
    assert_eq!((config.num_layers, config.hidden_size, config.head_dim, config.vocab_size), (1, 32, 16, 8));
    assert_eq!(config.rope.pairing, RopePairing::Interleaved);
    assert_eq!(end, [TokenId(2), TokenId(1)]);
    let older = Gguf { version: 2, ..Gguf::tiny("llama") };
    assert_eq!(open(&older).unwrap().0, config);
}

#[test]
fn a_llama_3_vocabulary_begins_with_bos_unless_the_file_says_otherwise() {
    let adds = |file: &Gguf| {
        let file = GgufFile::read("t".into(), FileBytes::Owned(file.bytes())).unwrap();
        special_tokens(&file, 8).unwrap().add_bos
    };
    let mut file = Gguf::tiny("llama");
    assert!(adds(&file));
    file.set("tokenizer.ggml.add_bos_token", Meta::Bool(false));
    assert!(!adds(&file));
}

#[test]
fn qwen_files_have_half_split_pairs_biases_and_norms() {
    let qwen2 = config_with("qwen2", |file| {
        for (part, len) in [("q", 32), ("k", 16), ("v", 16)] {
            let bytes = vec![0; 4 * len as usize];
            file.tensors.push((format!("blk.0.attn_{part}.bias"), vec![len], F32, bytes));
        }
    });
    assert_eq!(qwen2.rope.pairing, RopePairing::HalfSplit);
    assert_eq!(qwen2.bias, Bias { qkv: true, output: false, mlp: false });
    let qwen3 = config_with("qwen3", |file| {
        file.set("qwen3.attention.key_length", Meta::U32(16));
        for part in ["q", "k"] {
            file.tensors.push((format!("blk.0.attn_{part}_norm.weight"), vec![16], F32, vec![0; 64]));
        }
    });
    assert_eq!(qwen3.qk_norm, QkNorm::PerHead);
}

#[test]
fn rope_scaling_is_read_from_keys_and_from_divisors() {
    let linear = config_with("llama", |file| {
        file.set("llama.rope.scaling.type", Meta::Text("linear"));
        file.set("llama.rope.scaling.factor", Meta::F32(4.0));
    });
    assert_eq!(linear.rope.scaling, RopeScaling::Linear { factor: 4.0 });
    let yarn = config_with("llama", |file| {
        file.set("llama.rope.scaling.type", Meta::Text("yarn"));
        file.set("llama.rope.scaling.factor", Meta::F32(4.0));
        file.set("llama.rope.scaling.original_context_length", Meta::U32(64));
    });
    let RopeScaling::Yarn { attention_factor, truncate: true, .. } = yarn.rope.scaling else {
        panic!("{:?} is not YaRN", yarn.rope.scaling)
    };
    assert!((attention_factor - (0.1 * 4f32.ln() + 1.0)).abs() < 1e-6);
    // The divisors of Llama 3.1 (factor 8, bounds 1 and 4, original context 8192), written in float64 from their
    // definition, for the 8 pairs of a 16-element head at theta 500000.
    let divisors: Vec<f32> = (0..8)
        .map(|pair| {
            let wavelength = std::f64::consts::TAU * 500_000f64.powf(f64::from(pair) / 8.0);
            let ramp = ((8192.0 / wavelength - 1.0) / 3.0).clamp(0.0, 1.0);
            (1.0 / ((1.0 - ramp) / 8.0 + ramp)) as f32
        })
        .collect();
    let with_divisors = |divisors: &[f32]| {
        let mut file = Gguf::tiny("llama");
        file.set("llama.rope.freq_base", Meta::F32(500_000.0));
        let bytes = divisors.iter().flat_map(|x| x.to_le_bytes()).collect();
        file.tensors.push(("rope_freqs.weight".into(), vec![divisors.len() as u64], F32, bytes));
        open(&file)
    };
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192.0,
    };
    assert_eq!(with_divisors(&divisors).unwrap().0.rope.scaling, llama3);
    let error = with_divisors(&[1.0, 1.0, 2.0, 1.0, 3.0, 4.0, 5.0, 6.0]).err().unwrap();
    assert!(error.starts_with("tensor `rope_freqs.weight`: holds other divisors"), "{error}");
}

#[test]
fn a_wrong_container_is_refused_with_its_reason() {
    refuses("unknown version 4", |file| file.version = 4);
    refuses("version 1, which is not supported", |file| file.version = 1);
    refuses("big-endian", |file| file.version = 3u32.swap_bytes());
    refuses("the number of tensors is 4294967296, more than fit", |file| file.counts = Some([1 << 32, 1]));
    refuses("the number of metadata entries is", |file| file.counts = Some([1, u64::MAX]));
    refuses("metadata `general.name` is given twice", |file| {
        file.meta.push(("general.name".into(), Meta::Bool(true)));
    });
    refuses("tensor `output_norm.weight` is listed twice", |file| file.tensors.push(file.tensors[0].clone()));
    refuses("nests lists", |file| file.set("x", Meta::Raw(9, [9u32.to_le_bytes(), [0; 4]].concat())));
    refuses("the length of the list `x` is", |file| {
        file.set("x", Meta::Raw(9, [&10u32.to_le_bytes()[..], &(1u64 << 62).to_le_bytes()].concat()));
    });
    refuses("has the unknown type 13", |file| file.set("x", Meta::Raw(13, vec![])));
    refuses("is a flag of value 2", |file| file.set("x", Meta::Raw(7, vec![2])));
    refuses("`general.alignment` is Integer(48)", |file| file.set("general.alignment", Meta::U32(48)));
}

#[test]
fn a_wrong_tensor_is_refused_by_name() {
    refuses("type Q3_K, which is not supported", |file| file.tensors[0].2 = 11);
    refuses("has the unknown type 99", |file| file.tensors[0].2 = 99);
    refuses("has 5 dimensions", |file| file.tensors[0].1 = vec![1; 5]);
    refuses("has a dimension of impossible size", |file| file.tensors[0].1 = vec![32, 0]);
    refuses("rows are whole blocks of 32", |file| (file.tensors[0].1, file.tensors[0].2) = (vec![33], Q4_0));
    refuses("impossible size", |file| file.tensors[0].1 = vec![1 << 62, 1 << 62]);
    refuses("which is not a multiple of 32", |file| file.last_offset = 1);
    refuses("bytes at offset", |file| file.last_offset = 1 << 40);
    refuses("bytes at offset", |file| file.last_offset = u64::MAX - (1 << 20) + 1 - 32);
    refuses("tensor `blk.0.ffn_gate_inp.weight`: is in the file, but no part", |file| {
        file.tensors.push(("blk.0.ffn_gate_inp.weight".into(), vec![32], F32, vec![0; 128]));
    });
    refuses("tensor `model.layers.0.mlp.down_proj.weight`: is missing", |file| drop(file.tensors.pop()));
    refuses("under two spellings", |file| {
        let (_, sizes, kind, bytes) = file.tensors[1].clone();
        file.tensors.push(("blk.00.attn_norm.weight".into(), sizes, kind, bytes));
    });
}

#[test]
fn metadata_that_would_change_the_result_is_refused_by_key() {
    refuses("config key `llama.logit_scale`: is unknown", |file| {
        file.set("llama.logit_scale", Meta::F32(2.0))
    });
    refuses("`llama.expert_count`: says the model is a mixture", |file| {
        file.set("llama.expert_count", Meta::U32(8))
    });
    refuses("`general.architecture`: is `gemma`", |file| {
        file.set("general.architecture", Meta::Text("gemma"))
    });
    refuses("an unknown RoPE type", |file| file.set("llama.rope.scaling.type", Meta::Text("spiral")));
    refuses("depend on the total length", |file| file.set("llama.rope.scaling.type", Meta::Text("longrope")));
    refuses("`llama.vocab_size`: is 9, but the embedding has 8", |file| {
        file.set("llama.vocab_size", Meta::U32(9))
    });
    refuses("`llama.block_count`: is Text", |file| file.set("llama.block_count", Meta::Text("one")));
    refuses("`num_hidden_layers`: is 4294967295", |file| file.set("llama.block_count", Meta::U32(u32::MAX)));
    refuses("differs from layer to layer", |file| {
        file.set("llama.feed_forward_length", Meta::I32s(vec![32, 64]))
    });
    refuses("join the parts", |file| file.set("split.count", Meta::U32(2)));
    refuses("but there are 8 tokens", |file| file.set("tokenizer.ggml.token_type", Meta::I32s(vec![1])));
    refuses("is 8, but the model has 8 tokens", |file| file.set("tokenizer.ggml.eos_token_id", Meta::U32(8)));
}

#[test]
fn a_truncated_file_says_so() {
    let bytes = Gguf::tiny("llama").bytes();
    for len in 0..bytes.len() {
        let error = read(bytes[..len].to_vec()).err().unwrap_or_else(|| panic!("{len} bytes load"));
        let known = ["truncated", "more than fit into the remaining"];
        assert!(known.iter().any(|text| error.contains(text)), "{len} bytes: {error}");
    }
}

#[test]
fn a_file_without_a_tokenizer_is_refused() {
    let directory = TempDir::new("no-tokenizer");
    let mut file = Gguf::tiny("llama");
    file.meta.retain(|(key, _)| !key.starts_with("tokenizer."));
    let path = directory.write("model.gguf", file.bytes());
    let error = support::load_error(path.to_str().unwrap());
    assert!(error.contains("model.gguf: has no tokenizer (`tokenizer.ggml.model`)"), "{error}");
}

proptest! {
    #[test]
    fn no_change_of_bytes_makes_reading_panic(damage in damage()) {
        let bytes = Gguf::tiny("llama").bytes();
        // What comes before the data: 4 KiB hold every tensor of the tiny model.
        let header_size = bytes.len() - 4096;
        if let Ok((config, _, tensors)) = read(damage.apply(bytes, header_size)) {
            check_sizes(&tensors, &config);
        }
    }
}
