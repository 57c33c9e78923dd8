//! `EngineService`.

use std::sync::Arc;

use lazy_attn_engine::EngineHandle;
use lazy_attn_proto::MAX_MESSAGE_BYTES;
use lazy_attn_proto::v1::engine_service_server::EngineService;
use lazy_attn_proto::v1::{self, ServerState};
use lazy_attn_types::AttentionMode;
use tonic::{Request, Response, Status};

use super::deadline::Deadline;
use super::gate::Gate;
use super::watch::{WatchStream, Watcher, Watchers};
use crate::convert::{ConvertError, document_attention};
use crate::documents::Registry;
use crate::status;
use crate::tenants::Caller;

/// Whether callers may end the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdminAccess {
    /// They may not: only whoever started the server may.
    #[default]
    Refuse,
    /// Everybody with a key may; without keys, everybody who reaches the server.
    Allow,
}

/// Describes the server.
pub(super) struct EngineApi {
    pub(super) handle: EngineHandle,
    pub(super) gate: Gate,
    pub(super) model: String,
    pub(super) default_attention: AttentionMode,
    pub(super) registry: Arc<Registry>,
    pub(super) admin: AdminAccess,
    pub(super) watchers: Watchers,
}

impl EngineApi {
    fn only_model(&self) -> v1::Model {
        let info = self.handle.executor_info();
        v1::Model {
            name: format!("models/{}", self.model),
            max_context_tokens: info.max_context_tokens,
            vocab_size: info.vocab_size,
            kv_bytes_per_token: info.kv_bytes_per_token,
            default_attention: document_attention(self.default_attention).into(),
        }
    }
}

#[tonic::async_trait]
impl EngineService for EngineApi {
    type WatchKvEventsStream = WatchStream;

    async fn get_server_info(
        &self,
        _request: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::GetServerInfoResponse>, Status> {
        let info = self.handle.executor_info();
        let block_size = info.block_size.get();
        Ok(Response::new(v1::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model: self.model.clone(),
            max_context_tokens: info.max_context_tokens,
            max_step_tokens: info.max_step_tokens,
            vocab_size: info.vocab_size,
            kv_capacity_tokens: u64::from(info.num_blocks) * u64::from(block_size),
            kv_bytes_per_token: info.kv_bytes_per_token,
            block_size,
            default_attention: document_attention(self.default_attention).into(),
            max_message_bytes: u32::try_from(MAX_MESSAGE_BYTES).unwrap_or(u32::MAX),
        }))
    }

    async fn get_load(
        &self,
        _request: Request<v1::GetLoadRequest>,
    ) -> Result<Response<v1::GetLoadResponse>, Status> {
        let stats = self.handle.stats();
        let state = if self.gate.is_open() { ServerState::Serving } else { ServerState::Draining };
        Ok(Response::new(v1::GetLoadResponse {
            state: state.into(),
            sequences_running: stats.sched.running,
            requests_waiting: u32::try_from(stats.sched.waiting).unwrap_or(u32::MAX),
            kv_blocks_total: stats.sched.kv.blocks_total,
            kv_blocks_leased: stats.sched.kv.blocks_leased,
            steps: stats.sched.steps,
            tokens_generated: stats.tokens_generated,
        }))
    }

    async fn list_models(
        &self,
        _request: Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        Ok(Response::new(v1::ListModelsResponse { models: vec![self.only_model()] }))
    }

    async fn get_model(
        &self,
        request: Request<v1::GetModelRequest>,
    ) -> Result<Response<v1::GetModelResponse>, Status> {
        let name = request.into_inner().name;
        let given = name.strip_prefix("models/").filter(|given| !given.is_empty());
        let Some(given) = given else {
            let problem = format!("is {name:?}, but must be `models/` and a name; ListModels gives them");
            return Err(status::of_convert_error(&ConvertError::field("name", problem)));
        };
        if given != self.model {
            let (given, loaded) = (given.to_owned(), self.model.clone());
            return Err(status::of_convert_error(&ConvertError::UnknownModel { given, loaded }));
        }
        Ok(Response::new(v1::GetModelResponse { model: Some(self.only_model()) }))
    }

    async fn watch_kv_events(
        &self,
        request: Request<v1::WatchKvEventsRequest>,
    ) -> Result<Response<WatchStream>, Status> {
        drop(self.gate.enter().map_err(|closing| closing.status())?);
        let deadline = Deadline::of(request.metadata())?;
        let tenant = Caller::of(&request)?;
        let place = self.watchers.enter(tenant)?;
        let (handle, registry) = (self.handle.clone(), Arc::clone(&self.registry));
        let watcher = deadline.bound(Watcher::start(handle, registry, tenant, place)).await?;
        Ok(Response::new(watcher.stream(deadline, self.gate.clone())))
    }

    async fn drain(
        &self,
        _request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        if self.admin == AdminAccess::Refuse {
            return Err(status::admin_refused());
        }
        self.gate.drain();
        let in_flight = u32::try_from(self.gate.num_in_flight()).unwrap_or(u32::MAX);
        Ok(Response::new(v1::DrainResponse { in_flight }))
    }
}
