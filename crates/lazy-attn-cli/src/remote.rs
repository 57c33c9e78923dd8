//! A server instead of an engine of our own.

use std::path::Path;
use std::{fs, io};

use lazy_attn_proto::{Client, ClientIdentity, ClientOptions, ClientTls, v1};
use lazy_attn_server::convert::Collector;
use lazy_attn_server::{Authorities, Identity};
use tokio::runtime::{self, Runtime};

use crate::args::RemoteArgs;
use crate::exit::Failure;

/// Runs `request` on a server and returns the whole response.
///
/// # Errors
/// The code of the server's refusal, or that of a server that cannot be reached.
pub(crate) fn ask_server(
    server: &RemoteArgs,
    request: v1::GenerateRequest,
) -> Result<v1::CollectedResponse, Failure> {
    runtime()?.block_on(async {
        let mut client = connect(server).await?;
        let n = request.sampling.as_ref().and_then(|sampling| sampling.n).unwrap_or(1);
        let mut stream = client.generate(request, None).await?;
        let mut collector = Collector::new(n);
        while let Some(message) = stream.message().await? {
            collector.push(message)?;
        }
        Ok(collector.finish()?)
    })
}

/// What a command with one connection needs.
pub(crate) fn runtime() -> io::Result<Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

/// A connection to a server.
///
/// # Errors
/// [`Exit::Usage`](crate::exit::Exit) for files that cannot be used or an address that is none,
/// [`Exit::Server`](crate::exit::Exit) if nobody answers.
pub(crate) async fn connect(server: &RemoteArgs) -> Result<Client, Failure> {
    let api_key = server.key_file.as_deref().map(read_key).transpose()?;
    let options = ClientOptions { url: server.url().to_owned(), api_key, tls: tls(server)? };
    Ok(Client::connect(options).await?)
}

fn tls(server: &RemoteArgs) -> Result<Option<ClientTls>, Failure> {
    let Some(authorities) = &server.tls_ca else { return Ok(None) };
    let authority_pem = Authorities::load(authorities)?.into_pem();
    let identity = server.tls_client_cert.as_deref().zip(server.tls_client_key.as_deref());
    let identity = identity.map(|(certificate, key)| Identity::load(certificate, key)).transpose()?;
    let identity = identity.map(|identity| {
        let (certificate_pem, key_pem) = identity.into_pem();
        ClientIdentity { certificate_pem, key_pem }
    });
    Ok(Some(ClientTls { authority_pem, identity }))
}

fn read_key(path: &Path) -> Result<String, Failure> {
    let key = fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    Ok(key.trim().to_owned())
}
