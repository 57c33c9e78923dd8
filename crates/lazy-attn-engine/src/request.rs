//! What a client asks and what it gets back, in the engine's own terms.

use std::sync::Arc;
use std::time::Duration;

use lazy_attn_types::{
    DocumentFocus, Exactness, OutputParams, Placement, RequestId, SamplingParams, StopParams, TenantSalt,
    TokenId,
};

/// Text, or tokens that were made elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartContent {
    /// Tokenised alone; special tokens are parsed.
    Text(String),
    /// Used as they are, after a check against the vocabulary.
    Tokens(Arc<[TokenId]>),
}

/// One part of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text: sees everything before it.
    Text(PartContent),
    /// A document: encoded alone unless the request is [`Exactness::Full`], reusable at any place.
    Document(PartContent),
}

/// Whether a request reads and fills the document cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheUse {
    /// Reuse what is resident and keep what is computed.
    #[default]
    ReadWrite,
    /// Compute everything and keep nothing.
    Bypass,
}

/// A request, not yet tokenised.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// The prompt, in order; the last part is text.
    pub parts: Vec<Part>,
    /// How much of the documents is computed again for this request.
    pub exactness: Exactness,
    /// Where the documents stand.
    pub placement: Placement,
    /// How texts and the answer look at the shared copies of documents. Not every executor can
    /// ([`focuses_documents`](lazy_attn_types::Executor::focuses_documents)).
    pub focus: DocumentFocus,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// When a sequence ends.
    pub stopping: StopParams,
    /// What is reported besides the text.
    pub output: OutputParams,
    /// Tokens that every sequence begins with, whatever the model would have chosen; at most `stopping.max_tokens`. Each is
    /// run and reported as a generated token is, with its log-probability, so that a request whose `max_tokens` is their
    /// number scores a given answer and generates nothing.
    pub forced_output: Arc<[TokenId]>,
    /// Use of the document cache.
    pub cache: CacheUse,
    /// Whose documents these are.
    pub tenant: TenantSalt,
    /// Larger goes sooner, among the requests of its tenant.
    pub priority: i32,
    /// Time after which the answer is of no use: the request then fails, waiting or running.
    pub timeout: Option<Duration>,
}

impl GenerateRequest {
    /// `parts` with the defaults: nothing computed again, consecutive positions, greedy, the process's one user.
    #[must_use]
    pub fn new(parts: Vec<Part>) -> GenerateRequest {
        GenerateRequest {
            parts,
            exactness: Exactness::Block,
            placement: Placement::Consecutive,
            focus: DocumentFocus::OFF,
            sampling: SamplingParams::default(),
            stopping: StopParams::default(),
            output: OutputParams::default(),
            forced_output: Arc::default(),
            cache: CacheUse::ReadWrite,
            tenant: TenantSalt::SINGLE_USER,
            priority: 0,
            timeout: None,
        }
    }
}

/// How one part of the prompt was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartOutcome {
    /// Its KV was resident.
    Hit,
    /// Another request was encoding it, and this one joined.
    Joined,
    /// Its KV was resident at another position, and its keys were rotated to this one (policy `reencode`).
    Reencoded,
    /// This request computed it.
    Miss,
}

/// Why a sequence ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// The model's end token, or a stop token of the request.
    StopToken(TokenId),
    /// A stop text of the request.
    StopText(String),
    /// `max_tokens` were generated.
    Length,
}

/// A token with its log-probability (natural logarithm of the softmax of the raw logits).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: TokenId,
    /// Its log-probability.
    pub logprob: f32,
}

/// Who chose a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenOrigin {
    /// The sampler.
    Sampled,
    /// The request, in [`GenerateRequest::forced_output`].
    Forced,
}

/// A generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedToken {
    /// The chosen token and its log-probability (the latter 0 unless log-probabilities were asked for or the token was forced).
    pub chosen: TokenLogprob,
    /// The most likely tokens, best first; as many as were asked for.
    pub top: Vec<TokenLogprob>,
    /// Who chose it.
    pub origin: TokenOrigin,
}

/// Tokens of a request, by how they came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Prompt tokens whose KV this request did not compute (resident or joined).
    pub cached_prompt_tokens: u32,
    /// Tokens this request computed for its prompt. A token of which both the shared copy and the context's own version were
    /// computed counts twice, so that together with the cached ones they may be more than the prompt has.
    pub computed_prompt_tokens: u32,
    /// Document tokens that the context has a version of its own of instead of the shared copy, computed by this request or
    /// found in the cache: those that the [`Exactness`] asks for.
    pub recomputed_tokens: u32,
    /// Of them, tokens whose KV is kept in the document cache.
    pub cache_creation_tokens: u32,
    /// Tokens generated, over all sequences.
    pub completion_tokens: u32,
    /// Document parts.
    pub documents_total: u32,
    /// Document parts whose KV was resident or joined.
    pub documents_reused: u32,
    /// Document parts whose KV was resident at another position and re-encoded; their tokens count as cached.
    pub documents_reencoded: u32,
    /// Times a sequence gave its KV blocks to others and was computed again; it generates the same tokens all the same.
    pub preemptions: u32,
}

/// Where the time of a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timing {
    /// From submission to admission: from then on it holds everything it needs.
    pub queue: Duration,
    /// From submission to the first generated token.
    pub time_to_first_token: Duration,
    /// From admission to the first generated token.
    pub prefill: Duration,
    /// From the first generated token to the last.
    pub decode: Duration,
}

/// What a request's stream carries, in this order: one `Started`, any number of `Delta`, one `Finished` per sequence,
/// one `Done`; or one `Failed`, which ends the stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The request was admitted.
    Started {
        /// Its id in this engine.
        request: RequestId,
        /// One entry per part of the prompt.
        parts: Vec<ResolvedPart>,
        /// The seed of sequence 0.
        seed: u64,
        /// The rung that runs: the one that was asked for, unless the engine's policy makes documents text.
        exactness: Exactness,
    },
    /// Text of a sequence; tokens whose bytes are not yet whole characters come with the text that completes them.
    Delta {
        /// Index of the sequence, below `n`.
        index: u32,
        /// New text, possibly empty.
        text: String,
        /// New tokens.
        tokens: Vec<GeneratedToken>,
    },
    /// A sequence ended.
    Finished {
        /// Index of the sequence, below `n`.
        index: u32,
        /// Why.
        reason: FinishReason,
    },
    /// All sequences ended.
    Done {
        /// Tokens of the request.
        usage: Usage,
        /// Its time.
        timing: Timing,
    },
    /// The request failed; no other request is touched.
    Failed(crate::EngineError),
}

/// A part of the prompt after tokenisation and lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedPart {
    /// Its length.
    pub num_tokens: u32,
    /// Hexadecimal content key for a document, empty for text.
    pub document_key: String,
    /// How it was found.
    pub outcome: PartOutcome,
}
