//! What can go wrong.

/// Why a store, a plan or a call was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttnError {
    /// A size is outside what the kernels support.
    #[error("{what} is {value}, but {rule}")]
    Unsupported {
        /// The size.
        what: &'static str,
        /// What it was.
        value: u64,
        /// What it may be.
        rule: &'static str,
    },
    /// Two arguments disagree.
    #[error("{what} is {got}, but the call needs {want}")]
    Mismatch {
        /// The size.
        what: &'static str,
        /// What it was.
        got: u64,
        /// What it has to be.
        want: u64,
    },
    /// A device failed.
    #[error("the device failed while {action}: {reason}")]
    Device {
        /// What was asked of it.
        action: &'static str,
        /// What it answered.
        reason: String,
    },
    /// The KV store does not fit into memory.
    #[error(
        "cannot allocate {bytes} bytes for the KV store: {reason}; use fewer blocks or a smaller KV dtype"
    )]
    OutOfMemory {
        /// Bytes asked for.
        bytes: u128,
        /// What the system said.
        reason: String,
    },
}

impl AttnError {
    /// Checks that a size is what the call needs.
    pub(crate) fn check_size(what: &'static str, got: usize, want: usize) -> Result<(), AttnError> {
        if got == want {
            return Ok(());
        }
        Err(AttnError::Mismatch { what, got: got as u64, want: want as u64 })
    }
}
