//! Two questions over the same documents in two orders, on the test kit's executor, which has no model: its answers are
//! hashes of what it saw, but everything around them is real.
//!
//! `cargo run -p lazy-attn-engine --example ask`

use std::error::Error;

use lazy_attn_engine::{
    Engine, EngineConfig, EngineHandle, EngineParts, Event, GenerateRequest, Part, PartContent,
};
use lazy_attn_testkit::{FakeConfig, FakeExecutor};
use lazy_attn_types::StopParams;

#[allow(dead_code)] // the tests use the rest of it
#[path = "../tests/common/vocab.rs"]
mod vocab;

fn ask(engine: &EngineHandle, documents: [&str; 2], question: &str) -> Result<(), Box<dyn Error>> {
    let document = |text: &str| Part::Document(PartContent::Text(text.to_owned()));
    let mut parts: Vec<Part> = documents.into_iter().map(document).collect();
    parts.push(Part::Text(PartContent::Text(question.to_owned())));
    let stopping = StopParams { max_tokens: 8, ..StopParams::default() };
    let mut stream = engine.submit(GenerateRequest { stopping, ..GenerateRequest::new(parts) })?;
    println!("{question}");
    while let Some(event) = stream.blocking_next() {
        match event {
            Event::Started { parts, .. } => {
                parts
                    .iter()
                    .for_each(|part| println!("  part of {} tokens: {:?}", part.num_tokens, part.outcome));
            }
            Event::Delta { text, tokens, .. } => println!("  {} tokens: {text:?}", tokens.len()),
            Event::Finished { reason, .. } => println!("  finished: {reason:?}"),
            Event::Done { usage, .. } => {
                println!("  {} of {} prompt tokens reused", usage.cached_prompt_tokens, usage.prompt_tokens);
            }
            Event::Failed(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let executor = FakeExecutor::new(FakeConfig { vocab_size: vocab::VOCAB_SIZE, ..FakeConfig::default() });
    let tokenizer = vocab::byte_tokenizer(vocab::Bos::Omit)?;
    let parts = EngineParts::new(Box::new(executor), tokenizer, vec![vocab::END]);
    let engine = Engine::start(parts, EngineConfig::default())?;
    let [harbour, lamp] = ["The pilot boat leaves at six. ", "The lamp burns whale oil. "];
    ask(&engine.handle(), [harbour, lamp], "When does the boat leave?")?;
    ask(&engine.handle(), [lamp, harbour], "What does the lamp burn?")?;
    println!("{:#?}", engine.handle().settled_stats()?);
    Ok(())
}
