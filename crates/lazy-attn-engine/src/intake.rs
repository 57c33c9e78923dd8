//! From a request to a context. Runs on the submitting thread, so that the loop never waits for a tokenizer.

use std::sync::Arc;
use std::time::Duration;

use lazy_attn_kv::Scope;
use lazy_attn_sched::blocks_needed;
use lazy_attn_text::Tokenizer;
use lazy_attn_types::segment::ContextError;
use lazy_attn_types::{
    AttentionMode, Context, ContextBuilder, ContextRules, Exactness, Executor, ExecutorInfo, Fingerprint,
    KeySpace, KvPolicy, OutputParams, ParamError, RequestId, SamplingParams, SegmentKey, SegmentKind,
    StopParams, TenantSalt, TokenId,
};

use crate::rankings::Rankings;
use crate::{CacheUse, EncodeRequest, EngineConfig, EngineError, GenerateRequest, Part, PartContent, Pin};

/// A part of the prompt after tokenisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PreparedPart {
    pub(crate) num_tokens: u32,
    /// Content key of a document; empty for text.
    pub(crate) document_key: String,
    /// Its segment in the context. The last part has none if it is a single token.
    pub(crate) segment_index: Option<usize>,
    pub(crate) is_document: bool,
}

/// A validated request.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub(crate) context: Arc<Context>,
    pub(crate) parts: Vec<PreparedPart>,
    /// The rung that runs.
    pub(crate) exactness: Exactness,
    pub(crate) sampling: SamplingParams,
    pub(crate) stopping: StopParams,
    pub(crate) output: OutputParams,
    /// Empty, or the first tokens of every sequence.
    pub(crate) forced_output: Arc<[TokenId]>,
    pub(crate) cache: CacheUse,
    pub(crate) tenant: TenantSalt,
    pub(crate) priority: i32,
    pub(crate) timeout: Option<Duration>,
    pub(crate) work: Work,
}

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Tokens.
    Generate,
    /// The KV of its one document, and nothing else.
    Encode(Pin),
}

impl Prepared {
    pub(crate) fn scope(&self, request: RequestId) -> Scope {
        match self.cache {
            CacheUse::ReadWrite => Scope::Shared,
            CacheUse::Bypass => Scope::Private(request),
        }
    }

    /// Where its segments may be found; nowhere if it bypasses the cache.
    pub(crate) fn lookup_scope(&self) -> Option<Scope> {
        (self.cache == CacheUse::ReadWrite).then_some(Scope::Shared)
    }

    pub(crate) fn generates(&self) -> bool {
        self.work == Work::Generate
    }

    /// Most tokens each of its sequences generates.
    pub(crate) fn max_tokens(&self) -> u32 {
        if self.generates() { self.stopping.max_tokens } else { 0 }
    }

    /// Tokens of the prompt that are run or found.
    pub(crate) fn prompt_tokens(&self) -> u32 {
        // The token behind a document that is only encoded is never run.
        self.context.num_prompt_tokens() - u32::from(!self.generates())
    }
}

/// What intake knows of the engine.
#[derive(Debug)]
pub(crate) struct Intake {
    tokenizer: Arc<Tokenizer>,
    info: ExecutorInfo,
    rankings: Arc<Rankings>,
    /// At multiples of how many tokens documents can be seen in part, if they can.
    view_grain: Option<u32>,
    /// Whether documents can be looked at in another way than the rest of a context.
    focuses_documents: bool,
    fingerprint: Fingerprint,
    max_parts: usize,
    kv_policy: KvPolicy,
}

impl Intake {
    pub(crate) fn new(
        tokenizer: Arc<Tokenizer>,
        executor: &dyn Executor,
        rankings: Arc<Rankings>,
        config: &EngineConfig,
    ) -> Intake {
        let EngineConfig { max_parts, kv_policy, .. } = *config;
        let (info, view_grain) = (executor.info().clone(), executor.view_grain());
        let focuses_documents = executor.focuses_documents();
        let tokenizer_fingerprint = tokenizer.fingerprint();
        let stored_keys = format!("{:?}", kv_policy.stored_keys());
        let fingerprint = Fingerprint::of(&[
            ("executor", &info.fingerprint.0),
            ("tokenizer", &tokenizer_fingerprint.0),
            ("stored keys", stored_keys.as_bytes()),
        ]);
        Intake { tokenizer, info, rankings, view_grain, focuses_documents, fingerprint, max_parts, kv_policy }
    }

