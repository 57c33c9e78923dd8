//! Why a request was refused at the edge.

use lazy_attn_types::ParamError;

/// A mistake in a request, with the path of the field in the message.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A sampling, stopping or output parameter is outside its range.
    #[error(transparent)]
    Param(#[from] ParamError),
    /// The request names a model that is not loaded.
    #[error("model is {given:?}, but {loaded:?} is loaded; name that one or leave it out")]
    UnknownModel {
        /// The name in the request.
        given: String,
        /// The name of the loaded model.
        loaded: String,
    },
    /// The request names a document that the tenant has not put.
    #[error(
        "{field} is {name:?}, which is not there: it was never put, was deleted or expired; put it again"
    )]
    UnknownDocument {
        /// Path of the field.
        field: String,
        /// The name in the request.
        name: String,
    },
    /// A field is missing, contradicts another or is outside its bound.
    #[error("{field} {problem}")]
    Field {
        /// Path of the field, for example `parts[3].inline_document.text`.
        field: String,
        /// What is wrong, with the numbers, and what to do: continues the sentence `field ..`.
        problem: String,
    },
}

impl ConvertError {
    pub(crate) fn field(field: impl Into<String>, problem: impl Into<String>) -> ConvertError {
        ConvertError::Field { field: field.into(), problem: problem.into() }
    }

    /// Path of the field that is wrong.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            ConvertError::Param(error) => error.field,
            ConvertError::UnknownModel { .. } => "model",
            ConvertError::UnknownDocument { field, .. } | ConvertError::Field { field, .. } => field,
        }
    }
}
