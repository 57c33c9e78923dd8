//! Reads a request from JSON and prints it back, then shows what a mistake looks like.

use lazy_attn_proto::v1::GenerateRequest;
use lazy_attn_proto::{JsonError, from_json, to_json};

fn main() -> Result<(), JsonError> {
    let json = br#"{"parts": [{"inlineDocument": {"text": "The pilot boat leaves at six.\n\n"}},
                              {"text": "When does the pilot boat leave?"}], "attention": "BLOCK"}"#;
    let request: GenerateRequest = from_json(json)?;
    println!("{} parts, {:?} attention", request.parts.len(), request.attention());
    println!("{}", to_json(&request)?);

    let mistake: Result<GenerateRequest, _> = from_json(br#"{"parts": [{"txt": "hello"}]}"#);
    if let Err(error) = mistake {
        println!("a mistake reads: {error}");
    }
    Ok(())
}
