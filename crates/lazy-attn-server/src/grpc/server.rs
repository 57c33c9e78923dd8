//! All services on one listener, until it is told to drain.

use std::sync::Arc;
use std::time::Duration;

use lazy_attn_engine::EngineHandle;
use lazy_attn_proto::v1::document_service_server::{self, DocumentServiceServer};
use lazy_attn_proto::v1::engine_service_server::{self, EngineServiceServer};
use lazy_attn_proto::v1::generation_service_server::{self, GenerationServiceServer};
use lazy_attn_proto::{FILE_DESCRIPTOR_SET, MAX_MESSAGE_BYTES};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::{Router, TcpIncoming};
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};

use super::documents::DocumentApi;
use super::engine::{AdminAccess, EngineApi};
use super::gate::{Closing, Gate};
use super::generation::GenerationApi;
use super::intake::Intake;
use super::pins::Pins;
use super::slots::IntakeSlots;
use super::tls::ServerTls;
use super::watch::Watchers;
use crate::convert::{ChatRenderer, Defaults, Limits};
use crate::documents::{DocumentLimits, Registry};
use crate::{Metrics, ServeError, Tenants};

/// Names under which `grpc.health.v1` knows the services; the empty one is the server as a whole.
const HEALTH_NAMES: [&str; 4] = [
    "",
    generation_service_server::SERVICE_NAME,
    document_service_server::SERVICE_NAME,
    engine_service_server::SERVICE_NAME,
];
/// Largest header block of a request.
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// After this long without a sign of life a connection is asked for one, and ended if it gives none, so that requests
/// of a machine that vanished are cancelled.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long connections may take to close after the last request.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether the API describes itself to tools such as grpcurl.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reflection {
    /// It does.
    Serve,
    /// It does not.
    Omit,
}

/// What a server is made of besides its engine.
pub struct ServerOptions {
    /// Name of the model.
    pub model: String,
    /// Bounds of a request.
    pub limits: Limits,
    /// What absent fields mean.
    pub defaults: Defaults,
    /// The model's template.
    pub chat: Arc<dyn ChatRenderer + Send + Sync>,
    /// Who may ask.
    pub tenants: Tenants,
    /// Whether the API describes itself.
    pub reflection: Reflection,
    /// What connections are encrypted with; `None` leaves them as they are.
    pub tls: Option<ServerTls>,
    /// Bounds of the documents that tenants put.
    pub documents: DocumentLimits,
    /// Whether callers may end the server.
    pub admin: AdminAccess,
    /// Counts the requests that do not reach the engine; the engine's own observer counts the others.
    pub metrics: Arc<Metrics>,
}

/// The gRPC server of one engine.
pub struct Server {
    router: Router,
    health: HealthReporter,
    gate: Gate,
    pins: Pins,
    handle: EngineHandle,
}

impl Server {
    /// A server over `handle`.
    ///
    /// # Errors
    /// [`ServeError::Reflection`] if the API cannot be described, [`ServeError::Transport`] if the certificates cannot be
    /// used.
    pub fn new(handle: EngineHandle, options: ServerOptions) -> Result<Server, ServeError> {
        let ServerOptions { model, limits, defaults, chat, tenants, reflection, .. } = options;
        let ServerOptions { tls, documents, admin, metrics, .. } = options;
        let registry = Arc::new(Registry::new(documents));
        let gate = Gate::new();
        let engine = EngineApi {
            handle: handle.clone(),
            gate: gate.clone(),
            model: model.clone(),
            default_attention: defaults.exactness.attention(),
            registry: Arc::clone(&registry),
            admin,
            watchers: Watchers::default(),
        };
        let pins = Pins::new(handle.clone(), Arc::clone(&registry));
        let engine_handle = handle.clone();
        let slots = IntakeSlots::new();
        let intake = Intake { handle, model, limits, defaults, chat, slots, metrics, registry };
        let intake = Arc::new(intake);
        let documents = DocumentApi::new(Arc::clone(&intake), pins.clone(), gate.clone());
        let documents = DocumentServiceServer::new(documents)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let generation = GenerationServiceServer::new(GenerationApi { intake, gate: gate.clone() })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let reflection = match reflection {
            Reflection::Serve => Some(
                tonic_reflection::server::Builder::configure()
                    .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                    .build_v1()
                    .map_err(|error| ServeError::Reflection(error.to_string()))?,
            ),
            Reflection::Omit => None,
        };
        let (health, health_service) = health_reporter();
        let mut builder = tonic::transport::Server::builder();
        if let Some(tls) = tls {
            builder = builder.tls_config(tls.config())?;
        }
        let router = builder
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .add_service(health_service)
            .add_service(InterceptedService::new(generation, tenants.clone()))
            .add_service(InterceptedService::new(documents, tenants.clone()))
            .add_service(InterceptedService::new(EngineServiceServer::new(engine), tenants.clone()))
            .add_optional_service(reflection.map(|service| InterceptedService::new(service, tenants)));
        Ok(Server { router, health, gate, pins, handle: engine_handle })
    }

    /// Serves on `listener` until `drain` resolves; then refuses new requests, finishes those in flight and returns.
    /// Dropping the future stops at once.
    ///
    /// # Errors
    /// [`ServeError::Transport`] if the transport fails, [`ServeError::EngineLost`] if the engine ends, its device
    /// being lost or for another reason.
    pub async fn serve(
        self,
        listener: TcpListener,
        drain: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let Server { router, mut health, gate, pins, handle } = self;
        report(&health, ServingStatus::Serving).await;
        let (close, closing) = oneshot::channel::<()>();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving = router.serve_with_incoming_shutdown(incoming, async {
            // Closing is asked for by a message or by the end of this function.
            let _ = closing.await;
        });
        tokio::pin!(serving);
        let result = tokio::select! {
            result = &mut serving => return Ok(result?),
            () = pins.keep() => Ok(()),
            () = drain => Ok(()),
            error = handle.ended() => {
                gate.close(error.clone());
                Err(ServeError::EngineLost(error))
            }
            closing = gate.closed() => match closing {
                Closing::Drain => Ok(()),
                Closing::EngineLost(error) => Err(ServeError::EngineLost(error)),
            },
        };
        gate.drain();
        report(&health, ServingStatus::NotServing).await;
        tokio::select! {
            result = &mut serving => return Ok(result?),
            () = gate.empty() => {}
        }
        let _ = close.send(());
        for name in HEALTH_NAMES {
            // Ends the streams of those who watch it, which would keep their connections open.
            health.clear_service_status(name).await;
        }
        if let Ok(closed) = timeout(CLOSE_TIMEOUT, serving).await {
            closed?;
        }
        result
    }
}

async fn report(health: &HealthReporter, status: ServingStatus) {
    for name in HEALTH_NAMES {
        health.set_service_status(name, status).await;
    }
}
