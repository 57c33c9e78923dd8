//! Inputs of the shape of published bugs in other parsers. Each is refused in words, within its bounds.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use lazy_attn_fuzz::{TARGETS, try_input};

#[allow(dead_code, reason = "a helper of tests of the models crate")]
#[path = "../../lazy-attn-models/tests/support/gguf.rs"]
mod gguf;

use gguf::{F32, Gguf, Meta};

/// What target `name` says of `input`.
#[track_caller]
fn outcome(name: &str, input: &[u8]) -> String {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    try_input(target, input).unwrap_or_else(|finding| panic!("{name}: {finding}"))
}

/// `input` is refused with a message about `what`.
#[track_caller]
fn refused(name: &str, input: &[u8], what: &str) {
    let outcome = outcome(name, input);
    assert!(outcome != "accepted" && outcome.contains(what), "{outcome}");
}

fn with_tensors(tensors: &[(&str, &[u64])]) -> Vec<u8> {
    let mut file = Gguf::tiny("llama");
    file.tensors =
        tensors.iter().map(|(name, sizes)| ((*name).to_owned(), sizes.to_vec(), F32, vec![0; 32])).collect();
    file.bytes()
}

#[test]
fn the_unchanged_files_are_accepted() {
    for name in ["gguf", "safetensors", "config", "keys", "tokenizer", "chat_template"] {
        let target = TARGETS.iter().find(|target| target.name == name).unwrap();
        assert_eq!(outcome(name, &(target.seeds)()[0]), "accepted", "{name}");
    }
}

#[test]
fn cve_2024_21802_more_dimensions_than_a_tensor_has_room_for() {
    for num_dimensions in [5, 0x4000_0001, u32::MAX] {
        let mut bytes = with_tensors(&[("token_embd.weight", &[32, 8])]);
        let name = b"token_embd.weight";
        let at = bytes.windows(name.len()).rposition(|window| window == name).unwrap() + name.len();
        bytes[at..at + 4].copy_from_slice(&num_dimensions.to_le_bytes());
        refused("gguf", &bytes, "dimensions");
    }
}

#[test]
fn cve_2026_33298_sizes_whose_product_wraps() {
    let shapes: [&[u64]; 5] = [
        &[1 << 32, 1 << 32],
        &[1 << 62],
        &[u64::MAX, u64::MAX, u64::MAX, u64::MAX],
        &[1 << 16, 1 << 16, 1 << 16, 1 << 16],
        // Wraps to 32 bytes, which are there.
        &[(1 << 62) + 8],
    ];
    for sizes in shapes {
        refused("gguf", &with_tensors(&[("token_embd.weight", sizes)]), "token_embd.weight");
    }
}

#[test]
fn cve_2025_53630_tensors_whose_sizes_wrap_when_they_are_summed() {
    // Each size is below 2^64; together they come to it.
    let half: &[u64] = &[1 << 31, 1 << 30];
    refused("gguf", &with_tensors(&[("token_embd.weight", half), ("output.weight", half)]), "weight");
    let mut file = Gguf::tiny("llama");
    // With the tensor's size, and aligned as it must be, this ends beyond 2^64.
    file.last_offset = (1 << 63) - 32;
    refused("gguf", &file.bytes(), "blk.0.ffn_down.weight");
    file.last_offset = 1 << 63;
    refused("gguf", &file.bytes(), "blk.0.ffn_down.weight");
}

#[test]
fn cve_2026_27940_sizes_that_wrap_when_they_are_padded() {
    // The bytes of a tensor end below 2^64 and the next multiple of the alignment does not.
    let nearly_all: &[u64] = &[(1 << 62) - 1];
    refused("gguf", &with_tensors(&[("token_embd.weight", nearly_all)]), "token_embd.weight");
    for alignment in [0u32, 3, 1 << 31, u32::MAX] {
        let mut file = Gguf::tiny("llama");
        file.set("general.alignment", Meta::U32(alignment));
        refused("gguf", &file.bytes(), "alignment");
    }
}

