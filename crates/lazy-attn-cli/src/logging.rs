//! Logs on stderr, for people or for programs. What a request says never goes there, whatever the level.

use std::io;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::args::EngineArgs;
use crate::exit::Failure;

/// What has to be told whatever the level: readiness, draining, the last error.
const ANNOUNCEMENTS: &str = "lazyattn=info";

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object per line
    Json,
}

/// Starts the log of this process, and returns how it is written.
///
/// # Errors
/// Usage, for a level that is none.
pub(crate) fn start(args: &EngineArgs) -> Result<LogFormat, Failure> {
    let level = &args.log_level;
    let is_none = |error| Failure::usage(format!("--log-level {level:?} is not a level or filter: {error}"));
    let filter = EnvFilter::try_new(level).map_err(is_none)?;
    let log = tracing_subscriber::fmt().with_writer(io::stderr);
    match args.log_format {
        LogFormat::Text => log.with_env_filter(filter).init(),
        LogFormat::Json => {
            let filter = filter.add_directive(ANNOUNCEMENTS.parse().map_err(is_none)?);
            // A line names its own span, which is that of its request; the list would be those of the thread.
            let log = log.json().flatten_event(true).with_current_span(true).with_span_list(false);
            log.with_env_filter(filter).init();
        }
    }
    Ok(args.log_format)
}

impl LogFormat {
    /// Tells that the process is at another point of its life.
    pub(crate) fn announce(self, message: &str) {
        match self {
            LogFormat::Text => eprintln!("{message}"),
            LogFormat::Json => tracing::info!(target: "lazyattn", "{message}"),
        }
    }

    /// Tells why the process ends.
    pub(crate) fn fail(self, message: &str) {
        match self {
            LogFormat::Text => eprintln!("error: {message}"),
            LogFormat::Json => tracing::error!(target: "lazyattn", "{message}"),
        }
    }
}
