//! An engine over the fake executor, with its steps under the test's control.

#![allow(clippy::unwrap_used, clippy::panic, dead_code, unused_imports)] // each test file uses its own part of this

pub(crate) mod busy;
pub(crate) mod gate;
pub(crate) mod vocab;

use std::sync::Arc;

use lazy_attn_engine::sampling::{SamplingScratch, sample_row};
use lazy_attn_engine::{
    CacheUse, Engine, EngineConfig, EngineError, EngineHandle, EngineParts, Event, FinishReason,
    GenerateRequest, GeneratedToken, ManualClock, Observer, Part, PartContent, RequestStream, ResolvedPart,
    Timing, Unobserved, Usage,
};
use lazy_attn_testkit::{FakeConfig, FakeExecutor, FakeProbe, RowSampler};
use lazy_attn_types::sampling::EndTokens;
use lazy_attn_types::{
    AttentionMode, Capability, Exactness, OutputParams, SamplingParams, SegmentKind, StopParams, TenantSalt,
    TokenId,
};

pub(crate) use gate::{Gate, Gated};
pub(crate) use vocab::{BOS, Bos, END, VOCAB_SIZE, byte_tokenizer};

/// A running engine and everything that steers it.
pub(crate) struct Rig {
    pub(crate) engine: Engine,
    pub(crate) handle: EngineHandle,
    pub(crate) probe: FakeProbe,
    pub(crate) gate: Gate,
    pub(crate) clock: ManualClock,
}

pub(crate) struct RigOptions {
    pub(crate) engine: EngineConfig,
    pub(crate) executor: FakeConfig,
    /// What the executor can do; what it draws is drawn by the engine's own code.
    pub(crate) capability: Capability,
    pub(crate) bos: Bos,
    pub(crate) observer: Arc<dyn Observer>,
}

impl Default for RigOptions {
    fn default() -> Self {
        RigOptions {
            engine: EngineConfig::default(),
            executor: FakeConfig { vocab_size: VOCAB_SIZE, ..FakeConfig::default() },
            capability: Capability::Logits,
            bos: Bos::Omit,
            observer: Arc::new(Unobserved),
        }
    }
}

/// An engine whose every step waits for the test.
pub(crate) fn gated(options: RigOptions) -> Rig {
    let executor = executor(&options);
    let probe = executor.probe();
    let (executor, gate) = Gated::new(executor);
    let clock = ManualClock::default();
    let parts = EngineParts {
        executor: Box::new(executor),
        tokenizer: byte_tokenizer(options.bos).unwrap(),
        end_tokens: vec![END],
        clock: Arc::new(clock.clone()),
        observer: options.observer,
    };
    let engine = Engine::start(parts, options.engine).unwrap();
    Rig { handle: engine.handle(), engine, probe, gate, clock }
}

fn executor(options: &RigOptions) -> FakeExecutor {
    let executor = FakeExecutor::new(options.executor);
    let mut scratch = SamplingScratch::default();
    let sampler = RowSampler::new(move |logits, row| sample_row(&mut scratch, logits, row));
    match options.capability {
        Capability::Logits => executor,
        Capability::Samples => executor.sampling(sampler),
        Capability::Overlaps => executor.overlapping(sampler),
    }
}

/// An engine that runs freely.
pub(crate) fn free(options: RigOptions) -> Rig {
    let mut rig = gated(options);
    rig.gate.open();
    rig
}

/// A request for exactly `max_tokens` greedy tokens.
pub(crate) fn request(parts: Vec<Part>, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        sampling: SamplingParams { seed: Some(1), ..SamplingParams::default() },
        stopping: StopParams { max_tokens, end_tokens: EndTokens::Ignore, ..StopParams::default() },
        ..GenerateRequest::new(parts)
    }
}

pub(crate) fn doc(text: &str) -> Part {
    Part::Document(PartContent::Text(text.into()))
}

