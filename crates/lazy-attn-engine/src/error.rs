//! The error of this crate.

use std::time::Duration;

use lazy_attn_types::ParamError;

/// Why a request was refused or ended early. Never touches another request.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A parameter is outside its range.
    #[error(transparent)]
    Param(#[from] ParamError),
    /// The prompt cannot be built.
    #[error("{field}: {problem}")]
    Invalid {
        /// Path of the field, for example `parts[3]`.
        field: String,
        /// What is wrong, with the numbers, and what to do.
        problem: String,
    },
    /// Prompt and output together are longer than the model's context.
    #[error(
        "the prompt has {prompt_tokens} tokens and {max_tokens} more were asked for, but the model's context is \
         {max_context_tokens}; shorten the documents or lower stopping.max_tokens"
    )]
    ContextTooLong {
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens asked for.
        max_tokens: u32,
        /// Longest context of the model.
        max_context_tokens: u32,
    },
    /// Even an empty pool could not hold the request.
    #[error(
        "the request needs {needed_blocks} KV blocks but the pool has {total_blocks} ({missing} missing); shorten the \
         documents, lower stopping.max_tokens or give the cache more memory",
        missing = needed_blocks - total_blocks
    )]
    NeverFits {
        /// Blocks the request needs.
        needed_blocks: u32,
        /// Blocks of the pool.
        total_blocks: u32,
    },
    /// Too many requests wait already.
    #[error("{waiting} requests are waiting, the most allowed; try again later or raise the queue bound")]
    QueueFull {
        /// Requests waiting.
        waiting: usize,
    },
    /// Too many tokens wait to be computed already.
    #[error(
        "{waiting_tokens} prompt tokens wait to be computed and the request adds {needed_tokens}, but at most \
         {max_tokens} may wait; try again later or raise engine.max_waiting_tokens"
    )]
    BacklogFull {
        /// Tokens waiting.
        waiting_tokens: u64,
        /// Tokens the request adds.
        needed_tokens: u64,
        /// Most that may wait.
        max_tokens: u64,
    },
    /// By the measured pace of prompts, its first token would come after its deadline; it was refused at once.
    #[error("the first token is estimated in {estimate:?}, but the deadline is in {left:?}; try again later")]
    DeadlineUnmeetable {
        /// Time to the first token.
        estimate: Duration,
        /// Time to the deadline.
        left: Duration,
    },
    /// Its deadline passed while it waited or ran.
    #[error("the deadline passed {late:?} ago")]
    DeadlineExceeded {
        /// Time since the deadline.
        late: Duration,
    },
    /// The document is not resident, so it cannot be pinned.
    #[error("the document's KV is not resident, so it cannot be pinned; encode it first")]
    NotResident,
    /// Pins would keep too much of the KV memory.
    #[error(
        "the document needs {needed_blocks} KV blocks and {pinned_blocks} are pinned already, but at most {max_blocks} \
         may be; unpin documents, raise engine.max_pinned_percent or give the cache more memory"
    )]
    PinBound {
        /// Blocks of the document.
        needed_blocks: u32,
        /// Blocks pinned already.
        pinned_blocks: u32,
        /// Most blocks that may be pinned.
        max_blocks: u32,
    },
    /// The executor failed while this request was in its step.
    #[error("{0}")]
    Executor(String),
    /// The executor lost its device, which ended the engine.
    #[error("{0}")]
    DeviceLost(String),
    /// The engine has shut down.
    #[error("the engine has shut down")]
    ShutDown,
}
