//! Tokenizers and templates.

use serde_json::{Map, Value, json};

/// The characters that stand for the 256 bytes in byte-level vocabularies.
fn byte_characters() -> impl Iterator<Item = char> {
    let own = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let others = (0u32..256).filter(move |byte| !own(byte)).zip(256u32..).map(|(_, code)| code);
    (0u32..256).filter(own).chain(others).filter_map(char::from_u32)
}

fn byte_level() -> Value {
    let pieces = ["he", "ll", "hell", "hello"].map(str::to_owned);
    let texts =
        ["<|im_start|>".to_owned()].into_iter().chain(byte_characters().map(String::from)).chain(pieces);
    let vocab: Map<String, Value> = texts.zip(0u32..).map(|(text, id)| (text, Value::from(id))).collect();
    json!({
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "<|im_start|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocab, "merges": [["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"]]}
    })
}

pub(crate) fn tokenizer() -> Vec<Vec<u8>> {
    let mut split = byte_level();
    split["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}| ?\\p{L}+|\\s+"}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]});
    [byte_level(), split].iter().map(|value| value.to_string().into_bytes()).collect()
}

const TEMPLATES: [&str; 4] = [
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message.content | trim }}<|im_end|>\n\
     {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{{ bos_token }}{% set ns = namespace(last=0) %}{%- for m in messages[::-1] -%}{% set ns.last = loop.index %}\
     {{ m.content.strip().split(' ') | join('-') | upper }}{%- endfor -%}{{ strftime_now('%Y-%m-%d') }}",
    "{% macro part(m, depth=0) %}[{{ m | tojson(indent=2) }}]{% endmacro %}{% for d in documents %}{{ part(d) }}\
     {% endfor %}{% if messages | length > 9 %}{{ raise_exception('too many') }}{% endif %}",
    "{{ 'x' * 10 }}{% for i in range(3) %}{{ '%s' | format(i) }}{{ messages[i].content[1:3] }}{% endfor %}",
];

pub(crate) fn chat_template() -> Vec<Vec<u8>> {
    TEMPLATES.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use crate::{TARGETS, try_input};

    #[test]
    fn seeds_of_texts_are_accepted() {
        for target in TARGETS.iter().filter(|target| ["tokenizer", "chat_template"].contains(&target.name)) {
            for seed in (target.seeds)() {
                assert_eq!(
                    try_input(target, &seed).as_deref(),
                    Ok("accepted"),
                    "{}",
                    String::from_utf8_lossy(&seed)
                );
            }
        }
    }
}
