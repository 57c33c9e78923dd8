//! Tokenizers from the bytes of a `tokenizer.json`.

use serde_json::Value;
use tokenizers::Tokenizer;

use super::{Built, MAX_MERGES, MAX_TOKEN_BYTES, MAX_VOCAB_TOKENS, Vocab, check_merge, parse_merge};
use crate::error::{TextError, check_size};
use crate::table::{PieceCoding, TokenKind, TokenTable};

/// Largest file; the largest published one has 33 MiB.
const MAX_JSON_BYTES: usize = 128 << 20;

const NORMALIZERS: (&[&str], &str) = (
    &["NFC", "NFD", "NFKC", "NFKD", "Prepend", "Replace", "Lowercase", "Strip"],
    "NFC, NFD, NFKC, NFKD, Prepend, Replace, Lowercase, Strip, Sequence",
);
const PRE_TOKENIZERS: (&[&str], &str) = (
    &["ByteLevel", "Digits", "Split", "Metaspace", "Punctuation", "Whitespace", "WhitespaceSplit"],
    "ByteLevel, Digits, Split, Metaspace, Punctuation, Whitespace, WhitespaceSplit, Sequence",
);

/// Builds the tokenizer `bytes` describe.
pub(crate) fn build(bytes: &[u8]) -> Result<Built, TextError> {
    check_size("the length of tokenizer.json in bytes", bytes.len(), MAX_JSON_BYTES)?;
    let invalid = |error: &dyn std::fmt::Display| TextError::InvalidJson(error.to_string());
    let json: Value = serde_json::from_slice(bytes).map_err(|error| invalid(&error))?;
    check_steps(&json["normalizer"], "normalizer", "normalizers", NORMALIZERS)?;
    check_steps(&json["pre_tokenizer"], "pre_tokenizer", "pretokenizers", PRE_TOKENIZERS)?;
    let vocab = check_model(&json["model"])?;
    let decoding = Decoding::of(&json["decoder"])?;
    let entries = entries_by_id(&vocab, &json["added_tokens"])?;

    let mut inner = Tokenizer::from_bytes(bytes).map_err(|error| invalid(&error))?;
    // Both would drop or invent tokens.
    inner.with_padding(None).with_truncation(None).map_err(|error| invalid(&error))?;
    for (id, (text, _)) in (0u32..).zip(&entries) {
        if inner.token_to_id(text) != Some(id) {
            return Err(TextError::InvalidVocab(format!("token {id} ({text:?}) cannot keep its id")));
        }
    }
    let table = TokenTable::new(decoding.coding, decoding.strips_first_space, entries.into_iter());
    Ok(Built { inner, table })
}

fn unsupported(key: &str, value: &Value, supported: &'static str) -> TextError {
    let value = value.as_str().map_or_else(|| value.to_string().chars().take(80).collect(), str::to_owned);
    TextError::Unsupported { key: key.to_owned(), value, supported }
}

/// Checks that a step is of an allowed type, and every step of a `Sequence` too.
fn check_steps(
    step: &Value,
    key: &str,
    list_key: &str,
    allowed: (&[&str], &'static str),
) -> Result<(), TextError> {
    if step.is_null() {
        return Ok(());
    }
    let kind = step["type"].as_str().unwrap_or_default();
    if kind == "Sequence" {
        let steps = step[list_key].as_array().map(Vec::as_slice).unwrap_or_default();
        return steps.iter().try_for_each(|step| check_steps(step, key, list_key, allowed));
    }
    if allowed.0.contains(&kind) {
        return Ok(());
    }
    Err(unsupported(&format!("{key}.type"), &step["type"], allowed.1))
}

/// The vocabulary of the model, after checking that merges fit it and that nothing is random.
fn check_model(model: &Value) -> Result<Vocab, TextError> {
    if !matches!(model["type"].as_str(), Some("BPE")) {
        return Err(unsupported("model.type", &model["type"], "BPE"));
    }
    let has_dropout = !model["dropout"].is_null() && model["dropout"].as_f64() != Some(0.0);
    if has_dropout {
        return Err(unsupported("model.dropout", &model["dropout"], "null"));
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if !model[key].is_null() && model[key].as_str() != Some("") {
            return Err(unsupported(&format!("model.{key}"), &model[key], "null"));
        }
    }
    let vocab = read_vocab(&model["vocab"])?;
    if let Some(unknown) = model["unk_token"].as_str().filter(|text| !vocab.contains_key(*text)) {
        return Err(TextError::InvalidVocab(format!("model.unk_token {unknown:?} is not a token")));
    }
    let Some(merges) = model["merges"].as_array() else {
        return Err(TextError::InvalidVocab("model.merges is not a list".into()));
    };
    check_size("the number of merges", merges.len(), MAX_MERGES)?;
    for (line, merge) in (1..).zip(merges) {
        let (left, right) = read_merge(line, merge)?;
        check_merge(line, left, right, &vocab)?;
    }
    Ok(vocab)
}

fn read_vocab(json: &Value) -> Result<Vocab, TextError> {
    let Some(entries) = json.as_object() else {
        return Err(TextError::InvalidVocab("model.vocab is not an object".into()));
    };
    check_size("the number of tokens", entries.len(), MAX_VOCAB_TOKENS)?;
    let read = |(text, id): (&String, &Value)| Ok((text.clone(), read_id(text, id)?));
    entries.iter().map(read).collect()
}

fn read_id(text: &str, id: &Value) -> Result<u32, TextError> {
    check_size("the length of a token in bytes", text.len(), MAX_TOKEN_BYTES)?;
    let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| TextError::InvalidVocab(format!("the id of token {text:?} is not a 32-bit number")))
}

