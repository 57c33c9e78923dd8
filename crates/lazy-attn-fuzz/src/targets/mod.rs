//! The functions under test.

pub(crate) mod request;
pub(crate) mod text;
pub(crate) mod weights;

use std::fmt::Display;

/// An outcome in words.
fn said<T>(result: Result<T, impl Display>) -> String {
    result.map_or_else(|error| error.to_string(), |_| "accepted".to_owned())
}
