//! A real model in a KV pool that is far too small answers as in a roomy one, bit by bit.

#![cfg(feature = "embedded-model")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::sync::Arc;

use lazy_attn_engine::{
    Engine, EngineConfig, EngineParts, Event, GenerateRequest, GeneratedToken, Part, PartContent, Usage,
};
use lazy_attn_models::cpu::{CpuExecutor, CpuOptions, KvBudget};
use lazy_attn_models::{LoadOptions, LoadedModel, ModelRef, Silent, load};
use lazy_attn_text::Tokenizer;
use lazy_attn_types::sampling::EndTokens;
use lazy_attn_types::{OutputParams, SamplingParams, StopParams};

const NUM_REQUESTS: u64 = 4;

fn engine(model: &LoadedModel, num_blocks: u32) -> Engine {
    let options = CpuOptions { kv_budget: KvBudget::Blocks(num_blocks), ..CpuOptions::default() };
    let executor = CpuExecutor::new(lazy_attn_models::ModelParts::from(model), &options, &Silent).unwrap();
    let tokenizer = Tokenizer::from_source(model.tokenizer.as_ref().unwrap(), &model.special).unwrap();
    let parts = EngineParts::new(Box::new(executor), Arc::new(tokenizer), model.special.end.clone());
    Engine::start(parts, EngineConfig::default()).unwrap()
}

/// Every other one greedy, the others drawn with a seed; all read one document.
fn request(index: u64) -> GenerateRequest {
    let document =
        "The pilot boat leaves the harbour at six in the morning, and at eight when the fog is thick. ";
    let question = format!("Question {index}: when does the boat leave, and why?");
    let parts =
        vec![Part::Document(PartContent::Text(document.into())), Part::Text(PartContent::Text(question))];
    GenerateRequest {
        sampling: SamplingParams {
            temperature: (index % 2) as f32,
            seed: Some(index),
            ..SamplingParams::default()
        },
        stopping: StopParams { max_tokens: 90, end_tokens: EndTokens::Ignore, ..StopParams::default() },
        output: OutputParams { top_logprobs: 5 },
        ..GenerateRequest::new(parts)
    }
}

/// The tokens of every request with their log-probabilities, and what they cost.
fn answers(engine: &Engine) -> Vec<(Vec<GeneratedToken>, Usage)> {
    let handle = engine.handle();
    let streams: Vec<_> = (0..NUM_REQUESTS).map(|index| handle.submit(request(index)).unwrap()).collect();
    let answer = |mut stream: lazy_attn_engine::RequestStream| {
        let mut all = Vec::new();
        while let Some(event) = stream.blocking_next() {
            match event {
                Event::Delta { tokens, .. } => all.extend(tokens),
                Event::Done { usage, .. } => return (all, usage),
                Event::Failed(error) => panic!("{error}"),
                Event::Started { .. } | Event::Finished { .. } => {}
            }
        }
        panic!("the stream ended early");
    };
    streams.into_iter().map(answer).collect()
}

#[test]
fn answers_after_preemption_are_the_undisturbed_ones_to_the_last_bit() {
    let model = load(&ModelRef::Embedded, &LoadOptions::default()).unwrap();
    let roomy = answers(&engine(&model, 256));
    // Two blocks of document, about one of text and six of tail each, of 16 tokens.
    let tight = answers(&engine(&model, 14));
    let preemptions = |answers: &[(Vec<GeneratedToken>, Usage)]| {
        answers.iter().map(|(_, usage)| usage.preemptions).sum::<u32>()
    };
    assert_eq!(preemptions(&roomy), 0);
    assert!(preemptions(&tight) > 1, "{tight:?}");
    for ((roomy, _), (tight, _)) in roomy.iter().zip(&tight) {
        assert_eq!(roomy.len(), 90);
        // Tokens and log-probabilities.
        assert_eq!(roomy, tight);
    }
}
