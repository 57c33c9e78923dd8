//! One request through a server.

use std::fs;
use std::path::Path;

use lazy_attn_proto::{Client, ClientOptions, v1};
use lazy_attn_server::convert::Collector;
use tokio::runtime;

use crate::exit::Failure;

/// Runs `request` on the server at `url` and returns the whole response.
///
/// # Errors
/// The code of the server's refusal, or that of a server that cannot be reached.
pub(crate) fn ask_server(
    url: &str,
    key_file: Option<&Path>,
    request: v1::GenerateRequest,
) -> Result<v1::CollectedResponse, Failure> {
    let options = ClientOptions { url: url.to_owned(), api_key: key_file.map(read_key).transpose()? };
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = Client::connect(options).await?;
        let n = request.sampling.as_ref().and_then(|sampling| sampling.n).unwrap_or(1);
        let mut stream = client.generate(request, None).await?;
        let mut collector = Collector::new(n);
        while let Some(message) = stream.message().await? {
            collector.push(message)?;
        }
        Ok(collector.finish()?)
    })
}

fn read_key(path: &Path) -> Result<String, Failure> {
    let key = fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    Ok(key.trim().to_owned())
}
