//! `GenerationService`: one task per request carries the engine's events to the response.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use lazy_attn_engine::{EngineError, EngineHandle, Event, RequestStream};
use lazy_attn_proto::v1;
use lazy_attn_proto::v1::generation_service_server::GenerationService;
use lazy_attn_types::TenantSalt;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::deadline::Deadline;
use super::gate::{Gate, InFlight};
use super::slots::IntakeSlots;
use crate::convert::{ChatRenderer, ConvertError, Converted, Defaults, Limits, Reply, RequestConverter};
use crate::metrics::{Metrics, Rejection};
use crate::status;
use crate::tenants::Caller;

/// Messages that wait for a slow reader; what comes behind them is merged by the engine's stream.
const MAX_BUFFERED_MESSAGES: usize = 1;

/// What every request needs.
pub(super) struct Intake {
    pub(super) handle: EngineHandle,
    pub(super) model: String,
    pub(super) limits: Limits,
    pub(super) defaults: Defaults,
    pub(super) chat: Arc<dyn ChatRenderer + Send + Sync>,
    pub(super) slots: IntakeSlots,
    pub(super) metrics: Arc<Metrics>,
}

impl Intake {
    fn submit(
        &self,
        message: v1::GenerateRequest,
        tenant: TenantSalt,
        deadline: Deadline,
    ) -> Result<Admitted, Status> {
        let converter = RequestConverter {
            model: &self.model,
            limits: self.limits,
            defaults: self.defaults.clone(),
            chat: &*self.chat,
        };
        let converted = converter.convert(message, tenant);
        let Converted { mut request, reply } = converted.map_err(|error| {
            let is_model = matches!(error, ConvertError::UnknownModel { .. });
            let reason = if is_model { Rejection::UnknownModel } else { Rejection::InvalidField };
            self.refusal(reason, status::of_convert_error(&error))
        })?;
        // The scheduler refuses early what cannot be in time, and does not start what is late already.
        request.timeout = deadline.left();
        let stream = self.handle.submit(request).map_err(|error| status::of_engine_error(&error))?;
        Ok(Admitted { stream, reply })
    }

    /// Counts a request that the engine does not see.
    fn refusal(&self, rejection: Rejection, status: Status) -> Status {
        self.metrics.refused(rejection);
        status
    }
}

/// A request that the engine has taken.
struct Admitted {
    stream: RequestStream,
    reply: Reply,
}

/// Generates.
pub(super) struct GenerationApi {
    pub(super) intake: Arc<Intake>,
    pub(super) gate: Gate,
}

#[tonic::async_trait]
impl GenerationService for GenerationApi {
    type GenerateStream = ReplyStream;

    async fn generate(&self, request: Request<v1::GenerateRequest>) -> Result<Response<ReplyStream>, Status> {
        let refusal = |rejection, status| self.intake.refusal(rejection, status);
        let in_flight = self.gate.enter().ok_or_else(|| refusal(Rejection::Draining, status::draining()))?;
        let deadline = Deadline::of(request.metadata());
        let deadline = deadline.map_err(|status| refusal(Rejection::InvalidField, status))?;
        let caller = request.extensions().get::<Caller>().copied();
        let Caller(tenant) = caller.ok_or_else(status::wrong_api_key)?;
        let intake = Arc::clone(&self.intake);
        let message = request.into_inner();
        // Tokenising is work: it must not hold up the streams of this thread. If the caller leaves meanwhile, the
        // result is dropped, which cancels the request.
        let room = intake.handle.check_room();
        room.map_err(|error| refusal(Rejection::QueueFull, status::of_engine_error(&error)))?;
        let submitted = async move {
            let slot = intake.slots.enter().await;
            let slot = slot.map_err(|status| intake.refusal(Rejection::IntakeFull, status))?;
            let submit = move || {
                let _slot = slot;
                intake.submit(message, tenant, deadline)
            };
            spawn_blocking(submit)
                .await
                .map_err(|_| status::internal("INTAKE_FAILED", "the request was not read".into()))?
        };
        let admitted = deadline.bound(submitted).await?;
        let (sender, messages) = mpsc::channel(MAX_BUFFERED_MESSAGES);
        tokio::spawn(carry(admitted, deadline, sender, self.gate.clone()));
        Ok(Response::new(ReplyStream { messages, _in_flight: in_flight }))
    }
}

type Message = Result<v1::GenerateResponse, Status>;

/// The response of one request. Dropping it ends the task that feeds it, which cancels the request.
pub(super) struct ReplyStream {
    messages: mpsc::Receiver<Message>,
    _in_flight: InFlight,
}

impl Stream for ReplyStream {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        self.messages.poll_recv(context)
    }
}

/// Carries one request to its end, its deadline, or the moment its reader goes away, whatever the reader does.
async fn carry(admitted: Admitted, deadline: Deadline, sender: mpsc::Sender<Message>, gate: Gate) {
    let Admitted { mut stream, reply } = admitted;
    let passed = tokio::select! {
        biased;
        () = sender.closed() => None,
        status = deadline.passed() => Some(status),
        () = pump(&mut stream, &reply, &sender, &gate) => None,
    };
    // Frees the request's blocks now, even if the reader never takes the status below.
    if let Some(status) = passed {
        stream.expire();
        let _ = sender.send(Err(status)).await;
    }
}

async fn pump(stream: &mut RequestStream, reply: &Reply, sender: &mpsc::Sender<Message>, gate: &Gate) {
    // Room first: what the engine says while there is none comes merged afterwards.
    while let Ok(room) = sender.reserve().await {
        let Some(event) = stream.next().await else { return };
        if matches!(event, Event::Failed(EngineError::ShutDown)) {
            gate.close();
        }
        room.send(reply.message(event).map_err(|error| status::of_engine_error(&error)));
    }
}
