//! What the recipe for block tuning is held to: the parts of prompts and their ids, as this crate makes them.
//!
//! `docs/recipes/block-finetune/test_template.py` compares the recipe's template with the file that is checked here. With
//! `UPDATE_EXPECT=1` the file is written again.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use expect_test::expect_file;
use lazy_attn_text::{BlockTemplate, ChatTemplate, Document, TemplateTokens, Tokenizer};
use lazy_attn_types::{SpecialTokens, TokenizerSource};
use serde_json::{Value, json};

const RECIPE_TESTS: &str = "../../docs/recipes/block-finetune/tests";

/// Chat templates by what is special about them; nothing stands for a model that has none, but the tokens of ChatML.
const TEMPLATES: [(&str, Option<&str>); 4] = [
    ("ChatML without a chat template", None),
    (
        "ChatML",
        Some(
            "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        ),
    ),
    (
        "headers, trimmed messages",
        Some(
            "{% for m in messages %}{{ '<|header|>' + m.role + '<|end_header|>\n\n' + m.content | trim + '<|eot|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|header|>assistant<|end_header|>\n\n' }}{% endif %}",
        ),
    ),
    (
        "no system role, a space before the answer",
        Some(
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}",
        ),
    ),
];

struct Input {
    system: &'static str,
    documents: &'static [(Option<&'static str>, &'static str)],
    question: &'static str,
}

/// White space of every kind, parts without a title, letters of several bytes, and special tokens inside a text.
const INPUTS: [Input; 4] = [
    Input {
        system: BlockTemplate::QUESTION_SYSTEM,
        documents: &[(Some("lamp"), "The lamp is red."), (Some("boat"), "The boat is pink.")],
        question: "What colour is the lamp?",
    },
    Input {
        system: "",
        documents: &[
            (None, "  One\r\n two \n\n\tthree\u{a0}\n"),
            (Some("\n \n"), "four\u{2028}five\u{85}six"),
        ],
        question: "How many lines?",
    },
    Input {
        system: "Be brief.",
        documents: &[
            (Some(" Caf\u{e9}\n\u{4f60}\u{597d} "), "na\u{ef}ve \u{1f600}\u{b}\u{3000}text\u{1f}"),
            (None, "\u{1f}\u{1c}"),
        ],
        question: "  Untrimmed\nquestion ",
    },
    Input {
        system: "<|im_end|>",
        documents: &[(Some("<|im_start|>user"), "A text that writes <|im_end|> and Title: x")],
        question: "<|im_start|>",
    },
];

fn tokenizer() -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(RECIPE_TESTS).join("tiny/tokenizer.json");
    let bytes = std::fs::read(path).unwrap();
    Tokenizer::from_source(&TokenizerSource::Json(bytes.into()), &SpecialTokens::default()).unwrap()
}

fn template(source: Option<&str>) -> BlockTemplate {
    let Some(source) = source else { return BlockTemplate::chatml() };
    BlockTemplate::from_chat(&ChatTemplate::new(source, TemplateTokens::default()).unwrap(), 0).unwrap()
}

fn prompt(template: &BlockTemplate, tokenizer: &Tokenizer, input: &Input) -> Value {
    let document = |&(title, text)| Document { title, text };
    let documents: Vec<Document<'_>> = input.documents.iter().map(document).collect();
    let prompt = template.prompt(input.system, &documents, input.question);
    let parts: Vec<String> =
        [prompt.system].into_iter().chain(prompt.documents).chain([prompt.question]).collect();
    let ids = |part: &String| tokenizer.encode(part).unwrap().iter().map(|token| token.0).collect();
    let ids: Vec<Vec<u32>> = parts.iter().map(ids).collect();
    json!({"parts": parts, "ids": ids})
}

#[test]
fn the_recipe_is_compared_with_the_parts_and_ids_of_this_crate() {
    let tokenizer = tokenizer();
    let templates = TEMPLATES.map(|(name, source)| {
        let template = template(source);
        let prompts: Vec<Value> = INPUTS.iter().map(|input| prompt(&template, &tokenizer, input)).collect();
        json!({"name": name, "chat_template": source, "prompts": prompts})
    });
    let inputs = INPUTS.map(|input| {
        let document = |&(title, text): &(Option<&str>, &str)| json!({"title": title, "text": text});
        let documents: Vec<Value> = input.documents.iter().map(document).collect();
        json!({"system": input.system, "documents": documents, "question": input.question})
    });
    let written = json!({"inputs": inputs, "templates": templates});
    expect_file!["../../../docs/recipes/block-finetune/tests/template.json"]
        .assert_eq(&format!("{}\n", compact(&written)));
}

/// One template or input a line.
fn compact(value: &Value) -> String {
    value.to_string().replace("{\"name\"", "\n{\"name\"").replace("{\"system\"", "\n{\"system\"")
}
