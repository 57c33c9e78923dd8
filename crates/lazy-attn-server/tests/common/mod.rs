//! A server over the fake executor on a free loopback port, with its steps under the test's control.

#![allow(clippy::unwrap_used, clippy::panic, dead_code, reason = "each test file uses its own part of this")]

pub(crate) mod documents;
pub(crate) mod measure;
pub(crate) mod scrape;
pub(crate) mod tunnel;

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use lazy_attn_engine::{
    Clock, Engine, EngineConfig, EngineHandle, EngineParts, Part as EnginePart, Tokenizer,
};
use lazy_attn_proto::v1::{self, generate_response::Event, inline_document, part};
use lazy_attn_proto::{Client, ClientOptions};
use lazy_attn_server::convert::{ChatPrompt, ChatRenderer, Collector, Defaults, Limits};
use lazy_attn_server::{
    AdminAccess, ApiKeys, DocumentLimits, Exposure, Metrics, Reflection, ServeError, Server, ServerOptions,
    ServerTls, TenantSecret, Tenants, bind,
};
use lazy_attn_testkit::{FakeConfig, FakeExecutor, FakeProbe, Part};
use lazy_attn_types::{
    AttentionMode, BpeVocab, ExecError, Executor, ExecutorInfo, SegmentKind, SpecialTokens, StepInput,
    StepOutput, TokenId, TokenizerSource,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::{Status, Streaming};

/// Long enough for any machine, short enough to fail rather than hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Holds steps back while it is shut, all but those it is told to let through.
#[derive(Clone, Default)]
pub(crate) struct Latch(Arc<(Mutex<Steps>, Condvar)>);

struct Steps {
    num_run: u64,
    /// Every step while the latch is open.
    num_allowed: u64,
    is_held: bool,
}

impl Default for Steps {
    fn default() -> Steps {
        Steps { num_run: 0, num_allowed: u64::MAX, is_held: false }
    }
}

impl Latch {
    pub(crate) fn shut(&self) {
        let mut steps = self.0.0.lock().unwrap();
        steps.num_allowed = steps.num_run;
    }

    pub(crate) fn open(&self) {
        self.0.0.lock().unwrap().num_allowed = u64::MAX;
        self.0.1.notify_all();
    }

    /// Lets `num_steps` more through a shut latch.
    pub(crate) fn allow(&self, num_steps: u64) {
        let mut steps = self.0.0.lock().unwrap();
        steps.num_allowed = steps.num_allowed.saturating_add(num_steps);
        self.0.1.notify_all();
    }

    /// Steps that went through so far.
    pub(crate) fn num_run(&self) -> u64 {
        self.0.0.lock().unwrap().num_run
    }

    /// Waits until a step stands before the shut latch, with those allowed behind it.
    pub(crate) async fn held(&self) {
        wait_until(|| self.0.0.lock().unwrap().is_held).await;
    }

    fn pass(&self) {
        let mut steps = self.0.0.lock().unwrap();
        steps.is_held = steps.num_run >= steps.num_allowed;
        let mut steps = self.0.1.wait_while(steps, |steps| steps.num_run >= steps.num_allowed).unwrap();
        steps.is_held = false;
        steps.num_run += 1;
    }
}

/// Waits for something that another task or thread brings about.
pub(crate) async fn wait_until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}

struct Latched {
    inner: Box<dyn Executor>,
    latch: Latch,
}

impl Executor for Latched {
    fn info(&self) -> &ExecutorInfo {
        self.inner.info()
    }

    fn execute(&mut self, input: &StepInput) -> Result<StepOutput, ExecError> {
        self.latch.pass();
        self.inner.execute(input)
    }
}

/// Steps that take real time, as those of a device do, and think nothing: each token is followed by the next number.
pub(crate) struct Paced {
    info: ExecutorInfo,
    step: Duration,
    token: Duration,
}

impl Paced {
    /// `step` for each step and `token` for each of its tokens.
    pub(crate) fn new(config: FakeConfig, step: Duration, token: Duration) -> Paced {
        Paced { info: FakeExecutor::new(config).info().clone(), step, token }
    }
}

