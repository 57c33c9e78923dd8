//! `generate`: a request in JSON, a response in JSON.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use lazy_attn_proto::{from_json, v1};

use crate::args::{EngineArgs, GenerateArgs};
use crate::ask::ask;
use crate::exit::{Exit, Failure};
use crate::remote::ask_server;
use crate::session::Session;
use crate::ui::{Verbosity, print_json};

/// Largest request: the bound of a prompt, in the longest way JSON can write it.
const MAX_REQUEST_BYTES: u64 = 128 << 20;

pub(crate) fn generate(engine: &EngineArgs, args: &GenerateArgs) -> Result<Exit, Failure> {
    let request: v1::GenerateRequest = from_json(&read(&args.request)?)?;
    let response = match args.server.server {
        Some(_) => ask_server(&args.server, request)?,
        None => ask(&Session::start(engine, Verbosity::Quiet)?, request, Verbosity::Quiet, &mut |_| Ok(()))?,
    };
    print_json(&response)?;
    Ok(Exit::Success)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let is_stdin = path == Path::new("-");
    let name = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
    let cannot_read = |error| Failure::usage(format!("cannot read {name}: {error}"));
    let reader: Box<dyn Read> = match is_stdin {
        true => Box::new(io::stdin()),
        false => Box::new(fs::File::open(path).map_err(cannot_read)?),
    };
    let mut bytes = Vec::new();
    reader.take(MAX_REQUEST_BYTES + 1).read_to_end(&mut bytes).map_err(cannot_read)?;
    if bytes.len() as u64 > MAX_REQUEST_BYTES {
        return Err(Failure::usage(format!(
            "{name} has more than the {MAX_REQUEST_BYTES} bytes of a request"
        )));
    }
    Ok(bytes)
}
