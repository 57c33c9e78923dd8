//! Directories of Hugging Face files: weights, tokenizer, special tokens, and what is refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::Path;

use lazy_attn_models::weights::{FileBytes, SafetensorsFiles};
use lazy_attn_models::{HashCoverage, ModelConfig};
use lazy_attn_types::{TokenId, TokenizerSource};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::testing::TempDir;
use support::{
    check_sizes, damage, load_error, safetensors_file, tiny_config, tiny_directory, tiny_tensors,
    tiny_tokenizer, try_load,
};

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Loads the directory and compares every tensor with the one written.
fn check_tensors(directory: &TempDir) {
    let model = try_load(text_of(directory.path())).unwrap();
    for (name, shape, bytes) in tiny_tensors(&tiny_config()) {
        assert_eq!(*model.tensors.tensor(&name, &shape).unwrap().bytes, bytes, "{name}");
    }
}

#[test]
fn a_single_file_loads_by_directory_and_by_its_own_path() {
    let directory = tiny_directory("single");
    check_tensors(&directory);
    let model = try_load(text_of(&directory.path().join("model.safetensors"))).unwrap();
    assert_eq!(model.tensors.total_bytes(), 2 * model.config.num_parameters());
    assert_eq!(model.hash.coverage, HashCoverage::Whole);
    assert!(matches!(model.tokenizer, Some(TokenizerSource::Json(_))));
}

fn sharded(label: &str) -> TempDir {
    let directory = tiny_directory(label);
    std::fs::remove_file(directory.path().join("model.safetensors")).unwrap();
    let tensors = tiny_tensors(&tiny_config());
    let mut map = serde_json::Map::new();
    for (index, shard) in tensors.chunks(4).enumerate() {
        let name = format!("model-{index}.safetensors");
        shard.iter().for_each(|(tensor, ..)| drop(map.insert(tensor.clone(), json!(name))));
        directory.write(&name, safetensors_file(shard));
    }
    directory.write("model.safetensors.index.json", json!({"weight_map": map}).to_string());
    directory
}

#[test]
fn shards_load_as_one_model() {
    check_tensors(&sharded("sharded"));
}

#[test]
fn an_index_cannot_name_files_elsewhere() {
    for name in ["../model-0.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "C:\\x", "./x"] {
        let directory = sharded("traversal");
        let index = json!({"weight_map": {"model.norm.weight": name}});
        directory.write("model.safetensors.index.json", index.to_string());
        let error = load_error(text_of(directory.path()));
        assert!(error.contains("which is not a plain name in its own directory"), "{name}: {error}");
    }
}

#[test]
fn a_missing_shard_is_named() {
    let directory = sharded("missing-shard");
    std::fs::remove_file(directory.path().join("model-1.safetensors")).unwrap();
    let error = load_error(text_of(directory.path()));
    assert!(error.starts_with("cannot read ") && error.contains("model-1.safetensors"), "{error}");
}

fn read(bytes: Vec<u8>) -> Result<SafetensorsFiles, String> {
    let mut files = SafetensorsFiles::open(&[]).unwrap();
    files.add(Path::new("x.safetensors"), FileBytes::Owned(bytes)).map_err(|error| error.to_string())?;
    Ok(files)
}

/// A file whose header is `header` and whose data is eight bytes.
fn with_header(header: &Value) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat()
}

#[test]
fn a_wrong_header_is_refused_with_its_reason() {
    let tensor = |dtype: &str, shape: Value, offsets: Value| {
        with_header(&json!({"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}))
    };
    let cases = [
        (vec![1, 2, 3], "is truncated: 3 bytes cannot hold a safetensors header"),
        ([&1000u64.to_le_bytes()[..], b"{}"].concat(), "it claims 1000 bytes, but only 2 follow"),
        ([&u64::MAX.to_le_bytes()[..], b"{}"].concat(), "it claims 18446744073709551615 bytes"),
        ([&2u64.to_le_bytes()[..], b"[]"].concat(), "has a wrong header, not a JSON object"),
        ([&4u64.to_le_bytes()[..], b"\xff\xff\xff\xff"].concat(), "has a wrong header, not a JSON object"),
        (with_header(&json!({"w": 3})), "tensor `w` has no dtype"),
        (tensor("F8_E4M3", json!([8]), json!([0, 8])), "tensor `w` has type F8_E4M3, but F32, F16 and BF16"),
        (tensor("F32", json!([2]), json!([4, 12])), "tensor `w` ends at offset 12 past the end of the data"),
        (tensor("F32", json!([3]), json!([0, 8])), "its shape [3] and type need 12 bytes"),
        (tensor("F32", json!([2]), json!([8, 0])), "lies at 8..0"),
        (tensor("F32", json!([-1]), json!([0, 8])), "tensor `w` has no shape"),
        (tensor("F32", json!([2]), json!([0])), "tensor `w` has no data_offsets"),
        (tensor("F32", json!([1u64 << 62, 1u64 << 62]), json!([0, 8])), "a shape of impossible size"),
    ];
    for (bytes, wanted) in cases {
        let error = read(bytes).err().unwrap_or_else(|| panic!("`{wanted}` loads"));
        assert!(
            error.starts_with("x.safetensors: ") && error.contains(wanted),
            "`{error}` does not say `{wanted}`"
        );
    }
}

#[test]
fn a_truncated_file_says_so() {
    let bytes = safetensors_file(&tiny_tensors(&tiny_config()));
    for len in (0..bytes.len()).step_by(97) {
        let error = read(bytes[..len].to_vec()).err().unwrap_or_else(|| panic!("{len} bytes load"));
        assert!(error.contains("truncated"), "{len} bytes: {error}");
    }
}

#[test]
fn tensors_that_do_not_fit_the_config_are_named() {
    let mut tensors = tiny_tensors(&tiny_config());
    let directory = tiny_directory("unfit");
    let error_with = |tensors: &[(String, Vec<usize>, Vec<u8>)]| {
        directory.write("model.safetensors", safetensors_file(tensors));
        load_error(text_of(directory.path()))
    };
    let extra = ("model.layers.0.mlp.gate.weight".to_owned(), vec![2], vec![0; 4]);
    tensors.push(extra);
    let error = error_with(&tensors);
    assert!(
        error.starts_with("tensor `model.layers.0.mlp.gate.weight`: is in the file, but no part"),
        "{error}"
    );
    tensors.truncate(tensors.len() - 2);
    assert!(error_with(&tensors).starts_with("tensor `model.norm.weight`: is missing"));
}

#[test]
fn a_copy_of_a_tied_head_and_stored_frequencies_are_ignored() {
    let mut tensors = tiny_tensors(&tiny_config());
    let (_, shape, bytes) = tensors[0].clone();
    tensors.push(("lm_head.weight".into(), shape, bytes));
    tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), vec![8], vec![0; 16]));
    let directory = tiny_directory("tied");
    directory.write("model.safetensors", safetensors_file(&tensors));
    check_tensors(&directory);
}