impl Executor for Paced {
    fn info(&self) -> &ExecutorInfo {
        &self.info
    }

    fn execute(&mut self, input: &StepInput) -> Result<StepOutput, ExecError> {
        std::thread::sleep(self.step + self.token * input.tokens.len() as u32);
        let vocab_size = self.info.vocab_size as usize;
        let mut logits = vec![0.0; input.output_tokens.len() * vocab_size];
        for (row, &output) in logits.chunks_exact_mut(vocab_size).zip(&input.output_tokens) {
            row[(input.tokens[output as usize].0 as usize + 1) % vocab_size] = 1.0;
        }
        Ok(StepOutput::from_logits(logits))
    }
}

struct NoChat;

impl ChatRenderer for NoChat {
    fn render(&self, _prompt: &ChatPrompt) -> Result<Vec<EnginePart>, String> {
        Err("is not available here".to_owned())
    }
}

#[derive(Default)]
pub(crate) struct Options {
    pub(crate) engine: EngineConfig,
    pub(crate) executor: FakeConfig,
    pub(crate) keys: Option<ApiKeys>,
    pub(crate) tls: Option<ServerTls>,
    pub(crate) documents: DocumentLimits,
    pub(crate) admin: AdminAccess,
    /// The system's clock unless given.
    pub(crate) clock: Option<Arc<dyn Clock>>,
}

/// Keys of two tenants: `red-key` and `blue-key`.
pub(crate) fn keys() -> ApiKeys {
    let line = |tenant: &str, key: &str| format!("{tenant}:{}\n", blake3::hash(key.as_bytes()).to_hex());
    ApiKeys::parse(&format!("{}{}", line("red", "red-key"), line("blue", "blue-key"))).unwrap()
}

/// A running server.
pub(crate) struct Rig {
    pub(crate) url: String,
    pub(crate) handle: EngineHandle,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) latch: Latch,
    pub(crate) probe: FakeProbe,
    pub(crate) drain: Option<oneshot::Sender<()>>,
    pub(crate) serving: JoinHandle<Result<(), ServeError>>,
    pub(crate) engine: Option<Engine>,
}

impl Drop for Rig {
    /// A failing test unwinds with its steps held back; the engine's thread, which its drop waits for, must get through.
    fn drop(&mut self) {
        self.latch.open();
    }
}

pub(crate) async fn start(options: Options) -> Rig {
    let executor = FakeExecutor::new(options.executor);
    let probe = executor.probe();
    let mut rig = start_over(Box::new(executor), options).await;
    rig.probe = probe;
    rig
}

/// A server over `inner`, whose sizes are those of the options.
pub(crate) async fn start_over(inner: Box<dyn Executor>, options: Options) -> Rig {
    let latch = Latch::default();
    let vocab = BpeVocab {
        model: "gpt2".into(),
        pre: "smollm".into(),
        tokens: (0..options.executor.vocab_size).map(|id| format!("t{id}")).collect(),
        token_types: vec![1; options.executor.vocab_size as usize],
        ..BpeVocab::default()
    };
    let source = TokenizerSource::Gguf(Arc::new(vocab));
    let tokenizer = Arc::new(Tokenizer::from_source(&source, &SpecialTokens::default()).unwrap());
    let executor = Box::new(Latched { inner, latch: latch.clone() });
    let metrics = Arc::new(Metrics::new("fake", executor.info()));
    let observer = metrics.clone();
    let mut parts = EngineParts { observer, ..EngineParts::new(executor, tokenizer, Vec::new()) };
    parts.clock = options.clock.unwrap_or(parts.clock);
    let engine = Engine::start(parts, options.engine).unwrap();
    let handle = engine.handle();
    let secret = TenantSecret::from_bytes(&[3; 32]).unwrap();
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let server = Server::new(
        handle.clone(),
        ServerOptions {
            model: "fake".into(),
            limits: Limits::default(),
            defaults: Defaults::default(),
            chat: Arc::new(NoChat),
            tenants: Tenants::new(secret, options.keys),
            reflection: Reflection::Serve,
            tls: options.tls,
            documents: options.documents,
            admin: options.admin,
            metrics: Arc::clone(&metrics),
        },
    )
    .unwrap();
    let listener = bind("127.0.0.1:0".parse().unwrap(), Exposure::LoopbackOnly).await.unwrap();
    let url = format!("{scheme}://{}", listener.local_addr().unwrap());
    let (drain, draining) = oneshot::channel();
    let serving = tokio::spawn(server.serve(listener, async {
        let _ = draining.await;
    }));
    Rig {
        url,
        handle,
        metrics,
        latch,
        probe: FakeProbe::default(),
        drain: Some(drain),
        serving,
        engine: Some(engine),
    }
}