#[test]
fn counts_beyond_the_file_reserve_nothing() {
    for counts in [[u64::MAX, 1], [1, u64::MAX], [1 << 32, 1 << 32], [1 << 59, 16]] {
        let mut file = Gguf::tiny("llama");
        file.counts = Some(counts);
        refused("gguf", &file.bytes(), "the number of");
    }
    for (kind, len) in [(8u32, u64::MAX), (4, 1 << 62), (10, 1 << 61), (0, u64::MAX)] {
        let mut list = kind.to_le_bytes().to_vec();
        list.extend(len.to_le_bytes());
        let mut file = Gguf::tiny("llama");
        file.set("tokenizer.ggml.scores", Meta::Raw(9, list));
        refused("gguf", &file.bytes(), "tokenizer.ggml.scores");
    }
}

#[test]
fn lists_of_lists_do_not_nest() {
    let mut nested = Vec::new();
    for _ in 0..4000 {
        nested.extend(9u32.to_le_bytes());
        nested.extend(1u64.to_le_bytes());
    }
    let mut file = Gguf::tiny("llama");
    file.set("general.tags", Meta::Raw(9, nested));
    refused("gguf", &file.bytes(), "nests");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let file = Gguf::tiny("llama").bytes();
    for len in 0..file.len() {
        assert_ne!(outcome("gguf", &file[..len]), "accepted", "cut to {len} bytes");
    }
}

#[test]
fn ghsa_7rxv_5jhh_j6xx_token_texts_and_texts_longer_than_their_lengths_can_say() {
    // A length that is negative as a signed number, and one far beyond the file.
    for len in [1u64 << 31, u64::from(u32::MAX), 1 << 63, u64::MAX] {
        let mut texts = 8u32.to_le_bytes().to_vec();
        texts.extend(1u64.to_le_bytes());
        texts.extend(len.to_le_bytes());
        texts.extend(b"a");
        let mut file = Gguf::tiny("llama");
        file.set("tokenizer.ggml.tokens", Meta::Raw(9, texts));
        refused("gguf", &file.bytes(), "text");
    }
    // A text that has more bytes than tokens may be counted for.
    let seed = &(TARGETS.iter().find(|target| target.name == "tokenizer").unwrap().seeds)()[0];
    let source = lazy_attn_types::TokenizerSource::Json(seed.as_slice().into());
    let tokenizer = lazy_attn_text::Tokenizer::from_source(&source, &Default::default()).unwrap();
    let text = "a".repeat(lazy_attn_text::Tokenizer::MAX_TEXT_BYTES + 1);
    assert!(tokenizer.encode(&text).unwrap_err().to_string().contains("bytes"));
}