    pub(crate) fn prepare(&self, mut request: GenerateRequest) -> Result<Prepared, EngineError> {
        request.sampling.validate()?;
        request.stopping.validate()?;
        request.output.validate()?;
        if self.kv_policy.inlines_documents() {
            request.exactness = Exactness::Full;
        }
        self.check_rules(&request)?;
        self.check_tokens(&request)?;
        check_forced_output(&request)?;
        if self.kv_policy == KvPolicy::None {
            // The samples of one request share its prompt all the same.
            request.cache = CacheUse::Bypass;
        }
        let (context, parts) = self.context(&request)?;
        self.check_size(&context, request.stopping.max_tokens)?;
        let GenerateRequest { exactness, sampling, stopping, output, forced_output, .. } = request;
        let GenerateRequest { cache, tenant, priority, timeout, .. } = request;
        Ok(Prepared {
            context: Arc::new(context),
            parts,
            exactness,
            sampling,
            stopping,
            output,
            forced_output,
            cache,
            tenant,
            priority,
            timeout,
            work: Work::Generate,
        })
    }

    /// The tokens of a document and the key under which its KV is kept.
    pub(crate) fn document(
        &self,
        content: &PartContent,
        tenant: TenantSalt,
    ) -> Result<(SegmentKey, Arc<[TokenId]>), EngineError> {
        let tokens = self.encoded("document", SegmentKind::Document, content)?;
        let tokens = self.known("document", tokens)?;
        Ok((KeySpace::new(tenant, self.fingerprint).document(&tokens), tokens))
    }

    /// A request for the KV of one document. A context ends with a text, so one token follows the document; it opens the
    /// tail, which such a request has not, and is never run.
    pub(crate) fn prepare_document(&self, request: EncodeRequest) -> Result<Prepared, EngineError> {
        let EncodeRequest { content, tenant, pin, priority, timeout } = request;
        if self.kv_policy.inlines_documents() {
            let problem = "no document has KV of its own under this `kv-policy`; send it with the request";
            return Err(invalid("document", problem));
        }
        let (_, tokens) = self.document(&content, tenant)?;
        let num_tokens = tokens.len() as u32; // the builder bounds it by `Position::MAX`
        let keys = KeySpace::new(tenant, self.fingerprint);
        let mut builder = ContextBuilder::new(keys, AttentionMode::Block);
        let pushed = builder.push(SegmentKind::Document, tokens);
        let pushed = pushed.and_then(|_| builder.push(SegmentKind::Text, Arc::new([TokenId(0)])));
        pushed.map_err(|error| invalid("document", error))?;
        let context = builder.finish().map_err(|error| invalid("document", error))?;
        self.check_size(&context, 0)?;
        let document_key = context.segments()[0].key().to_hex();
        let part = PreparedPart { num_tokens, document_key, segment_index: Some(0), is_document: true };
        Ok(Prepared {
            context: Arc::new(context),
            parts: vec![part],
            exactness: Exactness::Block,
            sampling: SamplingParams::default(),
            stopping: StopParams::default(),
            output: OutputParams::default(),
            forced_output: Arc::default(),
            cache: CacheUse::ReadWrite,
            tenant,
            priority,
            timeout,
            work: Work::Encode(pin),
        })
    }

    /// Tokens named in the parameters exist.
    fn check_tokens(&self, request: &GenerateRequest) -> Result<(), ParamError> {
        let biased = request.sampling.logit_bias.iter().map(|&(token, _)| ("sampling.logit_bias", token));
        let stops = request.stopping.stop_tokens.iter().map(|&token| ("stopping.stop_tokens", token));
        let forced = request.forced_output.iter().map(|&token| ("forced_output", token));
        match biased.chain(stops).chain(forced).find(|(_, token)| token.0 >= self.info.vocab_size) {
            None => Ok(()),
            Some((field, token)) => {
                Err(ParamError { field, value: token.0.to_string(), allowed: "below the vocabulary's size" })
            }
        }
    }

