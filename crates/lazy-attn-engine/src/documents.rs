//! Documents outside a request: what they are called, whether they are resident, encoding and pinning them.
//!
//! A document is named by its [`SegmentKey`], which a tenant's salt goes into: whoever has no salt cannot name another
//! tenant's document.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use lazy_attn_kv::{FillState, KvError, Scope};
use lazy_attn_types::{SegmentKey, TenantSalt, TokenId};

use crate::command::{Answerer, Command, Question};
use crate::watch::KvWatch;
use crate::{
    EngineError, EngineHandle, GenerateRequest, PartContent, PartOutcome, RequestStream, ResolvedPart,
};

/// A document, tokenised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentInfo {
    /// Its name: the key under which every request of its tenant finds its KV.
    pub key: SegmentKey,
    /// Its tokens.
    pub tokens: Arc<[TokenId]>,
    /// KV blocks it takes.
    pub num_blocks: u32,
    /// Bytes of these blocks.
    pub kv_bytes: u64,
}

/// Where the KV of a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentResidency {
    /// Nowhere; its next use computes it.
    Absent,
    /// Being computed.
    Filling,
    /// In the cache.
    Resident {
        /// Running sequences that read it.
        num_users: u32,
    },
}

/// Whether a document is kept from eviction once it is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pin {
    /// It is evicted like any other.
    #[default]
    No,
    /// It is pinned once, before anything can evict it.
    Yes,
}

/// Asks for the KV of one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodeRequest {
    /// The document.
    pub content: PartContent,
    /// Whose it is.
    pub tenant: TenantSalt,
    /// Whether it is pinned too.
    pub pin: Pin,
    /// Larger goes sooner, among the requests of its tenant.
    pub priority: i32,
    /// Time after which it is of no use.
    pub timeout: Option<Duration>,
}

/// What a prompt consists of, and what of it a request would find computed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptCount {
    /// Tokens of the prompt, with those the engine adds.
    pub prompt_tokens: u32,
    /// Prompt tokens whose KV a request would not compute: resident, or being computed by another.
    pub cached_prompt_tokens: u32,
    /// One entry per part.
    pub parts: Vec<ResolvedPart>,
}

impl EngineHandle {
    /// Tokenises a document and names it; computes nothing.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for an empty document or a token outside the vocabulary, with the field `document`.
    pub fn document(&self, content: &PartContent, tenant: TenantSalt) -> Result<DocumentInfo, EngineError> {
        let (key, tokens) = self.intake().document(content, tenant)?;
        let info = self.executor_info();
        let num_blocks = info.block_size.blocks_for(tokens.len() as u32);
        let kv_bytes = u64::from(num_blocks) * u64::from(info.block_size.get()) * info.kv_bytes_per_token;
        Ok(DocumentInfo { key, tokens, num_blocks, kv_bytes })
    }

    /// Computes the KV of one document and keeps it, together with whoever else needs it. The stream carries
    /// [`Event::Started`](crate::Event::Started) and [`Event::Done`](crate::Event::Done), or a failure; dropping it gives
    /// up.
    ///
    /// # Errors
    /// Those of [`EngineHandle::document`] and, for the queue and the pool, of [`EngineHandle::submit`].
    pub fn encode(&self, request: EncodeRequest) -> Result<RequestStream, EngineError> {
        self.submit_prepared(|intake| intake.prepare_document(request))
    }

