//! `GenerationService`: one task per request carries the engine's events to the response.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use lazy_attn_engine::{EngineError, Event, RequestStream};
use lazy_attn_proto::v1;
use lazy_attn_proto::v1::generation_service_server::GenerationService;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::deadline::Deadline;
use super::gate::{Gate, InFlight};
use super::intake::{Admitted, Intake};
use crate::convert::{Reply, resolved};
use crate::metrics::Rejection;
use crate::status;
use crate::tenants::Caller;

/// Messages that wait for a slow reader; what comes behind them is merged by the engine's stream.
const MAX_BUFFERED_MESSAGES: usize = 1;

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
        let in_flight =
            self.gate.enter().map_err(|closing| refusal(Rejection::Draining, closing.status()))?;
        let deadline = Deadline::of(request.metadata());
        let deadline = deadline.map_err(|status| refusal(Rejection::InvalidField, status))?;
        let tenant = Caller::of(&request)?;
        let message = request.into_inner();
        // Tokenising is work: it must not hold up the streams of this thread. If the caller leaves meanwhile, the
        // result is dropped, which cancels the request.
        let room = self.intake.handle.check_room();
        room.map_err(|error| refusal(Rejection::QueueFull, status::of_engine_error(&error)))?;
        let submitted = self.intake.read(move |intake| intake.submit(message, tenant, deadline));
        let admitted = deadline.bound(submitted).await?;
        let (sender, messages) = mpsc::channel(MAX_BUFFERED_MESSAGES);
        tokio::spawn(carry(admitted, deadline, sender, self.gate.clone()));
        Ok(Response::new(ReplyStream { messages, _in_flight: in_flight }))
    }

    async fn count_tokens(
        &self,
        request: Request<v1::CountTokensRequest>,
    ) -> Result<Response<v1::CountTokensResponse>, Status> {
        let _in_flight = self.gate.enter().map_err(|closing| closing.status())?;
        let deadline = Deadline::of(request.metadata())?;
        let tenant = Caller::of(&request)?;
        let message = request.into_inner();
        let counted = deadline.bound(self.intake.read(move |intake| intake.count(message, tenant))).await?;
        // At most as many as a request may have.
        let parts = (0..).zip(counted.parts).map(|(index, part)| resolved(index, part)).collect();
        let (prompt_tokens, cached_prompt_tokens) = (counted.prompt_tokens, counted.cached_prompt_tokens);
        Ok(Response::new(v1::CountTokensResponse { prompt_tokens, cached_prompt_tokens, parts }))
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
        if let Event::Failed(error @ (EngineError::ShutDown | EngineError::DeviceLost(_))) = &event {
            gate.close(error.clone());
        }
        room.send(reply.message(event).map_err(|error| status::of_engine_error(&error)));
    }
}
