//! Reading and printing messages as JSON, with errors that name the field and the place.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a text is not the JSON of a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The bytes are not UTF-8.
    #[error("the JSON is not UTF-8 from byte {valid_up_to} on; convert the file to UTF-8")]
    NotUtf8 {
        /// Bytes before the first bad one.
        valid_up_to: usize,
    },
    /// The text is not JSON.
    #[error("not valid JSON: {problem}")]
    Syntax {
        /// What is wrong, with line and column.
        problem: String,
    },
    /// The JSON is not that of the message.
    #[error("{field}: {problem}")]
    Field {
        /// Path of the field, for example `parts[3].inlineDocument`, or `request` for the whole.
        field: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// A message holds a value that JSON cannot express.
    #[error("the message cannot be printed as JSON: {problem}")]
    Print {
        /// What is wrong.
        problem: String,
    },
}

/// Reads a message.
///
/// # Errors
/// [`JsonError`] if `bytes` is not UTF-8, not JSON, or has a field that is unknown, given twice or of the wrong type.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| JsonError::NotUtf8 { valid_up_to: error.valid_up_to() })?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let message = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        explain(path, error.inner())
    })?;
    reader.end().map_err(|error| JsonError::Syntax { problem: error.to_string() })?;
    Ok(message)
}

/// Prints a message on one line.
///
/// # Errors
/// [`JsonError::Print`] if the message holds an enum number without a name.
pub fn to_json<T: Serialize>(message: &T) -> Result<String, JsonError> {
    serde_json::to_string(message).map_err(|error| JsonError::Print { problem: error.to_string() })
}

fn explain(path: String, error: &serde_json::Error) -> JsonError {
    if error.is_syntax() || error.is_eof() {
        return JsonError::Syntax { problem: error.to_string() };
    }
    // A mistake in the outermost message has no path of its own.
    let field = if path.is_empty() || path == "." || path == "?" { "request".to_owned() } else { path };
    // Numbers are read through an untagged enum (JSON allows them as strings too), whose message helps nobody.
    let problem = error.to_string().replace(
        "data did not match any variant of untagged enum Content",
        "the value is not a number in the range of this field",
    );
    JsonError::Field { field, problem }
}
