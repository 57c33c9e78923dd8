//! Registering a document: read, register, compute its KV when it is wanted, pin it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lazy_attn_engine::{
    DocumentInfo, EncodeRequest, EngineError, Event, PartContent, Pin, RequestStream, Usage,
};
use lazy_attn_proto::v1::{self, PrefillMode, put_document_request};
use lazy_attn_types::{SegmentKey, TenantSalt, TokenId};
use tonic::Status;

use super::deadline::Deadline;
use super::intake::Intake;
use super::pins::Pins;
use crate::convert::{ConvertError, check_model, duration};
use crate::documents::{NewDocument, PinStep, Put, StoredDocument};
use crate::status;

/// A document that is to be registered, checked.
struct Checked {
    content: PartContent,
    new: NewDocument,
    mode: PrefillMode,
    pin: Pin,
}

/// Registers documents.
#[derive(Clone)]
pub(super) struct Putter {
    pub(super) intake: Arc<Intake>,
    pub(super) pins: Pins,
}

/// How putting a document went.
pub(super) struct Done {
    pub(super) document: StoredDocument,
    pub(super) created: bool,
    pub(super) prefilled_tokens: u32,
}

impl Putter {
    pub(super) async fn put(
        &self,
        request: v1::PutDocumentRequest,
        tenant: TenantSalt,
        deadline: Deadline,
    ) -> Result<Done, Status> {
        let validate_only = request.validate_only;
        let checked = check(request, &self.intake).map_err(|error| status::of_convert_error(&error))?;
        let Checked { content, new, mode, pin } = checked;
        let (info, put) = self
            .intake
            .read(move |intake| {
                let info = read(intake, &content, tenant)?;
                let now = SystemTime::now();
                let put = if validate_only {
                    intake.registry.preview(tenant, &info, new, now)
                } else {
                    intake.registry.put(tenant, &info, new, now)
                };
                Ok((info, put.map_err(|error| status::of_document_error(&error))?))
            })
            .await?;
        let Put { document, created } = put;
        if validate_only || mode == PrefillMode::Lazy {
            return Ok(Done { document, created, prefilled_tokens: 0 });
        }
        let encoding = self.encode(tenant, info.key, Arc::clone(&info.tokens), pin, deadline.left());
        let prefilled_tokens = match (mode, encoding) {
            (_, Err(status)) => return Err(self.give_up(tenant, &document, created, status)),
            (PrefillMode::Async, Ok(encoding)) => {
                tokio::spawn(encoding.run());
                0
            }
            (_, Ok(encoding)) => match deadline.bound(encoding.run()).await {
                Ok(usage) => usage.computed_prompt_tokens,
                Err(status) => return Err(self.give_up(tenant, &document, created, status)),
            },
        };
        Ok(Done { document, created, prefilled_tokens })
    }

    /// Pins the document `key`, computing it first if need be.
    pub(super) async fn pin(
        &self,
        tenant: TenantSalt,
        document: &StoredDocument,
        deadline: Deadline,
    ) -> Result<(), Status> {
        let tokens = Arc::clone(&document.tokens);
        let encoding = self.encode(tenant, document.key, tokens, Pin::Yes, deadline.left())?;
        deadline.bound(encoding.run()).await.map(|_| ())
    }

    /// Hands the document to the engine.
    fn encode(
        &self,
        tenant: TenantSalt,
        key: SegmentKey,
        tokens: Arc<[TokenId]>,
        pin: Pin,
        timeout: Option<Duration>,
    ) -> Result<Encoding, Status> {
        let pin = match pin {
            Pin::No => Pin::No,
            Pin::Yes => {
                let step = self.intake.registry.begin_pin(tenant, key, SystemTime::now());
                match step.map_err(|error| status::of_document_error(&error))? {
                    PinStep::Pin => Pin::Yes,
                    PinStep::Nothing | PinStep::Unpin => Pin::No,
                }
            }
        };
        let content = PartContent::Tokens(tokens);
        let request = EncodeRequest { content, tenant, pin, priority: 0, timeout };
        let stream = self.intake.handle.encode(request);
        let stream = stream.map_err(|error| {
            if pin == Pin::Yes {
                // Nothing was pinned, so nothing has to be given back.
                let _ = self.intake.registry.end_pin(tenant, key, false, SystemTime::now());
            }
            status::of_engine_error(&error)
        })?;
        Ok(Encoding { stream, guard: PinGuard { pins: self.pins.clone(), tenant, key, pin } })
    }

