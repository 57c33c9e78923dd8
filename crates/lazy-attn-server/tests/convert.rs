//! Messages to engine requests and events to messages.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use lazy_attn_engine::{CacheUse, GenerateRequest, Part, PartContent};
use lazy_attn_proto::{from_json, v1};
use lazy_attn_server::convert::{
    ChatPrompt, ChatRenderer, ConvertError, Converted, Defaults, Limits, NoDocuments, RequestConverter,
    TokenIdsInReply,
};
use lazy_attn_types::sampling::EndTokens;
use lazy_attn_types::{Exactness, Placement, TenantSalt, TokenId};
use serde_json::{Value, json};

/// Writes each document, then the last message.
struct PlainChat;

impl ChatRenderer for PlainChat {
    fn render(&self, prompt: &ChatPrompt) -> Result<Vec<Part>, String> {
        let documents = prompt.documents.iter().map(|document| Part::Document(document.content.clone()));
        let question = prompt.messages.last().map(|message| message.text.clone()).ok_or("has no message")?;
        Ok(documents.chain([Part::Text(PartContent::Text(question))]).collect())
    }
}

fn convert(request: &Value) -> Result<Converted, ConvertError> {
    let converter = RequestConverter {
        model: "tiny",
        limits: Limits { max_part_bytes: 64, max_prompt_bytes: 100, ..Limits::default() },
        defaults: Defaults::default(),
        chat: &PlainChat,
        documents: &NoDocuments,
    };
    let request: v1::GenerateRequest = from_json(request.to_string().as_bytes()).unwrap();
    converter.convert(request, TenantSalt::SINGLE_USER)
}

fn parts_of(request: &Value) -> Vec<Part> {
    convert(request).unwrap().request.parts
}

fn text(text: &str) -> PartContent {
    PartContent::Text(text.to_owned())
}

fn document(text: &str) -> Value {
    json!({"inlineDocument": {"text": text}})
}

fn user(text: &str) -> Value {
    json!({"role": "USER", "content": [{"text": text}]})
}

#[test]
fn every_option_reaches_the_engine() {
    let Converted { request, reply, .. } = convert(&json!({
        "model": "tiny", "requestId": "r1", "attention": "FULL",
        "parts": [{"text": "a"}, {"tokenIds": {"ids": [7]}}],
        "sampling": {"temperature": 0.5, "topK": 3, "topP": 0.25, "minP": 0.125, "repetitionPenalty": 2,
                     "presencePenalty": 1, "frequencyPenalty": -1, "logitBias": {"9": -5, "4": 2}, "seed": "11", "n": 2},
        "stopping": {"maxTokens": 9, "stopTexts": ["\n"], "stopTokenIds": [2], "ignoreEndTokens": true},
        "cache": {"bypass": true}, "response": {"topLogprobs": 4, "tokenIds": true}, "forcedOutput": [5, 0]
    }))
    .unwrap();
    let sampling = &request.sampling;
    assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p), (0.5, 3, 0.25, 0.125));
    assert_eq!(
        (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty),
        (2.0, 1.0, -1.0)
    );
    assert_eq!(sampling.logit_bias, [(TokenId(4), 2.0), (TokenId(9), -5.0)]);
    assert_eq!((sampling.seed, sampling.n), (Some(11), 2));
    assert_eq!((request.stopping.max_tokens, &request.stopping.stop_texts[..]), (9, &["\n".to_owned()][..]));
    assert_eq!(request.stopping.stop_tokens, [TokenId(2)]);
    assert_eq!(request.stopping.end_tokens, EndTokens::Ignore);
    assert_eq!((request.cache, request.exactness), (CacheUse::Bypass, Exactness::Full));
    assert_eq!(request.output.top_logprobs, 4);
    assert_eq!(*request.forced_output, [TokenId(5), TokenId(0)]);
    assert_eq!(
        (reply.request_id.as_str(), reply.token_ids, reply.top_logprobs, reply.n),
        ("r1", TokenIdsInReply::Report, 4, 2)
    );
}

#[test]
fn absent_options_take_the_defaults_and_zero_means_zero() {
    let defaults = Defaults::default();
    let GenerateRequest { sampling, stopping, exactness, cache, .. } =
        convert(&json!({"parts": [{"text": "a"}], "sampling": {"temperature": 0}})).unwrap().request;
    assert_eq!((sampling, stopping, exactness), (defaults.sampling, defaults.stopping, defaults.exactness));
    assert_eq!(cache, CacheUse::ReadWrite);
}

