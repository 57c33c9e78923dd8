//! The cache policies over a real model: documents in changing orders, several requests at once, too few blocks for all.

#![cfg(feature = "embedded-model")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::sync::Arc;

use lazy_attn_engine::{
    Engine, EngineConfig, EngineParts, Event, GenerateRequest, GeneratedToken, Part, PartContent,
    RequestStream,
};
use lazy_attn_kv::KvStats;
use lazy_attn_models::cpu::{CpuExecutor, CpuOptions, KvBudget, WeightDtype};
use lazy_attn_models::{LoadOptions, LoadedModel, ModelParts, ModelRef, Silent, load};
use lazy_attn_text::Tokenizer;
use lazy_attn_types::sampling::EndTokens;
use lazy_attn_types::{KvPolicy, OutputParams, SharedReads, StopParams};

/// Log-probability by which a token must lead the next one for policies of the same mathematics to agree on it.
const MARGIN: f32 = 0.05;
const NUM_TOKENS: u32 = 12;
/// 16 tokens each: less than all documents at all their places take.
const NUM_BLOCKS: u32 = 48;

const DOCUMENTS: [&str; 5] = [
    "The pilot boat leaves the harbour at six in the morning, and at eight when the fog is thick. ",
    "The lamp of the lighthouse burns oil from Norway. Its keeper is Ingrid Holm, who came there in 1903. ",
    "Bread is sold at the corner of the market until noon, fish only on Fridays. ",
    "The ferry to the island costs four crowns. Children under seven travel free of charge. ",
    "In winter the school closes at two, because the road over the hill is dark and full of ice. ",
];

/// Weights of 32 bits: where activations are rounded to 8 bits, a difference in the last bit of a key becomes one of a step of
/// theirs, and log-probabilities differ by up to 0.2.
fn engine(model: &LoadedModel, (kv_policy, shared_reads): (KvPolicy, SharedReads)) -> Engine {
    let kv_budget = KvBudget::Blocks(NUM_BLOCKS);
    let options = CpuOptions { kv_budget, weight_dtype: WeightDtype::F32, ..CpuOptions::default() };
    let executor = CpuExecutor::new(ModelParts::from(model), &options, &Silent).unwrap();
    let tokenizer = Tokenizer::from_source(model.tokenizer.as_ref().unwrap(), &model.special).unwrap();
    let parts = EngineParts::new(Box::new(executor), Arc::new(tokenizer), model.special.end.clone());
    Engine::start(parts, EngineConfig { kv_policy, shared_reads, ..EngineConfig::default() }).unwrap()
}

/// Three of the documents in an order that differs from request to request.
fn request(index: usize) -> GenerateRequest {
    let document = |at: usize| {
        Part::Document(PartContent::Text(DOCUMENTS[(index * 3 + at * (1 + index % 4)) % 5].into()))
    };
    let question =
        ["When does the boat leave?", "Who keeps the lamp?", "What does the ferry cost?"][index % 3];
    let parts = (0..3).map(document).chain([Part::Text(PartContent::Text(question.into()))]);
    GenerateRequest {
        stopping: StopParams {
            max_tokens: NUM_TOKENS,
            end_tokens: EndTokens::Ignore,
            ..StopParams::default()
        },
        output: OutputParams { top_logprobs: 2 },
        ..GenerateRequest::new(parts.collect())
    }
}

fn tokens(mut stream: RequestStream) -> Vec<GeneratedToken> {
    let mut all = Vec::new();
    while let Some(event) = stream.blocking_next() {
        match event {
            Event::Delta { tokens, .. } => all.extend(tokens),
            Event::Done { .. } => return all,
            Event::Failed(error) => panic!("{error}"),
            Event::Started { .. } | Event::Finished { .. } => {}
        }
    }
    panic!("the stream ended early");
}

/// Greedy answers, four requests at a time, and what the cache did.
fn answers(model: &LoadedModel, policy: KvPolicy) -> (Vec<Vec<GeneratedToken>>, KvStats) {
    answers_of(&engine(model, (policy, SharedReads::Once)))
}

fn answers_of(engine: &Engine) -> (Vec<Vec<GeneratedToken>>, KvStats) {
    let handle = engine.handle();
    let mut answers = Vec::new();
    for batch in 0..4 {
        let streams: Vec<_> = (0..4).map(|at| handle.submit(request(batch * 4 + at)).unwrap()).collect();
        answers.extend(streams.into_iter().map(tokens));
    }
    (answers, handle.stats().sched.kv)
}

/// Compares token by token, up to where a lead is so small that rounding may decide.
fn assert_agree(policy: KvPolicy, lazy: &[Vec<GeneratedToken>], other: &[Vec<GeneratedToken>]) {
    let mut num_compared = 0;
    for (index, (lazy, other)) in lazy.iter().zip(other).enumerate() {
        for (lazy, other) in lazy.iter().zip(other) {
            let margin = lazy.top[0].logprob - lazy.top[1].logprob;
            if margin > MARGIN {
                assert_eq!(
                    lazy.chosen.token, other.chosen.token,
                    "{policy}, request {index}, margin {margin}"
                );
                num_compared += 1;
            } else if lazy.chosen.token != other.chosen.token {
                break;
            }
        }
    }
    let all = lazy.len() * NUM_TOKENS as usize;
    assert!(num_compared * 2 > all, "{policy}: only {num_compared} of {all} tokens lead clearly");
}

#[test]
fn policies_of_the_same_mathematics_choose_the_same_tokens() {
    let model = load(&ModelRef::Embedded, &LoadOptions::default()).unwrap();
    let (lazy, kv) = answers(&model, KvPolicy::Lazy);
    assert!(kv.hits > 20 && kv.reencodes == 0, "{kv:?}");
    let (reencode, kv) = answers(&model, KvPolicy::Reencode);
    assert!(kv.reencodes > 20 && kv.evictions > 0, "{kv:?}");
    assert_agree(KvPolicy::Reencode, &lazy, &reencode);
    let (copy, kv) = answers(&model, KvPolicy::ReencodeCopy);
    assert!(kv.reencodes > 20 && kv.evictions > 0, "{kv:?}");
    assert_agree(KvPolicy::ReencodeCopy, &lazy, &copy);
    let (rotate_keys, kv) = answers(&model, KvPolicy::RotateKeys);
    assert!(kv.hits > 20 && kv.reencodes == 0, "{kv:?}");
    assert_agree(KvPolicy::RotateKeys, &lazy, &rotate_keys);
}

#[test]
fn reading_documents_once_for_all_changes_no_bit() {
    let model = load(&ModelRef::Embedded, &LoadOptions::default()).unwrap();
    let (once, _) = answers(&model, KvPolicy::Lazy);
    let (apart, _) = answers_of(&engine(&model, (KvPolicy::Lazy, SharedReads::Apart)));
    assert_eq!(once, apart);
}

#[test]
fn what_is_reused_up_to_the_first_difference_changes_no_bit() {
    let model = load(&ModelRef::Embedded, &LoadOptions::default()).unwrap();
    let (prefix, kv) = answers(&model, KvPolicy::Prefix);
    assert!(kv.hits > 0, "{kv:?}");
    let (none, kv) = answers(&model, KvPolicy::None);
    assert_eq!((kv.hits, kv.blocks_cached), (0, 0), "{kv:?}");
    assert_eq!(prefix, none);
}
