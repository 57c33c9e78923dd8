//! The JSON form of requests and responses, as files and the command line use it.

use lazy_attn_proto::v1::{
    CollectedResponse, DocumentAttention, FinishReason, GenerateRequest, TokenLogprob, TopLogprobs, Usage,
    inline_document, part,
};
use lazy_attn_proto::{JsonError, from_json, to_json};

const REQUEST: &str = r#"{
  "parts": [{"text": "<|im_start|>user\n"},
            {"inlineDocument": {"title": "Harbour", "text": "Title: Harbour\nThe pilot boat leaves at six.\n\n"}},
            {"inlineDocument": {"tokenIds": {"ids": [504, 2211]}}},
            {"text": "Question: When?<|im_end|>\n"}],
  "attention": "BLOCK", "sampling": {"temperature": 0, "seed": "18446744073709551615"},
  "stopping": {"maxTokens": 24}, "response": {"topLogprobs": 20, "tokenIds": true}}"#;

fn read(text: &str) -> Result<GenerateRequest, JsonError> {
    from_json(text.as_bytes())
}

#[test]
fn a_request_file_is_read_field_by_field() {
    let request = read(REQUEST).unwrap();
    assert_eq!(request.parts.len(), 4);
    assert_eq!(request.attention(), DocumentAttention::Block);
    let Some(part::Part::InlineDocument(document)) = &request.parts[2].part else { panic!("not a document") };
    let Some(inline_document::Source::TokenIds(tokens)) = &document.source else { panic!("not tokens") };
    assert_eq!(tokens.ids, [504, 2211]);
    let sampling = request.sampling.unwrap();
    assert_eq!((sampling.temperature, sampling.top_p), (Some(0.0), None));
    assert_eq!(sampling.seed, Some(u64::MAX));
    assert_eq!(request.response.unwrap().top_logprobs, Some(20));
}

#[test]
fn a_request_survives_printing_and_reading() {
    let request = read(REQUEST).unwrap();
    assert_eq!(read(&to_json(&request).unwrap()).unwrap(), request);
}

#[test]
fn enum_values_are_read_in_both_forms_and_printed_short() {
    for name in ["\"FULL\"", "\"DOCUMENT_ATTENTION_FULL\"", "2"] {
        let request = read(&format!(r#"{{"attention": {name}}}"#)).unwrap();
        assert_eq!(request.attention(), DocumentAttention::Full, "{name}");
        assert!(to_json(&request).unwrap().contains(r#""attention":"FULL""#));
    }
}

#[test]
fn zeros_of_a_response_are_printed() {
    let response = CollectedResponse {
        token_ids: vec![0],
        top_logprobs: vec![TopLogprobs {
            id: 0,
            logprob: 0.0,
            top: vec![TokenLogprob { id: 0, logprob: 0.0 }],
        }],
        usage: Some(Usage::default()),
        finish_reason: FinishReason::Length.into(),
        ..CollectedResponse::default()
    };
    let json = to_json(&response).unwrap();
    for expected in [
        r#""text":"""#,
        r#""tokenIds":[0]"#,
        r#""topLogprobs":[{"id":0,"logprob":0.0,"top":[{"id":0,"logprob":0.0}]}]"#,
        r#""finishReason":"LENGTH""#,
        r#""cachedPromptTokens":0"#,
        r#""documentsReused":0"#,
    ] {
        assert!(json.contains(expected), "{expected} is missing from {json}");
    }
}

#[test]
fn mistakes_are_reported_with_the_field_and_the_place() {
    let cases = [
        (r#"{"part": []}"#, "part", "unknown field"),
        (
            r#"{"parts": [{"text": "a"}, {"inlineDocument": {"txt": "b"}}]}"#,
            "parts[1].inlineDocument.txt",
            "unknown field",
        ),
        (r#"{"parts": [{"text": 5}]}"#, "parts[0].text", "string"),
        (r#"{"attention": "BLOK"}"#, "attention", "BLOCK, FULL"),
        (r#"{"sampling": {"temperature": "hot"}}"#, "sampling.temperature", "invalid"),
        (r#"{"sampling": {"topK": -1}}"#, "sampling.topK", "not a number in the range"),
        (r#"{"parts": [{"text": "a", "tokenIds": {"ids": [1]}}]}"#, "parts[0]", "duplicate field `tokenIds`"),
        (r#"{"model": "a", "model": "b"}"#, "request", "duplicate field `model`"),
    ];
    for (json, place, word) in cases {
        let message = read(json).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{place}: ")), "{json}: {message}");
        assert!(message.contains(word), "{json}: {message}");
    }
}

#[test]
fn what_is_not_json_is_told_apart_from_what_is_not_a_request() {
    assert!(matches!(read("{\"parts\": ["), Err(JsonError::Syntax { .. })));
    assert!(matches!(read("{} {}"), Err(JsonError::Syntax { .. })));
    assert!(matches!(read(&"[".repeat(100_000)), Err(JsonError::Syntax { .. } | JsonError::Field { .. })));
    let bad: Result<GenerateRequest, _> = from_json(b"{\"model\": \"\xff\"}");
    assert_eq!(bad, Err(JsonError::NotUtf8 { valid_up_to: 11 }));
}