#[test]
fn rungs_and_placements_reach_the_engine() {
    let of = |fields: Value| {
        let mut request = json!({"parts": [{"text": "a"}]});
        request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        convert(&request).map(|converted| (converted.request.exactness, converted.request.placement))
    };
    let rungs = [
        (json!({"rung": "BLOCK"}), Exactness::Block),
        (json!({"rung": "HEAD", "headTokens": 16}), Exactness::Head { num_tokens: 16 }),
        (json!({"rung": "HEAD"}), Exactness::Head { num_tokens: 0 }),
        (json!({"rung": "EDGES", "edgeTokens": 8}), Exactness::Edges { num_tokens: 8 }),
        (json!({"rung": "PREAMBLE"}), Exactness::Preamble),
        (json!({"rung": "SELECTIVE", "selectivePercent": 10}), Exactness::Selective { percent: 10 }),
        (json!({"rung": "FULL"}), Exactness::Full),
    ];
    for (rung, want) in rungs {
        assert_eq!(of(json!({"exactness": rung})).unwrap(), (want, Placement::Consecutive));
        let agreeing = if want == Exactness::Full { "FULL" } else { "BLOCK" };
        assert_eq!(of(json!({"exactness": rung, "attention": agreeing})).unwrap().0, want);
    }
    for (name, want) in [("LOCAL", Placement::Local), ("PARALLEL", Placement::Parallel)] {
        assert_eq!(of(json!({"placement": name})).unwrap(), (Exactness::Block, want));
    }
    let refused = [
        json!({"exactness": {"rung": "HEAD"}, "attention": "FULL"}),
        json!({"exactness": {"rung": "FULL"}, "attention": "BLOCK"}),
        json!({"exactness": {"rung": "BLOCK", "headTokens": 4}}),
        json!({"exactness": {"rung": "HEAD", "edgeTokens": 4}}),
        json!({"exactness": {"headTokens": 4}}),
        json!({"exactness": {"rung": "HEAD", "selectivePercent": 4}}),
    ];
    for fields in refused {
        let error = of(fields.clone()).unwrap_err();
        assert!(error.path().starts_with("exactness."), "{fields}: {error}");
    }
}

#[test]
fn a_focus_reaches_the_engine_and_half_of_one_leaves_the_rest() {
    let of = |focus: Value| {
        let request = json!({"parts": [{"text": "a"}], "focus": focus});
        let focus = convert(&request).map(|converted| converted.request.focus)?;
        Ok::<_, ConvertError>((focus.temperature(), focus.scale()))
    };
    assert_eq!(of(json!(null)).unwrap(), (1.0, 1.0));
    assert_eq!(of(json!({})).unwrap(), (1.0, 1.0));
    assert_eq!(of(json!({"temperature": 0.5})).unwrap(), (0.5, 1.0));
    assert_eq!(of(json!({"scale": 0.75})).unwrap(), (1.0, 0.75));
    assert_eq!(of(json!({"temperature": 0.1, "scale": 4})).unwrap(), (0.1, 4.0));
    assert_eq!(of(json!({"temperature": 0})).unwrap_err().path(), "focus.temperature");
    assert_eq!(of(json!({"scale": 4.5})).unwrap_err().path(), "focus.scale");
}

#[test]
fn a_title_in_parts_is_never_shown_to_the_model() {
    let parts = parts_of(&json!({"parts": [
        {"inlineDocument": {"title": "Harbour", "text": "The boat leaves at six."}}, {"text": "When?"}]}));
    assert_eq!(parts, [Part::Document(text("The boat leaves at six.")), Part::Text(text("When?"))]);
}

#[test]
fn a_chat_is_rendered_with_its_documents() {
    let parts = parts_of(&json!({"chat": {
        "messages": [{"role": "SYSTEM", "content": [{"text": "Be brief."}]},
                     {"role": "ROLE_USER", "content": [{"text": "Wh"}, {"text": "en?"}]}],
        "documents": [document("six"), {"inlineDocument": {"tokenIds": {"ids": [1, 2]}}}]}}));
    let tokens = PartContent::Tokens([TokenId(1), TokenId(2)].into());
    assert_eq!(parts, [Part::Document(text("six")), Part::Document(tokens), Part::Text(text("When?"))]);
}

