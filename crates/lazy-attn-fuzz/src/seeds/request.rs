//! Requests and key files.

use lazy_attn_proto::{from_json, v1};
use prost::Message;

const REQUESTS: [&str; 6] = [
    r#"{"parts": [{"text": "a"}]}"#,
    r#"{"parts": [{"text": "Hi"}, {"inlineDocument": {"title": "Harbour", "text": "At six."}},
        {"inlineDocument": {"tokenIds": {"ids": [504, 2211]}}}, {"tokenIds": {"ids": [1]}}],
        "attention": "FULL", "requestId": "r-1", "model": "m",
        "sampling": {"temperature": 0.5, "topK": 40, "topP": 0.9, "minP": 0.1, "seed": "7", "n": 2,
            "repetitionPenalty": 1.1, "frequencyPenalty": 0.5, "presencePenalty": -0.5},
        "stopping": {"maxTokens": 24, "stopTexts": ["\n"], "stopTokenIds": [2], "ignoreEndTokens": true},
        "cache": {"bypass": true}, "response": {"topLogprobs": 20, "tokenIds": true}}"#,
    r#"{"chat": {"messages": [{"role": "ROLE_SYSTEM", "content": [{"text": "Answer."}]},
        {"role": "ROLE_USER", "content": [{"text": "When?"}]}],
        "documents": [{"inlineDocument": {"title": "A", "text": "At six."}}]}}"#,
    r#"{"parts": [{"text": "a"}], "sampling": {"temperature": 0}, "stopping": {"maxTokens": 1}}"#,
    r#"{"parts": [{"document": "documents/00ff"}, {"text": "a"}], "priority": -5}"#,
    r#"{"parts": [{"inlineDocument": {"text": "a"}}, {"text": "\u00e9\ud83d\ude00"}]}"#,
];

pub(crate) fn json() -> Vec<Vec<u8>> {
    REQUESTS.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// The same as bodies; those whose JSON is refused are left out.
pub(crate) fn protobuf() -> Vec<Vec<u8>> {
    let read = REQUESTS.iter().filter_map(|text| from_json::<v1::GenerateRequest>(text.as_bytes()).ok());
    read.map(|request| request.encode_to_vec()).collect()
}

pub(crate) fn keys() -> Vec<Vec<u8>> {
    let hash = "0123456789abcdef".repeat(4);
    vec![format!("# keys\n\nred:{hash}\nblue:{}\n", "fedcba9876543210".repeat(4)).into_bytes()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_one() {
        for text in REQUESTS {
            from_json::<v1::GenerateRequest>(text.as_bytes()).unwrap();
        }
    }
}
