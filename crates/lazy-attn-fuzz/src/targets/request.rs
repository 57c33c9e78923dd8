//! What clients and operators send.

use lazy_attn_engine::Part;
use lazy_attn_proto::{from_json, to_json, v1};
use lazy_attn_server::ApiKeys;
use lazy_attn_server::convert::{ChatPrompt, ChatRenderer, Defaults, Limits, NoDocuments, RequestConverter};
use lazy_attn_types::TenantSalt;
use prost::Message;

use super::said;

/// Renders nothing: conversations are checked before they get here.
struct NoTemplate;

impl ChatRenderer for NoTemplate {
    fn render(&self, _prompt: &ChatPrompt) -> Result<Vec<Part>, String> {
        Err("is rendered".to_owned())
    }
}

fn converted(request: v1::GenerateRequest) -> String {
    let converter = RequestConverter {
        model: "m",
        limits: Limits::default(),
        defaults: Defaults::default(),
        chat: &NoTemplate,
        documents: &NoDocuments,
    };
    said(converter.convert(request, TenantSalt::SINGLE_USER))
}

/// The body of a call. A message that is read is the same after a round over JSON, if it can be printed.
pub(crate) fn protobuf(bytes: &[u8]) -> String {
    let request = match v1::GenerateRequest::decode(bytes) {
        Ok(request) => request,
        Err(error) => return error.to_string(),
    };
    if let Ok(text) = to_json(&request) {
        let again: Result<v1::GenerateRequest, _> = from_json(text.as_bytes());
        // NaN is not equal to itself, so the bytes are compared.
        assert!(again.is_ok_and(|again| again.encode_to_vec() == request.encode_to_vec()), "{text}");
    }
    converted(request)
}

/// A request file.
pub(crate) fn json(bytes: &[u8]) -> String {
    match from_json::<v1::GenerateRequest>(bytes) {
        Ok(request) => converted(request),
        Err(error) => error.to_string(),
    }
}

/// A file of API keys.
pub(crate) fn keys(bytes: &[u8]) -> String {
    said(ApiKeys::parse(&String::from_utf8_lossy(bytes)))
}