#[test]
fn bounds_hold_at_the_bound_and_one_past_it() {
    let many = |documents: usize, texts: usize| {
        let mut parts = vec![document("d"); documents];
        parts.extend(vec![json!({"text": "t"}); texts]);
        json!({ "parts": parts })
    };
    let with_bounds = |request: &Value, limits: Limits| {
        let converter = RequestConverter {
            model: "tiny",
            limits,
            defaults: Defaults::default(),
            chat: &PlainChat,
            documents: &NoDocuments,
        };
        converter.convert(from_json(request.to_string().as_bytes()).unwrap(), TenantSalt::SINGLE_USER)
    };
    assert!(with_bounds(&many(128, 128), Limits::default()).is_ok());
    assert_eq!(with_bounds(&many(128, 129), Limits::default()).unwrap_err().path(), "parts");
    let error = with_bounds(&many(129, 1), Limits::default()).unwrap_err();
    assert_eq!(error.path(), "parts[128].inline_document");

    assert!(convert(&json!({"parts": [{"text": "x".repeat(64)}]})).is_ok());
    assert_eq!(convert(&json!({"parts": [{"text": "x".repeat(65)}]})).unwrap_err().path(), "parts[0].text");
    let total =
        |last: usize| convert(&json!({"parts": [document(&"x".repeat(60)), {"text": "x".repeat(last)}]}));
    assert!(total(40).is_ok());
    assert!(total(41).unwrap_err().to_string().contains("101 bytes in one prompt"));
}

#[test]
fn mistakes_name_the_field_and_the_remedy() {
    let one = json!([{"text": "a"}]);
    let cases = [
        (json!({}), "parts", "give at least one text part"),
        (json!({"parts": one, "chat": {}}), "parts", "one of them"),
        (json!({"parts": one, "model": "other"}), "model", "\"tiny\" is loaded"),
        (json!({"parts": one, "requestId": "x".repeat(1025)}), "request_id", "at most 1024"),
        (
            json!({"parts": one, "attention": "DOCUMENT_ATTENTION_UNSPECIFIED", "sampling": {"n": 0}}),
            "sampling.n",
            "from 1 to 64",
        ),
        (json!({"parts": one, "sampling": {"n": 65}}), "sampling.n", "65"),
        (json!({"parts": one, "sampling": {"temperature": -1}}), "sampling.temperature", "-1"),
        (json!({"parts": one, "sampling": {"topP": 0}}), "sampling.top_p", "above 0"),
        (json!({"parts": one, "sampling": {"logitBias": {"1": 101}}}), "sampling.logit_bias", "101"),
        (json!({"parts": one, "stopping": {"maxTokens": 0}}), "stopping.max_tokens", "at least 1"),
        (json!({"parts": one, "stopping": {"stopTexts": [""]}}), "stopping.stop_texts", "1 to 256"),
        (json!({"parts": one, "stopping": {"stopTexts": vec!["x"; 17]}}), "stopping.stop_texts", "17"),
        (json!({"parts": one, "response": {"topLogprobs": 101}}), "response.top_logprobs", "at most 100"),
        (json!({"parts": [{}]}), "parts[0]", "set text"),
        (json!({"parts": [{"text": ""}]}), "parts[0].text", "is empty"),
        (json!({"parts": [{"text": "a"}, {"tokenIds": {}}]}), "parts[1].token_ids", "at least one"),
        (json!({"parts": [document(""), {"text": "a"}]}), "parts[0].inline_document.text", "is empty"),
        (
            json!({"parts": [{"inlineDocument": {"title": "t"}}, {"text": "a"}]}),
            "parts[0].inline_document",
            "no content",
        ),
        (json!({"parts": [{"text": "a"}, document("d")]}), "parts[1]", "put text"),
        (json!({"chat": {}}), "chat.messages", "must end with"),
        (json!({"chat": {"messages": [{"content": [{"text": "a"}]}]}}), "chat.messages[0].role", "USER"),
        (
            json!({"chat": {"messages": [user("a"), {"role": "SYSTEM", "content": [{"text": "a"}]}]}}),
            "chat.messages[1].role",
            "first",
        ),
        (json!({"chat": {"messages": [user("")]}}), "chat.messages[0].content[0].text", "is empty"),
        (json!({"chat": {"messages": [{"role": "USER"}]}}), "chat.messages[0].content", "is empty"),
        (
            json!({"chat": {"messages": [{"role": "USER", "content": [document("d")]}]}}),
            "chat.messages[0].content[0]",
            "not text",
        ),
        (
            json!({"chat": {"messages": [user("a")], "documents": [{"text": "a"}]}}),
            "chat.documents[0]",
            "inline_document",
        ),
    ];
    for (request, path, words) in cases {
        let error = convert(&request).expect_err(&request.to_string());
        assert_eq!(error.path(), path, "{request}: {error}");
        let message = error.to_string();
        assert!(message.starts_with(path) && message.contains(words), "{request}: {message}");
    }
}
