//! Reads a request from JSON, checks it, and shows what the engine would get; then the same with a mistake.

use lazy_attn_engine::Part;
use lazy_attn_proto::{from_json, v1};
use lazy_attn_server::convert::{ChatPrompt, ChatRenderer, Defaults, Limits, NoDocuments, RequestConverter};
use lazy_attn_types::TenantSalt;

struct NoChat;

impl ChatRenderer for NoChat {
    fn render(&self, _prompt: &ChatPrompt) -> Result<Vec<Part>, String> {
        Err("is not available in this example; give parts".to_owned())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let converter = RequestConverter {
        documents: &NoDocuments,
        model: "example",
        limits: Limits::default(),
        defaults: Defaults::default(),
        chat: &NoChat,
    };
    let json = br#"{"parts": [{"inlineDocument": {"text": "The pilot boat leaves at six.\n\n"}},
                              {"text": "When does the pilot boat leave?"}], "stopping": {"maxTokens": 8}}"#;
    let message: v1::GenerateRequest = from_json(json)?;
    let converted = converter.convert(message, TenantSalt::SINGLE_USER)?;
    println!("{:#?}", converted.request);

    let message: v1::GenerateRequest = from_json(br#"{"parts": [{"text": "a"}], "sampling": {"topP": 2}}"#)?;
    if let Err(error) = converter.convert(message, TenantSalt::SINGLE_USER) {
        println!("a mistake reads: {error}");
    }
    Ok(())
}
