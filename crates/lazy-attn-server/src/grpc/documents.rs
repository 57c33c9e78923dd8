//! `DocumentService`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lazy_attn_engine::DocumentResidency;
use lazy_attn_proto::v1::document_service_server::DocumentService;
use lazy_attn_proto::v1::{self, KvResidency, batch_put_documents_response as batch, document};
use lazy_attn_types::{SegmentKey, TenantSalt};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tonic_types::StatusExt;

use super::deadline::Deadline;
use super::gate::{Gate, InFlight};
use super::intake::Intake;
use super::pins::Pins;
use super::put::{Done, Putter};
use crate::convert::duration;
use crate::documents::{
    Change, DocumentError, Expiry, PageQuery, PinState, Registry, StoredDocument, name_of,
};
use crate::status;
use crate::tenants::Caller;

/// Documents of a batch that are computed at the same time.
const MAX_BATCH_IN_FLIGHT: usize = 16;

/// Serves documents.
pub(super) struct DocumentApi {
    putter: Putter,
    gate: Gate,
}

impl DocumentApi {
    pub(super) fn new(intake: Arc<Intake>, pins: Pins, gate: Gate) -> DocumentApi {
        DocumentApi { putter: Putter { intake, pins }, gate }
    }

    fn registry(&self) -> &Registry {
        &self.putter.intake.registry
    }

    /// Who asks, and the way through the gate.
    fn enter<T>(&self, request: &Request<T>) -> Result<(TenantSalt, Deadline, InFlight), Status> {
        let in_flight = self.gate.enter().map_err(|closing| closing.status())?;
        Ok((Caller::of(request)?, Deadline::of(request.metadata())?, in_flight))
    }

    /// Messages for `documents`, with where their KV is now.
    async fn messages(&self, documents: Vec<StoredDocument>) -> Result<Vec<v1::Document>, Status> {
        messages(&self.putter.intake, documents).await
    }

    async fn message(&self, document: StoredDocument) -> Result<v1::Document, Status> {
        let mut messages = self.messages(vec![document]).await?;
        messages.pop().ok_or_else(|| status::internal("NO_DOCUMENT", "the document was lost".into()))
    }