#[test]
fn a_missing_tokenizer_is_named() {
    let directory = tiny_directory("tokenizer");
    std::fs::remove_file(directory.path().join("tokenizer.json")).unwrap();
    let error = load_error(text_of(directory.path()));
    assert!(
        error.ends_with("tokenizer.json: is missing: a model needs its tokenizer beside its weights"),
        "{error}"
    );
    directory.write("tokenizer.model", b"");
    assert!(load_error(text_of(directory.path())).contains("only as tokenizer.model"));
}

#[test]
fn a_directory_without_weights_says_what_it_looked_for() {
    let directory = TempDir::new("empty");
    let error = load_error(text_of(directory.path()));
    assert!(error.contains("holds neither model.safetensors, nor"), "{error}");
    directory.write("pytorch_model.bin", b"");
    assert!(load_error(text_of(directory.path())).contains("convert them to safetensors"));
    assert!(load_error("no/such/directory/model.safetensors").starts_with("cannot read no/such/directory"));
}

fn special(files: &[(&str, Value)]) -> lazy_attn_types::SpecialTokens {
    let directory = tiny_directory("special");
    files.iter().for_each(|(name, content)| drop(directory.write(name, content.to_string())));
    try_load(text_of(directory.path())).unwrap().special
}

#[test]
fn end_tokens_are_those_of_all_files_without_repetition() {
    let found = special(&[
        ("generation_config.json", json!({"eos_token_id": [5, 2]})),
        ("tokenizer_config.json", json!({"eos_token": {"content": "</s>"}, "bos_token": "<s>"})),
    ]);
    assert_eq!(found.end, [TokenId(5), TokenId(2)]);
    assert_eq!((found.bos, found.add_bos), (Some(TokenId(1)), false));
}

#[test]
fn bos_is_added_if_the_settings_the_post_processor_or_the_class_say_so() {
    let settings = |extra: Value| {
        let mut all = json!({"bos_token": "<s>"});
        all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        ("tokenizer_config.json", all)
    };
    assert!(special(&[settings(json!({"add_bos_token": true}))]).add_bos);
    assert!(special(&[settings(json!({"tokenizer_class": "LlamaTokenizer"}))]).add_bos);
    assert!(!special(&[settings(json!({"tokenizer_class": "PreTrainedTokenizerFast"}))]).add_bos);
    let mut tokenizer = tiny_tokenizer();
    let template =
        json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {}}]});
    tokenizer["post_processor"] =
        json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template]});
    let files = [settings(json!({})), ("tokenizer.json", tokenizer.clone())];
    assert!(special(&files).add_bos);
    assert!(!special(&[settings(json!({"add_bos_token": false})), ("tokenizer.json", tokenizer)]).add_bos);
    let none = special(&[
        ("tokenizer_config.json", json!({"bos_token": null})),
        ("config.json", {
            let mut config = tiny_config();
            config["bos_token_id"] = json!(1);
            config
        }),
    ]);
    assert_eq!(none.bos, None);
}

#[test]
fn chat_templates_are_found_wherever_they_are_written() {
    let template = |content: Value| {
        special(&[("tokenizer_config.json", json!({"chat_template": content}))]).chat_template
    };
    assert_eq!(template(json!("plain")).as_deref(), Some("plain"));
    let list = json!([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "usual"}]);
    assert_eq!(template(list).as_deref(), Some("usual"));
    let directory = tiny_directory("jinja");
    directory.write("chat_template.jinja", "{{ messages }}");
    let found = try_load(text_of(directory.path())).unwrap().special.chat_template;
    assert_eq!(found.as_deref(), Some("{{ messages }}"));
}

#[test]
fn a_special_token_outside_the_vocabulary_is_refused() {
    let directory = tiny_directory("outside");
    directory.write("generation_config.json", json!({"eos_token_id": 8}).to_string());
    let error = load_error(text_of(directory.path()));
    assert!(error.contains("gives the special token 8, but the model has 8 tokens"), "{error}");
}

proptest! {
    #[test]
    fn no_change_of_bytes_makes_reading_panic(damage in damage()) {
        let bytes = safetensors_file(&tiny_tensors(&tiny_config()));
        let header_size = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        if let Ok(files) = read(damage.apply(bytes, header_size)) {
            check_sizes(&files, &ModelConfig::from_hugging_face(&tiny_config()).unwrap());
        }
    }
}
