//! The `lazyattn.v1` API: generated messages with their JSON form, and with the feature `grpc` services and a client.
//!
//! Reading order: `proto/lazyattn/v1/*.proto` (every field is documented there), [`v1`] the code made from it,
//! [`json`] reading and printing messages with errors a person can act on, `client` (feature `grpc`) a connection to a
//! server.

#[cfg(feature = "grpc")]
pub mod client;
mod enum_names;
pub mod json;
mod limits;
pub mod v1;

#[cfg(feature = "grpc")]
pub use client::{Client, ClientError, ClientIdentity, ClientOptions, ClientTls};
pub use json::{JsonError, from_json, to_json};
pub use limits::MAX_MESSAGE_BYTES;
/// The well-known types in the fields of messages.
pub use pbjson_types::{Duration, FieldMask, Timestamp};
pub use v1::FILE_DESCRIPTOR_SET;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
