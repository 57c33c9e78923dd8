//! Small vocabularies for tests, built by hand.

use std::sync::Arc;

use lazy_attn_types::{BpeVocab, SpecialTokens, TokenId, TokenizerSource};
use serde_json::{Value, json};

use crate::table::byte_level_alphabet;

/// Merges of the byte-level vocabulary: words, a word behind a space, digits, a sign that leads a word.
const MERGES: [(&str, &str); 9] = [
    ("h", "e"),
    ("l", "l"),
    ("he", "ll"),
    ("hell", "o"),
    ("Ġ", "hello"),
    ("1", "2"),
    ("12", "3"),
    (".", "he"),
    ("Ċ", "Ċ"),
];
const SPECIAL: [&str; 2] = ["<|im_start|>", "<|im_end|>"];

/// Special tokens that fit every vocabulary here.
pub(crate) fn special() -> SpecialTokens {
    SpecialTokens { end: vec![TokenId(1)], ..SpecialTokens::default() }
}

/// `<|im_start|>`, `<|im_end|>`, all bytes, then one token per merge.
pub(crate) fn byte_level(pre: &str) -> BpeVocab {
    let mut bytes: Vec<(u8, char)> = byte_level_alphabet().into_iter().map(|(c, byte)| (byte, c)).collect();
    bytes.sort_unstable();
    let tokens: Vec<String> = SPECIAL
        .iter()
        .map(|text| text.to_string())
        .chain(bytes.iter().map(|(_, c)| c.to_string()))
        .chain(MERGES.iter().map(|(left, right)| format!("{left}{right}")))
        .collect();
    let token_types = (0..tokens.len()).map(|id| if id < SPECIAL.len() { 3 } else { 1 }).collect();
    BpeVocab {
        model: "gpt2".into(),
        pre: pre.into(),
        merges: MERGES.iter().map(|(left, right)| format!("{left} {right}")).collect(),
        tokens,
        token_types,
        scores: Vec::new(),
    }
}

/// `<unk>`, `<s>`, `</s>`, all bytes, then pieces whose scores order the merges.
pub(crate) fn sentence_piece() -> BpeVocab {
    let pieces = ["▁he", "ll", "llo", "▁hello", "▁h", "▁", "h", "e", "l", "o", "a"];
    let specials = [("<unk>", 2), ("<s>", 3), ("</s>", 3)];
    let mut vocab = BpeVocab { model: "llama".into(), ..BpeVocab::default() };
    for (text, kind) in specials {
        vocab.tokens.push(text.into());
        vocab.token_types.push(kind);
    }
    for byte in 0..=u8::MAX {
        vocab.tokens.push(format!("<0x{byte:02X}>"));
        vocab.token_types.push(6);
    }
    for piece in pieces {
        vocab.tokens.push(piece.into());
        vocab.token_types.push(1);
    }
    vocab.scores = (0..vocab.tokens.len()).map(|id| -(id as f32)).collect();
    vocab
}

fn added_tokens(vocab: &BpeVocab) -> Value {
    let added = (0..).zip(&vocab.tokens).zip(&vocab.token_types).filter(|(_, kind)| matches!(kind, 2 | 3));
    let entry = |((id, text), _): ((u32, &String), &u32)| {
        json!({
            "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true
        })
    };
    added.map(entry).collect()
}

fn vocab_of(vocab: &BpeVocab) -> Value {
    let entries = (0u32..).zip(&vocab.tokens).map(|(id, text)| (text.clone(), Value::from(id)));
    Value::Object(entries.collect())
}

/// The byte-level vocabulary as a `tokenizer.json` with SmolLM's pre-tokeniser.
pub(crate) fn byte_level_json() -> Value {
    let vocab = byte_level("smollm");
    json!({
        "version": "1.0",
        "added_tokens": added_tokens(&vocab),
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
        ]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocab_of(&vocab),
            "merges": MERGES.iter().map(|(left, right)| json!([left, right])).collect::<Vec<_>>(),
        }
    })
}

/// A Llama-2 style `tokenizer.json` over the SentencePiece vocabulary.
pub(crate) fn sentence_piece_json() -> Value {
    let vocab = sentence_piece();
    json!({
        "version": "1.0",
        "added_tokens": added_tokens(&vocab),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        ]},
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        ]},
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": vocab_of(&vocab),
            "merges": ["l l", "ll o", "▁ h", "▁h e", "▁he llo"],
        }
    })
}

/// The byte-level `tokenizer.json` as a source.
pub(crate) fn json_source() -> TokenizerSource {
    TokenizerSource::Json(Arc::from(byte_level_json().to_string().into_bytes()))
}