    /// What [`EngineHandle::submit`] would make of `request`; runs nothing, reserves nothing, and no document counts as
    /// used. Waits for the running step.
    ///
    /// # Errors
    /// Those of [`EngineHandle::submit`] for the request itself, [`EngineError::ShutDown`] after the engine's end.
    pub fn count(&self, request: GenerateRequest) -> Result<PromptCount, EngineError> {
        let prepared = self.intake().prepare(request)?;
        let (context, scope) = (Arc::clone(&prepared.context), prepared.lookup_scope());
        let prompt_tokens = context.num_prompt_tokens();
        let keys: Vec<SegmentKey> = context.segments().iter().map(|segment| segment.key()).collect();
        let found = match scope {
            Some(scope) => self.lookup(scope, keys)?,
            None => vec![DocumentResidency::Absent; keys.len()],
        };
        let parts = prepared.parts.iter().map(|part| {
            let found = part.segment_index.and_then(|index| found.get(index));
            let outcome = match found {
                Some(DocumentResidency::Resident { .. }) => PartOutcome::Hit,
                Some(DocumentResidency::Filling) => PartOutcome::Joined,
                Some(DocumentResidency::Absent) | None => PartOutcome::Miss,
            };
            ResolvedPart { num_tokens: part.num_tokens, document_key: part.document_key.clone(), outcome }
        });
        let parts = parts.collect();
        let segments = context.segments().iter().zip(&found);
        let cached = segments.filter(|(_, found)| **found != DocumentResidency::Absent);
        let cached_prompt_tokens = cached.map(|(segment, _)| segment.seen().num_tokens()).sum();
        Ok(PromptCount { prompt_tokens, cached_prompt_tokens, parts })
    }

    /// Where the KV of each document is. Waits for the running step.
    ///
    /// # Errors
    /// [`EngineError::ShutDown`] after the engine's end.
    pub fn residency(&self, keys: Vec<SegmentKey>) -> Result<Vec<DocumentResidency>, EngineError> {
        self.lookup(Scope::Shared, keys)
    }

    /// Keeps a resident document from eviction until it is unpinned as often as pinned. Waits for the running step.
    ///
    /// # Errors
    /// [`EngineError::NotResident`] unless it is, [`EngineError::PinBound`] if pins would keep too much of the pool,
    /// [`EngineError::ShutDown`] after the engine's end.
    pub fn pin(&self, key: SegmentKey) -> Result<(), EngineError> {
        self.ask(move |answerer| answerer.scheduler.pin(key))?.map_err(pin_error)
    }

    /// Takes one pin away; does nothing if there is none. Waits for the running step.
    ///
    /// # Errors
    /// [`EngineError::ShutDown`] after the engine's end.
    pub fn unpin(&self, key: SegmentKey) -> Result<(), EngineError> {
        // The only error is that there is no pin, which is what was asked for.
        self.ask(move |answerer| answerer.scheduler.unpin(key)).map(|_| ())
    }

    /// Takes one pin away, soon; does nothing if there is none. Waits for nothing.
    pub fn unpin_later(&self, key: SegmentKey) {
        let question = move |answerer: &mut Answerer<'_>| {
            // The only error is that there is no pin, which is what was asked for.
            let _ = answerer.scheduler.unpin(key);
        };
        // An engine that is gone holds no pins.
        let _ = self.send(Command::Ask(Question(Box::new(question))));
    }

    /// What is resident now, and how it changes from now on. Waits for the running step.
    ///
    /// # Errors
    /// [`EngineError::ShutDown`] after the engine's end.
    pub fn watch_kv(&self) -> Result<KvWatch, EngineError> {
        self.ask(|answerer| answerer.news.watch(answerer.scheduler))
    }

    fn lookup(&self, scope: Scope, keys: Vec<SegmentKey>) -> Result<Vec<DocumentResidency>, EngineError> {
        self.ask(move |answerer| {
            let kv = answerer.scheduler.kv();
            let found = |key: &SegmentKey| match kv.residency(scope, *key) {
                None => DocumentResidency::Absent,
                Some(found) if found.state == FillState::Complete => {
                    DocumentResidency::Resident { num_users: found.num_refs }
                }
                Some(_) => DocumentResidency::Filling,
            };
            keys.iter().map(found).collect()
        })
    }

    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Answerer<'_>) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let (reply, answer) = mpsc::channel();
        let question = move |answerer: &mut Answerer<'_>| {
            // Whoever asked may have given up.
            let _ = reply.send(question(answerer));
        };
        self.send(Command::Ask(Question(Box::new(question))))?;
        answer.recv().map_err(|_| self.end_reason())
    }
}

pub(crate) fn pin_error(error: KvError) -> EngineError {
    match error {
        KvError::PinBound { needed, pinned, max } => {
            EngineError::PinBound { needed_blocks: needed, pinned_blocks: pinned, max_blocks: max }
        }
        _ => EngineError::NotResident,
    }
}
