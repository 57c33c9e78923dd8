//! All names with what they mean. A name that has been published does not change: tests/golden/metrics.txt.

/// Kinds of the exposition format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    /// Without the prefix `lazyattn_`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

macro_rules! families {
    ($($ident:ident $kind:ident $name:literal $help:literal;)*) => {
        $(pub(super) const $ident: Family = Family { name: $name, kind: Kind::$kind, help: $help };)*
    };
}

families! {
    REQUESTS_RUNNING Gauge "requests_running" "Requests of which a sample has started and one has not ended.";
    REQUESTS_WAITING Gauge "requests_waiting" "Requests that wait for admission.";
    REQUESTS Counter "requests_total" "Requests that ended, by how.";
    REJECTIONS Counter "admission_rejections_total" "Requests refused before they ran, by reason.";
    CANCELLED Counter "cancelled_total" "Requests ended before their answer was, by who ended them.";
    PREEMPTIONS Counter "preemptions_total" "Times a sequence gave its private blocks up to others and was computed again.";
    TTFT Histogram "ttft_seconds" "From submitting a request to its first token.";
    INTER_TOKEN Histogram "inter_token_seconds" "Between two tokens of a sequence.";
    E2E Histogram "e2e_seconds" "From submitting a request to the end of its answer.";
    QUEUE Histogram "queue_seconds" "From submitting a request to its admission.";
    PREFILL Histogram "prefill_seconds" "From the admission of a request to its first token.";
    DECODE Histogram "decode_seconds" "From the first token of a request to its last.";
    STEP Histogram "step_duration_seconds" "From planning a step to committing it.";
    BATCH_TOKENS Histogram "batch_tokens" "Tokens of a step.";
    BATCH_SEQUENCES Histogram "batch_sequences" "Sequences of a step.";
    KV_BLOCKS Gauge "kv_blocks_total" "Blocks of the KV pool.";
    KV_BLOCKS_USED Gauge "kv_blocks_used" "Blocks that are leased to requests or hold what is cached.";
    KV_BLOCKS_PINNED Gauge "kv_blocks_pinned" "Blocks of pinned documents.";
    KV_BYTES Gauge "kv_bytes" "Bytes of the used blocks, by tier.";
    KV_EVICTIONS Counter "kv_evictions_total" "Segments evicted, by tier and reason.";
    LOOKUPS Counter "document_lookups_total" "Documents that starting requests need, by where they were found.";
    REUSED_TOKENS Counter "document_reused_tokens_total" "Tokens of the documents that were found.";
    REENCODED_TOKENS Counter "document_reencoded_tokens_total" "Tokens of the documents that were found at another position.";
    COMPUTED_TOKENS Counter "document_computed_tokens_total" "Tokens of the documents that were not.";
    RESIDENT Gauge "documents_resident" "Documents with KV, those being computed included, by tier.";
    DOCUMENT_PREFILL Histogram "document_prefill_seconds" "Computing a document, from its first step to its last.";
    SHARED_FACTOR Gauge "shared_kv_factor" "Document tokens that the last step attended, over the same with each document counted once.";
    GROUP_SIZE Histogram "document_group_size" "Sequences of a step that read the same document.";
    BUILD_INFO Gauge "build_info" "1, with what runs as labels.";
    MODEL_INFO Gauge "model_info" "1, with the model as labels.";
}