/// A merge is written `"left right"` or `["left", "right"]`.
fn read_merge(line: usize, merge: &Value) -> Result<(&str, &str), TextError> {
    if let Some(text) = merge.as_str() {
        return parse_merge(line, text);
    }
    let sides = merge.as_array().map(Vec::as_slice).unwrap_or_default();
    match sides {
        [Value::String(left), Value::String(right)] => Ok((left, right)),
        _ => Err(TextError::InvalidMerge {
            line,
            merge: merge.to_string().chars().take(80).collect(),
            problem: "it is not two texts",
        }),
    }
}

/// The text and kind of every token, in order of ids; ids must be contiguous from 0.
fn entries_by_id<'a>(vocab: &'a Vocab, added: &'a Value) -> Result<Vec<(&'a str, TokenKind)>, TextError> {
    let added = added.as_array().map(Vec::as_slice).unwrap_or_default();
    check_size("the number of added tokens", added.len(), MAX_VOCAB_TOKENS)?;
    // No more ids than entries can be contiguous, so this also bounds the table.
    let mut entries: Vec<Option<(&str, TokenKind)>> = vec![None; vocab.len() + added.len()];
    let mut place = |text: &'a str, id: u32, kind: TokenKind| {
        let Some(entry) = entries.get_mut(id as usize) else {
            return Err(TextError::InvalidVocab(format!("token {text:?} has id {id}, but ids have gaps")));
        };
        match entry {
            Some((other, _)) if *other != text => {
                Err(TextError::InvalidVocab(format!("tokens {other:?} and {text:?} have the same id {id}")))
            }
            _ => {
                *entry = Some((text, kind));
                Ok(())
            }
        }
    };
    for (text, &id) in vocab {
        place(text, id, TokenKind::Piece)?;
    }
    for token in added {
        let text = token["content"].as_str().unwrap_or_default();
        let is_special = token["special"].as_bool().unwrap_or(false);
        place(
            text,
            read_id(text, &token["id"])?,
            if is_special { TokenKind::Special } else { TokenKind::Added },
        )?;
    }
    let num_tokens = entries.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    entries.truncate(num_tokens);
    let gap = |id: usize| TextError::InvalidVocab(format!("no token has id {id}, but ids go on after it"));
    entries.into_iter().enumerate().map(|(id, entry)| entry.ok_or_else(|| gap(id))).collect()
}

/// What the `decoder` key says about bytes.
struct Decoding {
    coding: PieceCoding,
    strips_first_space: bool,
}

impl Decoding {
    const SUPPORTED: &'static str =
        "ByteLevel, Metaspace, or a Sequence of Replace(▁ by a space), ByteFallback, Fuse, Strip(one space)";

    fn of(decoder: &Value) -> Result<Decoding, TextError> {
        match decoder["type"].as_str() {
            Some("ByteLevel") => Ok(Decoding { coding: PieceCoding::ByteLevel, strips_first_space: false }),
            Some("Metaspace") => Decoding::of_steps(std::slice::from_ref(decoder)),
            Some("Sequence") => {
                Decoding::of_steps(decoder["decoders"].as_array().map(Vec::as_slice).unwrap_or_default())
            }
            _ => Err(unsupported("decoder.type", &decoder["type"], Self::SUPPORTED)),
        }
    }

