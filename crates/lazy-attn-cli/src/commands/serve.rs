//! `serve`: the engine behind gRPC.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use lazy_attn_engine::EngineConfig;
use lazy_attn_server::convert::{Defaults, Limits};
use lazy_attn_server::{
    AdminAccess, ApiKeys, Authorities, DocumentLimits, Exposure, Identity, Reflection, Server, ServerOptions,
    ServerTls, TenantSecret, Tenants, bind, serve_metrics,
};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::args::EngineArgs;
use crate::backend::least_step_tokens;
use crate::config::{BoundArgs, DocumentArgs, ServeArgs};
use crate::exit::{Exit, Failure};
use crate::logging::LogFormat;
use crate::session::{Session, Tuning};
use crate::ui::Verbosity;

pub(crate) fn serve(engine: &EngineArgs, args: &ServeArgs) -> Result<Exit, Failure> {
    // Whatever can be wrong with the options is found before the model is loaded.
    let tuning = tuning(engine, args)?;
    let tenants = tenants(args)?;
    let runtime = Runtime::new()?;
    let address = SocketAddr::new(args.host, args.grpc_port);
    let tls = tls(args)?;
    let exposed = exposure(args.insecure_bind || tls.is_some());
    let scheme = if tls.is_some() { "https" } else { "http" };
    let listener = runtime.block_on(bind(address, exposed))?;
    let metrics_address = args.metrics_port.map(|port| SocketAddr::new(args.metrics_host, port));
    // Metrics are never encrypted, so certificates are no leave to show them to other machines.
    let metrics_listener = metrics_address.map(|address| bind(address, exposure(args.insecure_bind)));
    let metrics_listener = metrics_listener.map(|binding| runtime.block_on(binding)).transpose()?;
    let is_described = args.host.is_loopback() || args.grpc_reflection;
    // Bars are for people.
    let log = engine.log_format;
    let verbosity = if log == LogFormat::Text { Verbosity::Normal } else { Verbosity::Quiet };
    let session = Session::tuned(engine, tuning, verbosity)?;
    let server = Server::new(
        session.handle(),
        ServerOptions {
            model: session.model.name.clone(),
            limits: Limits::default(),
            defaults: Defaults::default(),
            chat: session.templates.clone(),
            tenants,
            reflection: if is_described { Reflection::Serve } else { Reflection::Omit },
            tls,
            documents: document_limits(&args.documents),
            admin: if args.allow_drain { AdminAccess::Allow } else { AdminAccess::Refuse },
            metrics: session.metrics.clone(),
        },
    )?;
    let info = session.executor_info();
    let kv_tokens = u64::from(info.num_blocks) * u64::from(info.block_size.get());
    let metrics = match metrics_listener {
        Some(listener) => {
            let address = listener.local_addr()?;
            // Goes on while the server drains, and ends with the process.
            runtime.spawn(serve_metrics(listener, session.metrics.clone()));
            format!("metrics on http://{address}/metrics, ")
        }
        None => String::new(),
    };
    let ready = format!(
        "ready: model {}, {}, KV {kv_tokens} tokens, {metrics}gRPC on {scheme}://{}",
        session.model.name,
        session.model.place,
        listener.local_addr()?
    );
    log.announce(&ready);
    let result = runtime.block_on(run(server, listener, log));
    // Connections that did not close in time end with the process.
    runtime.shutdown_background();
    result
}

fn tuning(engine: &EngineArgs, args: &ServeArgs) -> Result<Tuning, Failure> {
    let BoundArgs { max_model_len, max_num_seqs, max_num_queued_reqs, .. } = args.bounds;
    // A step must have room for one token of every running sequence and one more.
    let max_step_tokens = least_step_tokens(engine);
    if max_num_seqs >= max_step_tokens {
        return Err(Failure::usage(format!(
            "--max-num-seqs is {max_num_seqs}, but must stay below --max-num-batched-tokens, which is {max_step_tokens}; \
             lower it or raise the other"
        )));
    }
    let usual = Tuning::of(engine);
    Ok(Tuning {
        engine: EngineConfig {
            max_running: max_num_seqs,
            max_waiting: max_num_queued_reqs as usize,
            max_waiting_tokens: args.bounds.max_num_queued_tokens,
            max_pinned_percent: args.bounds.max_pinned_percent,
            seed: args.bounds.seed,
            ..usual.engine
        },
        served_name: args.served_model_name.clone(),
        max_context_tokens: max_model_len,
    })
}

fn document_limits(args: &DocumentArgs) -> DocumentLimits {
    let default = DocumentLimits::default();
    DocumentLimits {
        max_documents: args.max_documents as usize,
        max_tenant_bytes: args.tenant_document_memory.0,
        max_total_bytes: args.document_memory.0,
        max_pinned_tokens: args.max_pinned_tokens.unwrap_or(default.max_pinned_tokens),
        default_ttl: args.document_ttl.map(Duration::from_secs).or(default.default_ttl),
        ..default
    }
}

async fn run(server: Server, listener: TcpListener, log: LogFormat) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let (drain, draining) = oneshot::channel();
    let serving = server.serve(listener, async {
        // A sender that is gone asks for the same.
        let _: Result<(), _> = draining.await;
    });
    tokio::pin!(serving);
    tokio::select! {
        result = &mut serving => return Ok(result.map(|()| Exit::Success)?),
        () = signals.next() => {}
    }
    log.announce("draining: requests in flight finish, new ones are refused; a second signal stops at once");
    drop(drain);
    tokio::select! {
        result = &mut serving => Ok(result.map(|()| Exit::Success)?),
        () = signals.next() => {
            log.announce("stopped with requests in flight");
            Ok(Exit::Failed)
        }
    }
}

/// The signals that ask a server to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Signals, Failure> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn exposure(is_allowed: bool) -> Exposure {
    if is_allowed { Exposure::Anywhere } else { Exposure::LoopbackOnly }
}

fn tls(args: &ServeArgs) -> Result<Option<ServerTls>, Failure> {
    match (&args.tls_cert, &args.tls_key, &args.tls_client_ca) {
        (None, None, None) => Ok(None),
        (Some(certificate), Some(key), authorities) => Ok(Some(ServerTls {
            identity: Identity::load(certificate, key)?,
            client_authorities: authorities.as_deref().map(Authorities::load).transpose()?,
        })),
        (certificate, ..) => {
            let missing = if certificate.is_none() { "--tls-cert" } else { "--tls-key" };
            Err(Failure::usage(format!("an encrypted server needs {missing} FILE as well")))
        }
    }
}

fn tenants(args: &ServeArgs) -> Result<Tenants, Failure> {
    let keys = match &args.api_key_file {
        Some(path) => Some(ApiKeys::parse(&String::from_utf8_lossy(&read(path)?))?),
        None => None,
    };
    let secret = match &args.tenant_secret_file {
        Some(path) => TenantSecret::from_bytes(&read(path)?)?,
        None => TenantSecret::random()?,
    };
    Ok(Tenants::new(secret, keys))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn the_defaults_are_those_of_the_engine_and_the_server() {
        let cli = Cli::parse_from(["lazyattn", "serve"]);
        let Command::Serve(args) = &cli.command else { panic!("{cli:?}") };
        assert_eq!(tuning(&cli.engine, args).unwrap().engine, EngineConfig::default());
        assert_eq!(document_limits(&args.documents), DocumentLimits::default());
    }
}