    /// A call that failed leaves nothing behind that was not there before.
    fn give_up(
        &self,
        tenant: TenantSalt,
        document: &StoredDocument,
        created: bool,
        status: Status,
    ) -> Status {
        if created {
            // Somebody else may have deleted it meanwhile.
            let _ = self.intake.registry.delete(tenant, &document.name(), "", SystemTime::now());
        }
        status
    }
}

/// A document that the engine computes. Dropping it cancels that, and then the pin: in the order of its fields.
struct Encoding {
    stream: RequestStream,
    guard: PinGuard,
}

/// Ends a pin that began, also when whoever waited for it went away.
struct PinGuard {
    pins: Pins,
    tenant: TenantSalt,
    key: SegmentKey,
    pin: Pin,
}

impl Encoding {
    async fn run(mut self) -> Result<Usage, Status> {
        let result = loop {
            match self.stream.next().await {
                Some(Event::Done { usage, .. }) => break Ok(usage),
                Some(Event::Failed(error)) => break Err(error),
                Some(_) => {}
                None => break Err(EngineError::ShutDown),
            }
        };
        if std::mem::take(&mut self.guard.pin) == Pin::Yes {
            self.guard.pins.end(self.guard.tenant, self.guard.key, result.is_ok());
        }
        result.map_err(|error| status::of_engine_error(&error))
    }
}

impl Drop for PinGuard {
    fn drop(&mut self) {
        if self.pin == Pin::Yes {
            self.pins.abandon(self.tenant, self.key);
        }
    }
}

/// Tokenises the document and refuses one that could never be computed.
fn read(intake: &Intake, content: &PartContent, tenant: TenantSalt) -> Result<DocumentInfo, Status> {
    let info = intake.handle.document(content, tenant).map_err(|error| match error {
        EngineError::Invalid { problem, .. } => {
            let field = if matches!(content, PartContent::Text(_)) { "text" } else { "token_ids" };
            status::of_convert_error(&ConvertError::field(field, format!("cannot be used: {problem}")))
        }
        other => status::of_engine_error(&other),
    })?;
    let total_blocks = intake.handle.executor_info().num_blocks;
    if info.num_blocks > total_blocks {
        let error = EngineError::NeverFits { needed_blocks: info.num_blocks, total_blocks };
        return Err(status::of_engine_error(&error));
    }
    Ok(info)
}

fn check(request: v1::PutDocumentRequest, intake: &Intake) -> Result<Checked, ConvertError> {
    check_model(&request.model, &intake.model)?;
    let mode = match PrefillMode::try_from(request.prefill_mode) {
        Ok(PrefillMode::Unspecified) => PrefillMode::Eager,
        Ok(mode) => mode,
        Err(_) => {
            let problem = format!("is {}, but must be EAGER, ASYNC or LAZY", request.prefill_mode);
            return Err(ConvertError::field("prefill_mode", problem));
        }
    };
    if request.pinned && mode == PrefillMode::Lazy {
        let problem = "needs KV that is computed now; choose EAGER or ASYNC, or leave pinned out";
        return Err(ConvertError::field("pinned", problem));
    }
    let content = content(request.source, intake.limits.max_part_bytes)?;
    let ttl = duration("ttl", request.ttl)?;
    let new = NewDocument { display_name: request.display_name, labels: request.labels, ttl };
    let pin = if request.pinned { Pin::Yes } else { Pin::No };
    Ok(Checked { content, new, mode, pin })
}

fn content(
    source: Option<put_document_request::Source>,
    max_bytes: usize,
) -> Result<PartContent, ConvertError> {
    let at_most = |field: &str, num_bytes: usize| {
        if num_bytes <= max_bytes {
            return Ok(());
        }
        let problem = format!("has {num_bytes} bytes, but at most {max_bytes} are allowed; split it");
        Err(ConvertError::field(field, problem))
    };
    let empty = |field| Err(ConvertError::field(field, "is empty; give the document content"));
    match source {
        None => empty("source"),
        Some(put_document_request::Source::Text(text)) if text.is_empty() => empty("text"),
        Some(put_document_request::Source::Text(text)) => {
            at_most("text", text.len())?;
            Ok(PartContent::Text(text))
        }
        Some(put_document_request::Source::TokenIds(tokens)) if tokens.ids.is_empty() => empty("token_ids"),
        Some(put_document_request::Source::TokenIds(tokens)) => {
            at_most("token_ids", tokens.ids.len().saturating_mul(4))?;
            Ok(PartContent::Tokens(tokens.ids.into_iter().map(TokenId).collect()))
        }
    }
}