impl Rig {
    pub(crate) async fn client(&self) -> Client {
        self.client_of(None).await
    }

    pub(crate) async fn client_of(&self, api_key: Option<&str>) -> Client {
        let options = ClientOptions { url: self.url.clone(), api_key: api_key.map(str::to_owned), tls: None };
        Client::connect(options).await.unwrap()
    }

    /// Waits until the engine holds no blocks for requests.
    pub(crate) async fn baseline(&self) {
        let is_idle = || {
            let sched = self.handle.settled_stats().unwrap().sched;
            (sched.running, sched.waiting, sched.kv.blocks_leased) == (0, 0, 0)
        };
        let idle = async {
            while !is_idle() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, idle).await.unwrap();
    }
}

/// Tokens of document `index`, different for every index.
pub(crate) fn document(index: u32) -> Vec<u32> {
    (0..20 + index).map(|i| (i * 7 + index * 13 + 1) % 97).collect()
}

/// A greedy request over documents with a question.
pub(crate) fn request(documents: &[Vec<u32>], question: &[u32], max_tokens: u32) -> v1::GenerateRequest {
    let ids = |tokens: &[u32]| v1::TokenIds { ids: tokens.to_vec() };
    let document = |tokens: &Vec<u32>| {
        part::Part::InlineDocument(v1::InlineDocument {
            source: Some(inline_document::Source::TokenIds(ids(tokens))),
            ..Default::default()
        })
    };
    let parts = documents.iter().map(document).chain([part::Part::TokenIds(ids(question))]);
    v1::GenerateRequest {
        parts: parts.map(|part| v1::Part { part: Some(part) }).collect(),
        stopping: Some(v1::StoppingOptions { max_tokens: Some(max_tokens), ..Default::default() }),
        response: Some(v1::ResponseOptions { token_ids: Some(true), ..Default::default() }),
        ..Default::default()
    }
}

/// What the fake executor answers however the request is batched, cached or cut.
pub(crate) fn expected(documents: &[Vec<u32>], question: &[u32], num_tokens: usize) -> Vec<u32> {
    let tokens = |ids: &[u32]| ids.iter().copied().map(TokenId).collect();
    let part = |kind, ids: &[u32]| Part { kind, tokens: tokens(ids) };
    let mut parts: Vec<Part> = documents.iter().map(|ids| part(SegmentKind::Document, ids)).collect();
    parts.push(part(SegmentKind::Text, question));
    let vocab_size = FakeConfig::default().vocab_size;
    let answer = lazy_attn_testkit::expected_tokens(&parts, AttentionMode::Block, vocab_size, num_tokens);
    answer.into_iter().map(|token| token.0).collect()
}

/// Reads a stream to its end.
pub(crate) async fn collect(
    mut stream: Streaming<v1::GenerateResponse>,
) -> Result<v1::CollectedResponse, Status> {
    let mut collector = Collector::new(1);
    while let Some(message) = stream.message().await? {
        collector.push(message).unwrap();
    }
    Ok(collector.finish().unwrap())
}

/// Runs a request to its end.
pub(crate) async fn answer(
    client: &mut Client,
    request: v1::GenerateRequest,
) -> Result<v1::CollectedResponse, Status> {
    collect(client.generate(request, None).await?).await
}

/// Waits until the engine has admitted the request, with its steps held back or not.
pub(crate) async fn admitted(stream: &mut Streaming<v1::GenerateResponse>) {
    let message = stream.message().await.unwrap().unwrap();
    assert!(matches!(message.event, Some(Event::Started(_))), "{message:?}");
}