    fn of_steps(steps: &[Value]) -> Result<Decoding, TextError> {
        let (mut marks_spaces, mut byte_fallback, mut strips_first_space) = (false, false, false);
        for step in steps {
            match step["type"].as_str() {
                Some("ByteLevel") if steps.len() == 1 => return Decoding::of(step),
                Some("ByteFallback") => byte_fallback = true,
                Some("Fuse") => {}
                Some("Replace") if step["pattern"]["String"] == "▁" && step["content"] == " " => {
                    marks_spaces = true;
                }
                Some("Metaspace") if step["replacement"] == "▁" => {
                    marks_spaces = true;
                    let never = step["prepend_scheme"] == "never" || step["add_prefix_space"] == false;
                    strips_first_space = !never;
                }
                Some("Strip") if step["content"] == " " && step["start"] == 1 && step["stop"] == 0 => {
                    strips_first_space = true;
                }
                _ => return Err(unsupported("decoder.decoders", step, Self::SUPPORTED)),
            }
        }
        if !marks_spaces {
            return Err(unsupported("decoder.decoders", &Value::from(steps.to_vec()), Self::SUPPORTED));
        }
        Ok(Decoding { coding: PieceCoding::SentencePiece { byte_fallback }, strips_first_space })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::test_vocab::{byte_level_json, sentence_piece_json};

    type Change = fn(&mut Value);

    fn refused(change: impl FnOnce(&mut Value)) -> String {
        let mut json = byte_level_json();
        change(&mut json);
        build(json.to_string().as_bytes()).err().expect("the file was accepted").to_string()
    }

    #[test]
    fn whatever_would_change_the_tokens_and_is_not_done_is_refused_by_key() {
        let cases: [(&str, Change); 8] = [
            ("model.type", |json| json["model"]["type"] = json!("Unigram")),
            ("model.dropout", |json| json["model"]["dropout"] = json!(0.1)),
            ("model.end_of_word_suffix", |json| json["model"]["end_of_word_suffix"] = json!("</w>")),
            ("normalizer.type", |json| json["normalizer"] = json!({"type": "Precompiled"})),
            ("pre_tokenizer.type", |json| {
                json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [{"type": "X"}]});
            }),
            ("decoder.type", |json| json["decoder"] = json!({"type": "WordPiece"})),
            ("decoder.decoders", |json| {
                json["decoder"] = json!({"type": "Sequence", "decoders": [{"type": "Fuse"}]});
            }),
            ("decoder.type", |json| json["decoder"] = Value::Null),
        ];
        for (key, change) in cases {
            let message = refused(change);
            assert!(message.contains(key), "{key}: {message}");
        }
    }

    #[test]
    fn vocabularies_that_contradict_themselves_are_refused() {
        let cases: [(&str, Change); 6] = [
            ("same id", |json| json["model"]["vocab"]["a"] = json!(0)),
            ("gaps", |json| json["model"]["vocab"]["new"] = json!(4_000_000_000u32)),
            ("no token has id", |json| json["model"]["vocab"]["!"] = json!(268)),
            ("32-bit", |json| json["model"]["vocab"]["a"] = json!(-1)),
            ("merge 1", |json| json["model"]["merges"][0] = json!(["h", "zz"])),
            ("merge 1", |json| json["model"]["merges"][0] = json!([1])),
        ];
        for (part, change) in cases {
            let message = refused(change);
            assert!(message.contains(part), "{part}: {message}");
        }
    }

    #[test]
    fn truncation_and_padding_in_the_file_are_ignored() {
        let mut json = byte_level_json();
        json["truncation"] =
            json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0});
        let built = build(json.to_string().as_bytes()).unwrap();
        assert_eq!(built.inner.encode_fast("hello hello", false).unwrap().len(), 2);
    }

    /// Replaces the `nth` value of the tree, counted depth first.
    fn mutate(value: &mut Value, nth: &mut usize, with: &Value) {
        if *nth == 0 {
            *value = with.clone();
        }
        *nth = nth.wrapping_sub(1);
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| mutate(item, nth, with)),
            Value::Object(entries) => entries.values_mut().for_each(|item| mutate(item, nth, with)),
            _ => {}
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            Just(json!([])),
            Just(json!({})),
            Just(json!(["h", "e"])),
            any::<u32>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            "[hel ▁<>x0-9]{0,6}".prop_map(Value::from),
            Just(
                json!({"type": "Split", "pattern": {"Regex": "(a*)*b"}, "behavior": "Isolated", "invert": false})
            ),
            Just(json!({"type": "Prepend", "prepend": ""})),
        ]
    }

    proptest! {
        #[test]
        fn random_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(build(&bytes).is_err());
        }

        #[test]
        fn a_damaged_file_is_an_error_or_a_working_tokenizer(
            nth in 0usize..700, with in any_value(), sentence_piece in any::<bool>(), text in ".{0,20}",
        ) {
            let mut json = if sentence_piece { sentence_piece_json() } else { byte_level_json() };
            mutate(&mut json, &mut nth.clone(), &with);
            if let Ok(built) = build(json.to_string().as_bytes())
                && let Ok(encoding) = built.inner.encode_fast(text.as_str(), false)
            {
                prop_assert!(encoding.get_ids().iter().all(|&id| id < built.table.len()));
            }
        }

        #[test]
        fn a_truncated_file_is_an_error(keep in 0.0f64..1.0) {
            let bytes = byte_level_json().to_string().into_bytes();
            let kept = (keep * bytes.len() as f64) as usize;
            prop_assert!(build(&bytes[..kept.min(bytes.len() - 1)]).is_err());
        }
    }
}
