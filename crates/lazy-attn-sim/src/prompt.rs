//! A request of a trace as a submission.

use std::sync::Arc;

use lazy_attn_kv::Scope;
use lazy_attn_sched::Submission;
use lazy_attn_types::{
    AttentionMode, Context, ContextBuilder, Fingerprint, KeySpace, KvPolicy, RequestId, SegmentKind,
    SequenceId, TenantSalt,
};
use lazy_attn_workload::{Trace, TraceHeader, TraceRequest};

use crate::SimError;

/// Only equality of tokens counts here, so any vocabulary does.
const VOCAB_SIZE: u32 = 128_256;

/// The submission of request `index` of `trace`.
pub(crate) fn submission(trace: &Trace, index: usize, policy: KvPolicy) -> Result<Submission, SimError> {
    let request = RequestId(index as u64);
    let scope = if policy == KvPolicy::None { Scope::Private(request) } else { Scope::Shared };
    Ok(Submission {
        request,
        sequences: vec![SequenceId(index as u64)],
        context: Arc::new(context(&trace.header, &trace.requests[index], policy)?),
        max_tokens: trace.header.shape.output_tokens,
        scope,
        tenant: TenantSalt::SINGLE_USER,
        priority: 0,
        deadline: None,
    })
}

fn context(header: &TraceHeader, request: &TraceRequest, policy: KvPolicy) -> Result<Context, SimError> {
    let mode = if policy.inlines_documents() { AttentionMode::Full } else { AttentionMode::Block };
    let keys = KeySpace::new(TenantSalt::SINGLE_USER, Fingerprint([0; 32]));
    let mut builder = ContextBuilder::new(keys, mode);
    for &document in &request.documents {
        builder.push(SegmentKind::Document, header.document_tokens(document, VOCAB_SIZE).into())?;
    }
    builder.push(SegmentKind::Text, header.query_tokens(request.query, VOCAB_SIZE).into())?;
    Ok(builder.finish()?)
}
