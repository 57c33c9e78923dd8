//! Builds a tokenizer, cuts a prompt into parts, and prints tokens as they become text.
//!
//! `cargo run -p lazy-attn-text --example stream_text` uses a small vocabulary made here;
//! `.. --example stream_text -- tokenizer.json` uses a real one.

use std::error::Error;
use std::sync::Arc;

use lazy_attn_text::{BlockTemplate, DetokenizeOptions, Document, Tokenizer};
use lazy_attn_types::{BpeVocab, SpecialTokens, TokenizerSource};

fn main() -> Result<(), Box<dyn Error>> {
    let source = match std::env::args_os().nth(1) {
        Some(path) => TokenizerSource::Json(std::fs::read(path)?.into()),
        None => TokenizerSource::Gguf(Arc::new(byte_vocabulary())),
    };
    let tokenizer = Tokenizer::from_source(&source, &SpecialTokens::default())?;
    println!("vocabulary: {} tokens", tokenizer.vocab_size());

    let documents = [Document { title: Some("Café"), text: "Opens at 9. Crabs 🦀 are extra." }];
    let prompt =
        BlockTemplate::chatml().prompt(BlockTemplate::QUESTION_SYSTEM, &documents, "When does it open?");
    let parts = std::iter::once(&prompt.system).chain(&prompt.documents).chain([&prompt.question]);
    for part in parts {
        println!("{:>4} tokens: {part:?}", tokenizer.encode(part)?.len());
    }

    println!("as a stream, one piece a token:");
    let mut detokenizer = tokenizer.detokenizer(DetokenizeOptions::default());
    for token in tokenizer.encode("Café 🦀 at 9")? {
        println!("{:>6} -> {:?}", token.0, detokenizer.push(token));
    }
    println!("   end -> {:?}", detokenizer.finish());
    Ok(())
}

/// All bytes and no merges: every text has a token per byte.
fn byte_vocabulary() -> BpeVocab {
    let is_printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let printable = (0..=u8::MAX).filter(is_printable).map(char::from);
    let others = (0..).map_while(|n| char::from_u32(0x100 + n)).take(68);
    let special = ["<|im_start|>", "<|im_end|>"].map(String::from);
    let tokens: Vec<String> = special.into_iter().chain(printable.chain(others).map(String::from)).collect();
    let token_types = (0..tokens.len()).map(|id| if id < 2 { 3 } else { 1 }).collect();
    BpeVocab { model: "gpt2".into(), pre: "smollm".into(), tokens, token_types, ..BpeVocab::default() }
}
