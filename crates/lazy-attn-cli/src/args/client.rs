//! What may be written after the commands that can talk to a server.

use std::path::PathBuf;

use clap::Args;

use crate::args::{ExactnessArgs, SamplingArgs};

/// Who answers.
#[derive(Debug, Clone, Args)]
pub(crate) struct RemoteArgs {
    /// Address of a `lazyattn serve` that answers instead of this process, for example http://127.0.0.1:50051
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// File with the API key for the server
    #[arg(long, value_name = "FILE", requires = "server")]
    pub(crate) key_file: Option<PathBuf>,
    /// File with certificates in PEM of the authorities that a server with https is believed to be signed by
    #[arg(long, value_name = "FILE", requires = "server")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// File with this client's certificate and its chain in PEM, for a server that asks for one
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_client_key"])]
    pub(crate) tls_client_cert: Option<PathBuf>,
    /// File with the private key of --tls-client-cert in PEM
    #[arg(long, value_name = "FILE", requires = "tls_client_cert")]
    pub(crate) tls_client_key: Option<PathBuf>,
}

/// Where `serve` listens unless it is told otherwise.
const DEFAULT_URL: &str = "http://127.0.0.1:50051";

impl RemoteArgs {
    /// The server's address.
    pub(crate) fn url(&self) -> &str {
        self.server.as_deref().unwrap_or(DEFAULT_URL)
    }
}

/// `chat`.
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) server: RemoteArgs,
    /// A folder whose .txt and .md files are documents from the start, in the order of their names
    #[arg(long, value_name = "DIR")]
    pub(crate) docs: Option<PathBuf>,
    /// A text file that is a document from the start; may be given again
    #[arg(long = "doc", value_name = "FILE")]
    pub(crate) doc: Vec<PathBuf>,
    /// Instructions to the model
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) exactness: ExactnessArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}
