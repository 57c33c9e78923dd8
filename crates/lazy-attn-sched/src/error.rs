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
