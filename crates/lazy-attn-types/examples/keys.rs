//! One document in two orders: the same key, another start. The key is what its stored KV is found by; the start is
//! all that a request adds.

use std::sync::Arc;

use lazy_attn_types::segment::ContextError;
use lazy_attn_types::{
    AttentionMode, Context, ContextBuilder, Fingerprint, KeySpace, SegmentKind, TenantSalt, TokenId,
};

/// The tokens of a part; a real program asks its tokenizer.
fn tokens(text: &str) -> Arc<[TokenId]> {
    text.bytes().map(|byte| TokenId(u32::from(byte))).collect()
}

fn context(keys: KeySpace, documents: [&str; 2]) -> Result<Context, ContextError> {
    let mut builder = ContextBuilder::new(keys, AttentionMode::Block);
    builder.push(SegmentKind::Text, tokens("Answer from the documents."))?;
    for document in documents {
        builder.push(SegmentKind::Document, tokens(document))?;
    }
    builder.push(SegmentKind::Text, tokens("When does the ferry leave?"))?;
    builder.finish()
}

fn main() -> Result<(), ContextError> {
    let keys = KeySpace::new(TenantSalt::SINGLE_USER, Fingerprint::of(&[("model", b"example")]));
    let (ferry, museum) = ("The ferry leaves at six.", "The museum opens at ten, and is closed on Mondays.");
    for documents in [[ferry, museum], [museum, ferry]] {
        println!("kind      start  tokens  key");
        for segment in context(keys, documents)?.segments() {
            let (kind, start) = (format!("{:?}", segment.kind()), segment.start().0);
            println!("{kind:<9} {start:>5}  {:>6}  {:?}", segment.num_tokens(), segment.key());
        }
        println!();
    }
    println!(
        "The documents keep their keys in both orders; only the text behind them has to be computed again."
    );
    Ok(())
}
