//! Why the registry refused.

/// A refusal; the registry is as it was before the call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// A field is outside its bound.
    #[error("{field} {problem}")]
    Field {
        /// Path of the field.
        field: String,
        /// What is wrong, with the numbers, and what to do: continues the sentence `field ..`.
        problem: String,
    },
    /// The tenant has no such document; another tenant's is answered in the same way.
    #[error("{name} is not there: it was never put, was deleted or expired; put it again")]
    NotFound {
        /// The name that was asked for.
        name: String,
    },
    /// Somebody changed the document meanwhile.
    #[error("{name} has the etag {current}, not {given}: it changed meanwhile; read it again")]
    EtagMismatch {
        /// The document.
        name: String,
        /// The etag in the request.
        given: String,
        /// Its etag.
        current: String,
    },
    /// Running requests use it.
    #[error(
        "{name} is used by {num_users} running sequences; wait for them, or delete it with force (they go on)"
    )]
    InUse {
        /// The document.
        name: String,
        /// Sequences that read its KV.
        num_users: u32,
    },
    /// A bound of the tenant or of the server is reached.
    #[error(
        "{what} would be {needed}, at most {max} are allowed; delete documents, unpin some or let them expire"
    )]
    Quota {
        /// What is bounded.
        what: &'static str,
        /// What the request would bring it to.
        needed: u64,
        /// The bound.
        max: u64,
    },
}

impl DocumentError {
    pub(crate) fn field(field: impl Into<String>, problem: impl Into<String>) -> DocumentError {
        DocumentError::Field { field: field.into(), problem: problem.into() }
    }
}
