//! `EngineService`.

use lazy_attn_engine::EngineHandle;
use lazy_attn_proto::MAX_MESSAGE_BYTES;
use lazy_attn_proto::v1::engine_service_server::EngineService;
use lazy_attn_proto::v1::{self, ServerState};
use lazy_attn_types::AttentionMode;
use tonic::{Request, Response, Status};

use super::gate::Gate;
use crate::convert::document_attention;

/// Describes the server.
pub(super) struct EngineApi {
    pub(super) handle: EngineHandle,
    pub(super) gate: Gate,
    pub(super) model: String,
    pub(super) default_attention: AttentionMode,
}

#[tonic::async_trait]
impl EngineService for EngineApi {
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
}