    async fn check_unused(&self, key: SegmentKey) -> Result<(), Status> {
        let found = residency(&self.putter.intake, vec![key]).await?;
        match found.first() {
            Some(&DocumentResidency::Resident { num_users }) if num_users > 0 => {
                let error = DocumentError::InUse { name: name_of(&key), num_users };
                Err(status::of_document_error(&error))
            }
            _ => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl DocumentService for DocumentApi {
    type BatchPutDocumentsStream = Pin<Box<dyn Stream<Item = BatchItem> + Send>>;

    async fn put_document(
        &self,
        request: Request<v1::PutDocumentRequest>,
    ) -> Result<Response<v1::PutDocumentResponse>, Status> {
        let (tenant, deadline, _in_flight) = self.enter(&request)?;
        let done = self.putter.put(request.into_inner(), tenant, deadline).await?;
        Ok(Response::new(put_response(&self.putter, tenant, done).await?))
    }

    async fn batch_put_documents(
        &self,
        request: Request<Streaming<v1::BatchPutDocumentsRequest>>,
    ) -> Result<Response<Self::BatchPutDocumentsStream>, Status> {
        let (tenant, deadline, in_flight) = self.enter(&request)?;
        let (answers, ready) = mpsc::channel(MAX_BATCH_IN_FLIGHT);
        let reading =
            read_batch(self.putter.clone(), request.into_inner(), tenant, deadline, answers.clone());
        let gate = self.gate.clone();
        tokio::spawn(async move {
            let end = tokio::select! {
                () = reading => return,
                closing = gate.closed() => closing.status(),
                status = deadline.passed() => status,
            };
            // What was read before is answered before.
            let _ = answers.send(Err(end)).await;
        });
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(write_batch(ready, sender, in_flight));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn get_document(
        &self,
        request: Request<v1::GetDocumentRequest>,
    ) -> Result<Response<v1::GetDocumentResponse>, Status> {
        let (tenant, _, _in_flight) = self.enter(&request)?;
        let found = self.registry().get(tenant, &request.get_ref().name, SystemTime::now());
        let document = found.map_err(|error| status::of_document_error(&error))?;
        let document = Some(self.message(document).await?);
        Ok(Response::new(v1::GetDocumentResponse { document }))
    }

    async fn list_documents(
        &self,
        request: Request<v1::ListDocumentsRequest>,
    ) -> Result<Response<v1::ListDocumentsResponse>, Status> {
        let (tenant, _, _in_flight) = self.enter(&request)?;
        let v1::ListDocumentsRequest { page_size, page_token, filter, order_by } = request.into_inner();
        let query = PageQuery { page_size, page_token: &page_token, filter: &filter, order_by: &order_by };
        let page = self.registry().list(tenant, &query, SystemTime::now());
        let page = page.map_err(|error| status::of_document_error(&error))?;
        Ok(Response::new(v1::ListDocumentsResponse {
            documents: self.messages(page.documents).await?,
            next_page_token: page.next_page_token,
            total_size: i64::try_from(page.total).unwrap_or(i64::MAX),
        }))
    }

    async fn update_document(
        &self,
        request: Request<v1::UpdateDocumentRequest>,
    ) -> Result<Response<v1::UpdateDocumentResponse>, Status> {
        let (tenant, deadline, _in_flight) = self.enter(&request)?;
        let v1::UpdateDocumentRequest { document, update_mask } = request.into_inner();
        let document = document.unwrap_or_default();
        let (name, etag) = (document.name.clone(), document.etag.clone());
        let paths = update_mask.unwrap_or_default().paths;
        let update = Update::of(document, &paths).map_err(|error| status::of_document_error(&error))?;
        self.registry().check(&update.change).map_err(of_update)?;
        let now = SystemTime::now();
        let change = |etag: &str, change| self.registry().update(tenant, &name, etag, change, now);
        // Nothing changes unless the etag is right; pinning changes it.
        let mut current = change(&etag, Change::default()).map_err(of_update)?;
        match update.pinned {
            Some(true) if current.pin == PinState::Unpinned => {
                self.putter.pin(tenant, &current, deadline).await?;
            }
            Some(false) => {
                let unpinned = self.putter.pins.unpin(tenant, current.key);
                unpinned.map_err(|error| status::of_document_error(&error))?;
            }
            Some(true) | None => {}
        }
        current = change("", update.change).map_err(of_update)?;
        let document = Some(self.message(current).await?);
        Ok(Response::new(v1::UpdateDocumentResponse { document }))
    }

    async fn delete_document(
        &self,
        request: Request<v1::DeleteDocumentRequest>,
    ) -> Result<Response<v1::DeleteDocumentResponse>, Status> {
        let (tenant, _, _in_flight) = self.enter(&request)?;
        let v1::DeleteDocumentRequest { name, etag, allow_missing, force } = request.into_inner();
        let found = match self.registry().get(tenant, &name, SystemTime::now()) {
            Err(DocumentError::NotFound { .. }) if allow_missing => {
                return Ok(Response::new(v1::DeleteDocumentResponse {}));
            }
            found => found.map_err(|error| status::of_document_error(&error))?,
        };
        if !force {
            self.check_unused(found.key).await?;
        }
        let deleted = self.registry().delete(tenant, &name, &etag, SystemTime::now());
        deleted.map_err(|error| status::of_document_error(&error))?;
        self.putter.pins.sweep();
        Ok(Response::new(v1::DeleteDocumentResponse {}))
    }
}

type BatchItem = Result<v1::BatchPutDocumentsResponse, Status>;
type Answer = JoinHandle<Result<v1::PutDocumentResponse, Status>>;

/// Starts the documents of a batch, at most as many as the channel holds ahead of the answers.
async fn read_batch(
    putter: Putter,
    mut requests: Streaming<v1::BatchPutDocumentsRequest>,
    tenant: TenantSalt,
    deadline: Deadline,
    answers: mpsc::Sender<Result<Answer, Status>>,
) {
    loop {
        // Room first, so that what is not read yet waits with the client.
        let Ok(room) = answers.reserve().await else { return };
        match requests.message().await {
            Ok(Some(message)) => {
                let (putter, request) = (putter.clone(), message.request.unwrap_or_default());
                room.send(Ok(tokio::spawn(async move {
                    let done = putter.put(request, tenant, deadline).await?;
                    put_response(&putter, tenant, done).await
                })));
            }
            Ok(None) => return,
            Err(status) => {
                room.send(Err(status));
                return;
            }
        }
    }
}

/// Answers in the order of the requests.
async fn write_batch(
    mut answers: mpsc::Receiver<Result<Answer, Status>>,
    sender: mpsc::Sender<BatchItem>,
    _in_flight: InFlight,
) {
    let mut index = 0;
    while let Some(answer) = answers.recv().await {
        let item = match answer {
            Ok(answer) => {
                let lost = || status::internal("INTAKE_FAILED", "the document was not read".into());
                let result = match answer.await.unwrap_or_else(|_| Err(lost())) {
                    Ok(response) => batch::Result::Response(response),
                    Err(status) => batch::Result::Error(batch_error(&status)),
                };
                Ok(v1::BatchPutDocumentsResponse { index, result: Some(result) })
            }
            Err(status) => Err(status),
        };
        index += 1;
        if sender.send(item).await.is_err() {
            return;
        }
    }
}

fn batch_error(status: &Status) -> v1::BatchPutError {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
    v1::BatchPutError { code: status.code().into(), message: status.message().to_owned(), reason }
}

async fn put_response(
    putter: &Putter,
    tenant: TenantSalt,
    done: Done,
) -> Result<v1::PutDocumentResponse, Status> {
    let Done { document, created, prefilled_tokens } = done;
    // Computing and pinning it may have changed it.
    let now = putter.intake.registry.get(tenant, &document.name(), SystemTime::now());
    let document = messages(&putter.intake, vec![now.unwrap_or(document)]).await?.pop();
    Ok(v1::PutDocumentResponse { document, created, prefilled_tokens })
}

async fn residency(intake: &Intake, keys: Vec<SegmentKey>) -> Result<Vec<DocumentResidency>, Status> {
    let handle = intake.handle.clone();
    // The answer comes between two steps.
    let found = spawn_blocking(move || handle.residency(keys)).await;
    let found = found.map_err(|_| status::internal("INTAKE_FAILED", "the cache was not asked".into()))?;
    found.map_err(|error| status::of_engine_error(&error))
}

async fn messages(intake: &Intake, documents: Vec<StoredDocument>) -> Result<Vec<v1::Document>, Status> {
    let found = residency(intake, documents.iter().map(|document| document.key).collect()).await?;
    let model = format!("models/{}", intake.model);
    let message = |(document, found)| message(document, found, &model);
    Ok(documents.into_iter().zip(found).map(message).collect())
}

fn message(document: StoredDocument, found: DocumentResidency, model: &str) -> v1::Document {
    let residency = match found {
        DocumentResidency::Absent => KvResidency::Evicted,
        DocumentResidency::Filling => KvResidency::Pending,
        DocumentResidency::Resident { .. } => KvResidency::Device,
    };
    v1::Document {
        name: document.name(),
        etag: document.etag(),
        model: model.to_owned(),
        // The engine refuses longer ones.
        token_count: u32::try_from(document.tokens.len()).unwrap_or(u32::MAX),
        kv_bytes: document.kv_bytes,
        residency: residency.into(),
        pinned: document.pin != PinState::Unpinned,
        expiration: document.expires.map(|time| document::Expiration::ExpireTime(timestamp(time))),
        create_time: Some(timestamp(document.created)),
        last_use_time: document.last_used.map(timestamp),
        use_count: document.use_count,
        display_name: document.display_name,
        labels: document.labels,
    }
}

fn timestamp(time: SystemTime) -> lazy_attn_proto::Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    // Below 10^9.
    lazy_attn_proto::Timestamp { seconds, nanos: since.subsec_nanos().cast_signed() }
}

/// The fields of an update stand in its `document`.
fn of_update(error: DocumentError) -> Status {
    status::of_document_error(&match error {
        DocumentError::Field { field, problem } => DocumentError::field(format!("document.{field}"), problem),
        other => other,
    })
}

/// What an update changes.
#[derive(Default)]
struct Update {
    change: Change,
    pinned: Option<bool>,
}

impl Update {
    fn of(document: v1::Document, paths: &[String]) -> Result<Update, DocumentError> {
        if paths.is_empty() {
            let problem = "is empty; name what changes: display_name, labels, pinned, expire_time or ttl";
            return Err(DocumentError::field("update_mask", problem));
        }
        let mut update = Update::default();
        for path in paths {
            match path.as_str() {
                "display_name" => update.change.display_name = Some(document.display_name.clone()),
                "labels" => update.change.labels = Some(document.labels.clone()),
                "pinned" => update.pinned = Some(document.pinned),
                "expire_time" | "ttl" => update.change.expiry = Some(expiry(document.expiration.as_ref())?),
                _ => {
                    let allowed = "display_name, labels, pinned, expire_time or ttl; the rest never changes";
                    return Err(DocumentError::field(
                        "update_mask",
                        format!("names {path:?}, but takes {allowed}"),
                    ));
                }
            }
        }
        Ok(update)
    }
}

fn expiry(given: Option<&document::Expiration>) -> Result<Expiry, DocumentError> {
    match given {
        None => Ok(Expiry::Never),
        Some(document::Expiration::Ttl(ttl)) => {
            let ttl = duration("document.ttl", Some(*ttl));
            let ttl = ttl.map_err(|error| DocumentError::field("document.ttl", error.to_string()))?;
            Ok(ttl.map_or(Expiry::Never, Expiry::After))
        }
        Some(document::Expiration::ExpireTime(time)) => {
            let parts = u64::try_from(time.seconds).ok().zip(u32::try_from(time.nanos).ok());
            let since = parts.and_then(|(seconds, nanos)| {
                Duration::from_secs(seconds).checked_add(Duration::from_nanos(u64::from(nanos)))
            });
            let at = since.and_then(|since| UNIX_EPOCH.checked_add(since));
            match at.filter(|at| *at > SystemTime::now()) {
                Some(at) => Ok(Expiry::At(at)),
                None => Err(DocumentError::field(
                    "document.expire_time",
                    "is not in the future; delete it instead",
                )),
            }
        }
    }
}
