//! The `lazyattn.v1` API: generated messages with their JSON form.
//!
//! Reading order: `proto/lazyattn/v1/*.proto` (every field is documented there), [`v1`] the code made from it,
//! [`json`] reading and printing messages with errors a person can act on.

mod enum_names;
pub mod json;
pub mod v1;

pub use json::{JsonError, from_json, to_json};
pub use v1::FILE_DESCRIPTOR_SET;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
