//! The error of this crate.

/// Why a request was refused, or a configuration is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchedError {
    /// The blocks it needs can never be free.
    #[error(
        "the request needs {needed} KV blocks but only {total} can ever be free for it; shorten the documents, lower \
         the tokens to generate, unpin documents or give the cache more memory"
    )]
    NeverFits {
        /// Blocks the request needs.
        needed: u32,
        /// Blocks that can be free for it: the pool without what is pinned.
        total: u32,
    },
    /// Too many requests wait already.
    #[error("{waiting} requests are waiting, the most allowed; try again later or raise `max_waiting`")]
    QueueFull {
        /// Requests waiting.
        waiting: usize,
    },
    /// Too many tokens wait to be computed already.
    #[error(
        "{waiting_tokens} prompt tokens wait to be computed and the request adds {needed_tokens}, but at most \
         {max_tokens} may wait; try again later or raise `max_waiting_tokens`"
    )]
    BacklogFull {
        /// Tokens waiting.
        waiting_tokens: u64,
        /// Tokens the request adds.
        needed_tokens: u64,
        /// Most that may wait.
        max_tokens: u64,
    },
    /// By the measured pace of prompts, its first token comes after its deadline.
    #[error(
        "the first token is estimated in {estimate_micros} us ({tokens_ahead} prompt tokens at the measured pace), but \
         the deadline is in {left_micros} us; try again later or with more time"
    )]
    DeadlineUnmeetable {
        /// Time to the first token.
        estimate_micros: u64,
        /// Prompt tokens computed until then, its own included.
        tokens_ahead: u64,
        /// Time to the deadline.
        left_micros: u64,
    },
    /// Its deadline passed.
    #[error("the deadline passed {late_micros} us ago")]
    DeadlineExceeded {
        /// Time since the deadline.
        late_micros: u64,
    },
    /// A bound that cannot work.
    #[error("{field} is {value}, but must be {allowed}")]
    Config {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What would work.
        allowed: &'static str,
    },
}
