//! From a message to the engine: convert, look documents up, register those that are to be, submit.

use std::sync::Arc;
use std::time::SystemTime;

use lazy_attn_engine::{EngineHandle, GenerateRequest, Part, PartContent, PromptCount, RequestStream};
use lazy_attn_proto::v1;
use lazy_attn_types::TenantSalt;
use tokio::task::spawn_blocking;
use tonic::Status;

use super::deadline::Deadline;
use super::slots::IntakeSlots;
use crate::convert::{
    ChatRenderer, ConvertError, Converted, Defaults, DocumentUse, Limits, Reply, RequestConverter,
};
use crate::documents::{NewDocument, Registry};
use crate::metrics::{Metrics, Rejection};
use crate::status;

/// What every request needs.
pub(super) struct Intake {
    pub(super) handle: EngineHandle,
    pub(super) model: String,
    pub(super) limits: Limits,
    pub(super) defaults: Defaults,
    pub(super) chat: Arc<dyn ChatRenderer + Send + Sync>,
    pub(super) slots: IntakeSlots,
    pub(super) metrics: Arc<Metrics>,
    pub(super) registry: Arc<Registry>,
}

impl Intake {
    pub(super) fn submit(
        &self,
        message: v1::GenerateRequest,
        tenant: TenantSalt,
        deadline: Deadline,
    ) -> Result<Admitted, Status> {
        let Converted { mut request, reply, documents } = self.convert(message, tenant)?;
        let names = self.store(&mut request, documents)?;
        // The scheduler refuses early what cannot be in time, and does not start what is late already.
        request.timeout = deadline.left();
        let stream = self.handle.submit(request).map_err(|error| status::of_engine_error(&error))?;
        // Whoever looks for a request in the log knows the name that they gave it.
        tracing::debug!(request_id = stream.request().0, name = reply.request_id, "named");
        for name in names {
            // One that was deleted just now is used for the last time.
            let _ = self.registry.use_document(tenant, &name, SystemTime::now());
        }
        Ok(Admitted { stream, reply })
    }

    fn convert(&self, message: v1::GenerateRequest, tenant: TenantSalt) -> Result<Converted, Status> {
        let converter = RequestConverter {
            model: &self.model,
            limits: self.limits,
            defaults: self.defaults.clone(),
            chat: &*self.chat,
            documents: &*self.registry,
        };
        converter.convert(message, tenant).map_err(|error| {
            let reason = match error {
                ConvertError::UnknownModel { .. } => Rejection::UnknownModel,
                _ => Rejection::InvalidField,
            };
            self.refusal(reason, status::of_convert_error(&error))
        })
    }

    /// Registers the inline documents of `request` that are to be. Returns the names of all documents it uses.
    fn store(
        &self,
        request: &mut GenerateRequest,
        documents: Vec<DocumentUse>,
    ) -> Result<Vec<String>, Status> {
        let contents = request.parts.iter_mut().filter_map(|part| match part {
            Part::Document(content) => Some(content),
            Part::Text(_) => None,
        });
        let mut names = Vec::new();
        for (content, document) in contents.zip(documents) {
            match document {
                DocumentUse::Registered(name) => names.push(name),
                DocumentUse::Inline => {}
                DocumentUse::Store { title, ttl } => {
                    let info = self.handle.document(content, request.tenant);
                    let info = info.map_err(|error| status::of_engine_error(&error))?;
                    let new = NewDocument { display_name: title, ttl, ..NewDocument::default() };
                    let put = self.registry.put(request.tenant, &info, new, SystemTime::now());
                    names.push(put.map_err(|error| status::of_document_error(&error))?.document.name());
                    *content = PartContent::Tokens(info.tokens);
                }
            }
        }
        Ok(names)
    }

    pub(super) fn count(
        &self,
        message: v1::CountTokensRequest,
        tenant: TenantSalt,
    ) -> Result<PromptCount, Status> {
        let v1::CountTokensRequest { model, parts, chat, cache, attention, exactness, placement, focus } =
            message;
        let request = v1::GenerateRequest {
            model,
            parts,
            chat,
            cache,
            attention,
            exactness,
            placement,
            focus,
            ..v1::GenerateRequest::default()
        };
        let mut request = self.convert(request, tenant)?.request;
        // A count leaves room for one token.
        request.stopping.max_tokens = 1;
        self.handle.count(request).map_err(|error| status::of_engine_error(&error))
    }

    /// Counts a request that the engine does not see.
    pub(super) fn refusal(&self, rejection: Rejection, status: Status) -> Status {
        self.metrics.refused(rejection);
        status
    }

    /// Runs `work`, which tokenises, on a thread that may be held up, if there is a slot or a place to wait for one.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Intake) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let intake = Arc::clone(self);
        let slot = self.slots.enter().await.map_err(|status| self.refusal(Rejection::IntakeFull, status))?;
        let work = move || {
            let _slot = slot;
            work(&intake)
        };
        spawn_blocking(work)
            .await
            .map_err(|_| status::internal("INTAKE_FAILED", "the request was not read".into()))?
    }
}

/// A request that the engine has taken.
pub(super) struct Admitted {
    pub(super) stream: RequestStream,
    pub(super) reply: Reply,
}
