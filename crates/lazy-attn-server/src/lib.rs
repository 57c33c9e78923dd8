//! The gRPC service over an engine handle, and conversion between the `lazyattn.v1` API and the engine.
//!
//! Reading order:
//!
//! * [`convert`]: messages to engine requests (validated), engine events to messages.
//! * [`status`]: errors to gRPC statuses with machine-readable details.
//! * [`tenants`]: API keys, and the salt that keeps one tenant's documents from another.
//! * [`documents`]: documents as resources.
//! * [`metrics`]: what the engine did, for Prometheus.
//! * [`grpc`]: the services, deadlines, drain, and [`Server`] which puts them together.

pub mod convert;
pub mod documents;
mod error;
pub mod grpc;
pub mod metrics;
pub mod status;
pub mod tenants;

pub use documents::DocumentLimits;
pub use error::ServeError;
pub use grpc::{
    AdminAccess, Authorities, Exposure, Identity, Reflection, Server, ServerOptions, ServerTls, bind,
};
pub use metrics::{Metrics, serve_metrics};
pub use tenants::{ApiKeys, TenantSecret, Tenants};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
