//! The settings of `serve`.
//!
//! A field here (or in [`EngineArgs`](crate::args::EngineArgs), for every command) is all that a setting takes: its flag,
//! its environment variable, its key in a file, its default and its line in `docs/serving.md` are read off it. A setting
//! never demands another one on the command line: that one may come from the environment or a file.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::{ArgAction, Args};

use crate::args::ByteSize;

/// `serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(crate) host: IpAddr,
    /// Port of the gRPC service; 0 takes any free one
    #[arg(long, value_name = "PORT", default_value_t = 50051)]
    pub(crate) grpc_port: u16,
    /// Port that answers `GET /metrics` for Prometheus, without a key; off unless given, 0 takes any free one
    #[arg(long, value_name = "PORT")]
    pub(crate) metrics_port: Option<u16>,
    /// Address that the port of metrics is on; they are never encrypted
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(crate) metrics_host: IpAddr,
    /// File with the server's certificate and its chain in PEM, leaf first; connections are encrypted
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// File with the certificate's private key in PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// File with certificates of authorities in PEM; only clients with a certificate of theirs may connect
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_client_ca: Option<PathBuf>,
    /// Listen on an address that other machines can reach, although nothing is encrypted
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    pub(crate) insecure_bind: bool,
    /// Let tools ask for the API's description on an address that other machines can reach
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    pub(crate) grpc_reflection: bool,
    /// File with lines `tenant:HASH`, HASH being the BLAKE3 of an API key in hexadecimal; without it everybody is one tenant
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// File with at least 32 random bytes from which tenants' salts are derived; new ones at every start without it
    #[arg(long, value_name = "FILE")]
    pub(crate) tenant_secret_file: Option<PathBuf>,
    /// Name of the model in requests, answers and metrics; that of its file if absent
    #[arg(long, value_name = "NAME")]
    pub(crate) served_model_name: Option<String>,
    /// Let everybody who may ask also end the server (`Drain`)
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    pub(crate) allow_drain: bool,
    #[command(flatten)]
    pub(crate) bounds: BoundArgs,
    #[command(flatten)]
    pub(crate) documents: DocumentArgs,
}

/// What registered documents can take.
#[derive(Debug, Args)]
#[command(next_help_heading = "Registered documents")]
pub(crate) struct DocumentArgs {
    /// Most registered documents of one tenant
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_documents: u32,
    /// Most memory for the tokens of one tenant's registered documents
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub(crate) tenant_document_memory: ByteSize,
    /// Most memory for the tokens of all registered documents
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub(crate) document_memory: ByteSize,
    /// Most tokens of documents that one tenant may pin; only --max-pinned-percent bounds them if absent
    #[arg(long, value_name = "N")]
    pub(crate) max_pinned_tokens: Option<u64>,
    /// After how many seconds a document that names no time is forgotten; never if absent
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) document_ttl: Option<u64>,
}

/// What requests can take together.
#[derive(Debug, Args)]
#[command(next_help_heading = "Bounds")]
pub(crate) struct BoundArgs {
    /// Longest prompt and answer together in tokens; what the model was made for if absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) max_model_len: Option<u32>,
    /// Most sequences that run at once; must stay below --max-num-batched-tokens
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_num_seqs: u32,
    /// Most requests that wait; more are refused at once
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_num_queued_reqs: u32,
    /// Most prompt tokens to compute that wait, each document counted once; more are refused at once
    #[arg(long, value_name = "N", default_value_t = 1 << 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_num_queued_tokens: u64,
    /// Most of the KV memory, in percent, that pinned documents may keep
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(..=100))]
    pub(crate) max_pinned_percent: u32,
    /// From it and a request's number the seed of a request that brings none is made
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
}
