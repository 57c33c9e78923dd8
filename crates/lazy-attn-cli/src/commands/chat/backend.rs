//! Who answers: an engine in this process, or a server.

use lazy_attn_engine::{EngineHandle, RequestStream};
use lazy_attn_proto::{Client, v1};
use lazy_attn_server::convert::{Converted, Reply};
use tokio::runtime::Runtime;
use tonic::Streaming;

use crate::args::{EngineArgs, RemoteArgs};
use crate::ask;
use crate::exit::Failure;
use crate::remote;
use crate::session::Session;
use crate::ui::Verbosity;

/// An engine or a server.
pub(super) enum Backend {
    Local(Box<Session>),
    Remote { client: Box<Client>, name: String },
}

impl Backend {
    /// Loads the model of `engine`, or connects to the server of `server`.
    pub(super) fn start(
        engine: &EngineArgs,
        server: &RemoteArgs,
        runtime: &Runtime,
    ) -> Result<Backend, Failure> {
        if server.server.is_none() {
            return Ok(Backend::Local(Box::new(Session::start(engine, Verbosity::Normal)?)));
        }
        runtime.block_on(async {
            let mut client = remote::connect(server).await?;
            let info = client.server_info().await?;
            Ok(Backend::Remote {
                client: Box::new(client),
                name: format!("{} at {}", info.model, server.url()),
            })
        })
    }

    /// Who a person talks to.
    pub(super) fn name(&self) -> &str {
        match self {
            Backend::Local(session) => &session.model.name,
            Backend::Remote { name, .. } => name,
        }
    }

    /// Starts `request`.
    pub(super) async fn generate(&mut self, request: v1::GenerateRequest) -> Result<Events, Failure> {
        match self {
            Backend::Local(session) => {
                let Converted { request, reply, .. } = ask::convert(session, request)?;
                Ok(Events::Local { stream: session.handle().submit(request)?, reply: Box::new(reply) })
            }
            Backend::Remote { client, .. } => {
                Ok(Events::Remote(Box::new(client.generate(request, None).await?)))
            }
        }
    }

    /// The engine, if it is in this process.
    pub(super) fn engine(&self) -> Option<EngineHandle> {
        match self {
            Backend::Local(session) => Some(session.handle()),
            Backend::Remote { .. } => None,
        }
    }
}

/// The events of one answer; dropping them cancels it.
pub(super) enum Events {
    Local { stream: RequestStream, reply: Box<Reply> },
    Remote(Box<Streaming<v1::GenerateResponse>>),
}

impl Events {
    /// `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<v1::GenerateResponse>, Failure> {
        match self {
            Events::Local { stream, reply } => match stream.next().await {
                Some(event) => Ok(Some(reply.message(event)?)),
                None => Ok(None),
            },
            Events::Remote(stream) => Ok(stream.message().await?),
        }
    }
}