#[test]
fn cve_2026_21869_negative_numbers_where_counts_belong() {
    let fields = [
        r#""stopping": {"maxTokens": -1}"#,
        r#""stopping": {"stopTokenIds": [-1]}"#,
        r#""sampling": {"n": -1}"#,
        r#""sampling": {"topK": -2147483649}"#,
        r#""sampling": {"topP": -0.5}"#,
        r#""sampling": {"temperature": -1}"#,
        r#""response": {"topLogprobs": -1}"#,
        r#""stopping": {"maxTokens": 4294967296}"#,
        r#""sampling": {"n": 1e99}"#,
    ];
    for field in fields {
        let request = format!(r#"{{"parts": [{{"text": "a"}}], {field}}}"#);
        assert_ne!(outcome("json", request.as_bytes()), "accepted", "{field}");
    }
    refused("json", br#"{"parts": [{"tokenIds": {"ids": [-5]}}]}"#, "parts[0]");
}

#[test]
fn keys_given_twice_are_refused() {
    refused("json", br#"{"parts": [{"text": "a"}], "parts": [{"text": "b"}]}"#, "parts");
    let mut file = Gguf::tiny("llama");
    file.meta.push(("llama.block_count".into(), Meta::U32(2)));
    refused("gguf", &file.bytes(), "twice");
    let tensor: (&str, &[u64]) = ("token_embd.weight", &[4, 2]);
    refused("gguf", &with_tensors(&[tensor, tensor]), "twice");
    let entry = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    refused("safetensors", &safetensors(&format!("{{{entry},{entry}}}"), 4), "a");
}

/// A file with `header` in front of so many bytes.
fn safetensors(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data_bytes, 0);
    file
}

#[test]
fn headers_longer_than_their_file_and_offsets_past_its_end_are_refused() {
    for len in [9, 100_000_001, 1 << 32, i64::MAX as u64, u64::MAX - 7, u64::MAX] {
        let mut file = u64::to_le_bytes(len).to_vec();
        file.extend(b"{}      ");
        assert_ne!(outcome("safetensors", &file), "accepted", "{len}");
    }
    for (shape, offsets) in [
        ("[1]", "[0,8]"),
        ("[2]", "[0,18446744073709551615]"),
        ("[1]", "[18446744073709551612,18446744073709551616]"),
        ("[4294967296,4294967296]", "[0,0]"),
        ("[4611686018427387905]", "[0,4]"),
        ("[1]", "[4,0]"),
        ("[1]", "[-4,0]"),
        ("[-1]", "[0,4]"),
    ] {
        let header = format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#);
        assert_ne!(outcome("safetensors", &safetensors(&header, 4)), "accepted", "{header}");
    }
}

#[test]
fn depth_does_not_exhaust_the_stack() {
    let deep = |open: &str| open.repeat(30_000).into_bytes();
    for name in ["json", "config", "tokenizer", "safetensors_index"] {
        for open in ["[", "{\"a\":"] {
            assert_ne!(outcome(name, &deep(open)), "accepted", "{name}");
        }
    }
    assert_ne!(outcome("safetensors", &safetensors(&"[".repeat(30_000), 0)), "accepted");
    for piece in ["{{ (", "{{ [", "{% if a %}", "{{ not ", "{{ a.b", "{% for a in b %}", "{{ -"] {
        let nested = format!("{piece}{}", &piece.trim_start_matches("{{ ").repeat(20_000));
        outcome("chat_template", nested.as_bytes());
    }
    // A message in a message in a message, which the schema does not have but the wire can say.
    let mut body = Vec::new();
    for _ in 0..2000 {
        let mut outer = vec![0x12];
        prost_len(&mut outer, body.len());
        outer.extend(&body);
        body = outer;
    }
    outcome("protobuf", &body);
}

fn prost_len(out: &mut Vec<u8>, mut len: usize) {
    while len >= 0x80 {
        out.push((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
}

#[test]
fn templates_that_run_for_ever_or_write_without_end_are_stopped() {
    for source in [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% for a in range(99999) %}{{ messages | tojson }}{% endfor %}",
        "{{ 'x' * 99999999999 }}",
        "{% set a = 'xxxxxxxxxxxxxxxx' * 4096 %}{{ a * 4096 }}",
        "{{ 'x' | indent(99999999999) }}",
        "{{ '%99999999999d' | format(1) }}",
        "{{ '{:99999999999}'.format(1) }}",
        "{{ 'a'.replace('', 'x' * 65536) }}",
    ] {
        println!("{source}: {}", outcome("chat_template", source.as_bytes()));
    }
}

#[test]
fn an_index_names_no_file_outside_its_directory() {
    for name in ["../a.safetensors", "/etc/passwd", "a/../b", "..", "", "a\\\\b", "C:b", "\\u0000"] {
        let index = format!(r#"{{"weight_map": {{"a": "{name}"}}}}"#);
        assert_ne!(outcome("safetensors_index", index.as_bytes()), "accepted", "{name}");
    }
}