    fn context(&self, request: &GenerateRequest) -> Result<(Context, Vec<PreparedPart>), EngineError> {
        let num_parts = request.parts.len();
        if num_parts > self.max_parts {
            let problem = format!("{num_parts} parts were given, at most {} are allowed", self.max_parts);
            return Err(EngineError::Invalid { field: "parts".into(), problem });
        }
        match request.parts.last() {
            None => return Err(invalid("parts", "there are none; give at least one text part")),
            Some(Part::Document(_)) => {
                let field = format!("parts[{}]", num_parts - 1);
                return Err(invalid(&field, "the last part must be text (the question), not a document"));
            }
            Some(Part::Text(_)) => {}
        }
        let keys = KeySpace::new(request.tenant, self.fingerprint);
        let mut builder = ContextBuilder::new(keys, self.rules(request));
        self.push_bos(&mut builder, &request.parts[0])?;
        let mut pushed = Vec::with_capacity(num_parts);
        for (index, part) in request.parts.iter().enumerate() {
            let tokens = self.tokens(index, part)?;
            let num_tokens = tokens.len() as u32; // the builder bounds it by `Position::MAX`
            let segment = self.push(&mut builder, request, (kind(part), tokens));
            let segment = segment.map_err(|error| invalid(&format!("parts[{index}]"), error))?;
            pushed.push((num_tokens, segment));
        }
        let context = builder.finish().map_err(|error| invalid("parts", error))?;
        let parts = request.parts.iter().zip(pushed);
        let parts = parts.map(|(part, (num_tokens, segment))| prepared(&context, part, num_tokens, segment));
        let parts = parts.collect();
        Ok((context, parts))
    }

    fn check_rules(&self, request: &GenerateRequest) -> Result<(), EngineError> {
        self.rules(request).validate()?;
        if request.focus.is_on() && !self.focuses_documents {
            let problem =
                "not supported on this device: use --device cpu, or leave temperature and scale at 1";
            return Err(invalid("focus", problem));
        }
        let sees_parts = matches!(
            request.exactness,
            Exactness::Head { .. } | Exactness::Edges { .. } | Exactness::Selective { .. }
        );
        if sees_parts && self.view_grain.is_none() {
            let problem = "this model on this device reads documents whole; use block, preamble or full";
            return Err(invalid("exactness", problem));
        }
        if sees_parts && self.kv_policy != KvPolicy::Lazy {
            let problem =
                "documents are read in part under `kv-policy` lazy only; use block, preamble or full";
            return Err(invalid("exactness", problem));
        }
        match (request.exactness, self.rankings.refusal()) {
            (Exactness::Selective { percent: 1.. }, Some(reason)) => {
                let problem = format!("selective needs keys to be compared, and {reason}; use head");
                Err(invalid("exactness", problem))
            }
            _ => Ok(()),
        }
    }

    /// Appends a part. Of a document that was measured before, the tokens are chosen that are computed again.
    fn push(
        &self,
        builder: &mut ContextBuilder,
        request: &GenerateRequest,
        (kind, tokens): (SegmentKind, Arc<[TokenId]>),
    ) -> Result<usize, ContextError> {
        if let (Exactness::Selective { percent: percent @ 1.. }, SegmentKind::Document) =
            (request.exactness, kind)
        {
            let key = KeySpace::new(request.tenant, self.fingerprint).document(&tokens);
            let size = (tokens.len() as u32, self.info.block_size); // the builder bounds it by `Position::MAX`
            if let Some(ranges) = self.rankings.choose(key, percent, size) {
                return builder.push_document(tokens, &ranges);
            }
        }
        builder.push(kind, tokens)
    }

    fn rules(&self, request: &GenerateRequest) -> ContextRules {
        let GenerateRequest { exactness, placement, focus, .. } = *request;
        ContextRules { exactness, placement, view_grain: self.view_grain.unwrap_or(1), focus }
    }