pub(crate) fn text(text: &str) -> Part {
    Part::Text(PartContent::Text(text.into()))
}

/// The parts as the test kit's reference takes them.
pub(crate) fn logical(parts: &[Part]) -> Vec<lazy_attn_testkit::Part> {
    let logical = |part: &Part| {
        let (kind, content) = match part {
            Part::Text(content) => (SegmentKind::Text, content),
            Part::Document(content) => (SegmentKind::Document, content),
        };
        let tokens = match content {
            PartContent::Text(text) => text.bytes().map(|byte| TokenId(u32::from(byte))).collect(),
            PartContent::Tokens(tokens) => tokens.to_vec(),
        };
        lazy_attn_testkit::Part { kind, tokens }
    };
    parts.iter().map(logical).collect()
}

/// What the fake executor answers to `parts` however they are batched, cached or cut.
pub(crate) fn expected(parts: &[Part], mode: AttentionMode, num_tokens: u32) -> Vec<TokenId> {
    lazy_attn_testkit::expected_tokens(&logical(parts), mode, VOCAB_SIZE, num_tokens as usize)
}

/// A whole stream.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) parts: Vec<ResolvedPart>,
    pub(crate) seed: Option<u64>,
    pub(crate) exactness: Exactness,
    pub(crate) samples: Vec<SampleReply>,
    pub(crate) done: Option<(Usage, Timing)>,
    pub(crate) failed: Option<EngineError>,
    pub(crate) num_events: usize,
}

#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct SampleReply {
    pub(crate) text: String,
    pub(crate) tokens: Vec<GeneratedToken>,
    pub(crate) finish: Option<FinishReason>,
}

impl SampleReply {
    pub(crate) fn ids(&self) -> Vec<TokenId> {
        self.tokens.iter().map(|token| token.chosen.token).collect()
    }
}

impl Reply {
    pub(crate) fn ids(&self) -> Vec<TokenId> {
        assert_eq!(self.failed, None);
        self.samples[0].ids()
    }

    pub(crate) fn usage(&self) -> Usage {
        self.done.unwrap_or_else(|| panic!("not done: {self:?}")).0
    }
}

/// Reads a stream to its end and checks the order of its events.
pub(crate) fn read(mut stream: RequestStream) -> Reply {
    let mut reply = Reply::default();
    while let Some(event) = stream.blocking_next() {
        reply.num_events += 1;
        assert!(reply.done.is_none() && reply.failed.is_none(), "nothing follows the last event");
        let is_started = reply.seed.is_some();
        match event {
            Event::Started { request, parts, seed, exactness } => {
                reply.exactness = exactness;
                assert!(!is_started && request == stream.request());
                (reply.parts, reply.seed) = (parts, Some(seed));
            }
            Event::Delta { index, text, tokens } => {
                let sample = sample(&mut reply, index);
                assert!(is_started && sample.finish.is_none());
                sample.text += &text;
                sample.tokens.extend(tokens);
            }
            Event::Finished { index, reason } => {
                let before = sample(&mut reply, index).finish.replace(reason);
                assert_eq!(before, None, "a sequence finishes once");
            }
            Event::Done { usage, timing } => {
                assert!(reply.samples.iter().all(|sample| sample.finish.is_some()));
                reply.done = Some((usage, timing));
            }
            Event::Failed(error) => reply.failed = Some(error),
        }
    }
    assert!(reply.done.is_some() || reply.failed.is_some(), "a stream has a last event");
    reply
}

fn sample(reply: &mut Reply, index: u32) -> &mut SampleReply {
    let index = index as usize;
    if reply.samples.len() <= index {
        reply.samples.resize(index + 1, SampleReply::default());
    }
    &mut reply.samples[index]
}

/// Submits and reads to the end.
pub(crate) fn answer(handle: &EngineHandle, request: GenerateRequest) -> Reply {
    read(handle.submit(request).unwrap())
}
