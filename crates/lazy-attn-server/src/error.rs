//! Why a server does not run.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use lazy_attn_engine::EngineError;

/// Why a server did not start or ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address can be reached from other machines, and nobody said that this is wanted.
    #[error(
        "{address} can be reached from other machines and the connection is not encrypted; bind a loopback address, \
         encrypt with --tls-cert and --tls-key, or allow it with --insecure-bind"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The system refused the address.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("{} {problem}", file.display())]
    Tls {
        /// Where it stands.
        file: PathBuf,
        /// What is wrong, after the file's name.
        problem: String,
    },
    /// A line of the file of API keys cannot be used.
    #[error("line {line} of the API keys: {problem}")]
    Keys {
        /// The line, counted from 1; 0 for the file as a whole.
        line: usize,
        /// What is wrong and what is expected.
        problem: &'static str,
    },
    /// The secret is too short to be one.
    #[error("the tenant secret has {num_bytes} bytes, but needs at least {min_bytes} random ones", min_bytes = crate::TenantSecret::MIN_BYTES)]
    ShortSecret {
        /// Its length.
        num_bytes: usize,
    },
    /// The system has no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    /// The descriptors of the API cannot be served.
    #[error("the API cannot be described: {0}")]
    Reflection(String),
    /// The transport failed.
    #[error("the gRPC transport failed")]
    Transport(#[from] tonic::transport::Error),
    /// The engine ended while the server ran.
    #[error("{0}; the requests in flight have ended with an error")]
    EngineLost(EngineError),
}