    /// A document's tokens never depend on its place, so in front of one the token that opens a text is a segment of
    /// its own.
    fn push_bos(&self, builder: &mut ContextBuilder, first: &Part) -> Result<(), EngineError> {
        if let (Some(bos), Part::Document(_)) = (self.tokenizer.bos_at_start(), first) {
            let pushed = builder.push(SegmentKind::Text, Arc::new([bos]));
            pushed.map_err(|error| invalid("parts[0]", error))?;
        }
        Ok(())
    }

    fn tokens(&self, index: usize, part: &Part) -> Result<Arc<[TokenId]>, EngineError> {
        let (Part::Text(content) | Part::Document(content)) = part;
        let field = format!("parts[{index}]");
        let tokens = self.encoded(&field, kind(part), content)?;
        let tokens = match part {
            Part::Text(_) if index == 0 => self.tokenizer.with_bos(tokens.to_vec()).into(),
            _ => tokens,
        };
        self.known(&field, tokens)
    }

    /// At least one token.
    fn encoded(
        &self,
        field: &str,
        kind: SegmentKind,
        content: &PartContent,
    ) -> Result<Arc<[TokenId]>, EngineError> {
        let tokens: Arc<[TokenId]> = match content {
            PartContent::Tokens(tokens) => Arc::clone(tokens),
            PartContent::Text(text) => {
                self.tokenizer.encode(text).map_err(|error| invalid(field, error))?.into()
            }
        };
        if tokens.is_empty() {
            let what = if kind == SegmentKind::Document { "the document" } else { "the text" };
            return Err(invalid(field, format!("{what} is empty; give it at least one token or remove it")));
        }
        Ok(tokens)
    }

    /// Tokens of the vocabulary.
    fn known(&self, field: &str, tokens: Arc<[TokenId]>) -> Result<Arc<[TokenId]>, EngineError> {
        match tokens.iter().find(|token| token.0 >= self.info.vocab_size) {
            None => Ok(tokens),
            Some(token) => {
                let (token, size) = (token.0, self.info.vocab_size);
                Err(invalid(field, format!("token {token} is outside the vocabulary of {size} tokens")))
            }
        }
    }

    fn check_size(&self, context: &Context, max_tokens: u32) -> Result<(), EngineError> {
        let prompt_tokens = context.num_prompt_tokens();
        let max_context_tokens = self.info.max_context_tokens;
        if u64::from(prompt_tokens) + u64::from(max_tokens) > u64::from(max_context_tokens) {
            return Err(EngineError::ContextTooLong { prompt_tokens, max_tokens, max_context_tokens });
        }
        let needed_blocks = blocks_needed(context, max_tokens, self.info.block_size, self.kv_policy);
        let total_blocks = self.info.num_blocks;
        if needed_blocks > total_blocks {
            return Err(EngineError::NeverFits { needed_blocks, total_blocks });
        }
        Ok(())
    }
}

/// They are part of what a sequence generates, so the bound of that bounds them.
fn check_forced_output(request: &GenerateRequest) -> Result<(), ParamError> {
    let num_forced = request.forced_output.len();
    if num_forced <= request.stopping.max_tokens as usize {
        return Ok(());
    }
    let (value, allowed) = (format!("{num_forced} tokens"), "at most stopping.max_tokens tokens");
    Err(ParamError { field: "forced_output", value, allowed })
}

fn kind(part: &Part) -> SegmentKind {
    match part {
        Part::Text(_) => SegmentKind::Text,
        Part::Document(_) => SegmentKind::Document,
    }
}

fn prepared(context: &Context, part: &Part, num_tokens: u32, segment_index: usize) -> PreparedPart {
    let segment = context.segments().get(segment_index);
    let is_encoded_alone = segment.filter(|segment| segment.kind() == SegmentKind::Document);
    PreparedPart {
        num_tokens,
        document_key: is_encoded_alone.map(|segment| segment.key().to_hex()).unwrap_or_default(),
        segment_index: segment.map(|_| segment_index),
        is_document: kind(part) == SegmentKind::Document,
    }
}

fn invalid(field: &str, problem: impl ToString) -> EngineError {
    EngineError::Invalid { field: field.to_owned(), problem: problem.to_string() }
}
