//! Exit codes, and errors that carry one.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | a check failed: a wrong answer in `demo`, a finding in `doctor`; `serve` was stopped with requests in flight |
//! | 2 | usage or bad input: an argument, a file or a request |
//! | 3 | the model cannot be loaded |
//! | 4 | the request does not fit the model's context, the KV memory, the queue or its deadline |
//! | 5 | internal: the executor or the engine failed |
//! | 6 | the server cannot be reached, is draining or ended the request |

use std::error::Error;
use std::fmt::Display;
use std::io;
use std::iter;
use std::process::ExitCode;

use lazy_attn_engine::EngineError;
use lazy_attn_eval::EvalError;
use lazy_attn_models::ModelError;
use lazy_attn_proto::{ClientError, JsonError};
use lazy_attn_server::ServeError;
use lazy_attn_server::convert::{CollectError, ConvertError};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Success = 0,
    /// A check failed.
    Failed = 1,
    /// Usage or bad input.
    Usage = 2,
    /// The model cannot be loaded.
    Model = 3,
    /// The request does not fit.
    TooLarge = 4,
    /// Our fault.
    Internal = 5,
    /// The server did not answer the request.
    Server = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command ended early, and with which code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// `None` if there is nobody to tell: the reader of our output went away.
    pub(crate) error: Option<anyhow::Error>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Display) -> Failure {
        Failure { exit, error: Some(anyhow::anyhow!("{message}")) }
    }

    pub(crate) fn usage(message: impl Display) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    fn caused(exit: Exit, error: impl Error + Send + Sync + 'static) -> Failure {
        Failure { exit, error: Some(error.into()) }
    }

    /// The message with its causes, on one line. A cause that the message repeats already is left out.
    pub(crate) fn line(&self) -> Option<String> {
        let error = self.error.as_ref()?;
        let mut line = error.to_string();
        for cause in error.chain().skip(1) {
            let cause = cause.to_string();
            if !line.contains(&cause) {
                line = format!("{line}: {cause}");
            }
        }
        Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

impl From<io::Error> for Failure {
    /// Errors of our own output; files are read with their name in the message.
    fn from(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure { exit: Exit::Success, error: None };
        }
        Failure::caused(Exit::Internal, error)
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Failure {
        Failure::caused(Exit::Model, error)
    }
}

impl From<ConvertError> for Failure {
    fn from(error: ConvertError) -> Failure {
        Failure::caused(Exit::Usage, error)
    }
}

impl From<JsonError> for Failure {
    fn from(error: JsonError) -> Failure {
        let exit = if matches!(error, JsonError::Print { .. }) { Exit::Internal } else { Exit::Usage };
        Failure::caused(exit, error)
    }
}

impl From<CollectError> for Failure {
    fn from(error: CollectError) -> Failure {
        Failure::caused(Exit::Internal, error)
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        let exit = match error {
            EngineError::Param(_) | EngineError::Invalid { .. } => Exit::Usage,
            EngineError::ContextTooLong { .. }
            | EngineError::NeverFits { .. }
            | EngineError::QueueFull { .. }
            | EngineError::BacklogFull { .. }
            | EngineError::DeadlineUnmeetable { .. }
            | EngineError::DeadlineExceeded { .. } => Exit::TooLarge,
            _ => Exit::Internal,
        };
        Failure::caused(exit, error)
    }
}

impl From<EvalError> for Failure {
    fn from(error: EvalError) -> Failure {
        let exit = match &error {
            EvalError::Engine { source, .. } | EvalError::NoneFits { last: source, .. } => {
                Failure::from(source.clone()).exit
            }
            _ => Exit::Usage,
        };
        Failure::caused(exit, error)
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Failure {
        let exit = match error {
            ServeError::NotLoopback { .. }
            | ServeError::Bind { .. }
            | ServeError::Keys { .. }
            | ServeError::Tls { .. }
            | ServeError::ShortSecret { .. } => Exit::Usage,
            _ => Exit::Internal,
        };
        Failure::caused(exit, error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let exit = if matches!(error, ClientError::Connect { .. }) { Exit::Server } else { Exit::Usage };
        Failure::caused(exit, error)
    }
}

impl From<Status> for Failure {
    /// The code that the same mistake has without a server.
    fn from(status: Status) -> Failure {
        // What the server answers has no source: this one is made here, of a connection that broke.
        if let Some(source) = status.source() {
            let causes: Vec<_> = iter::successors(Some(source), |error| (*error).source()).collect();
            let causes: Vec<_> = causes.iter().map(ToString::to_string).collect();
            return Failure::new(Exit::Server, format!("the connection failed: {}", causes.join(": ")));
        }
        let details = status.get_error_details();
        let reason = details.error_info().map_or("", |info| info.reason.as_str());
        let exit = exit_of_status(status.code(), reason);
        Failure::new(exit, format!("the server answered: {}", status.message()))
    }
}

/// The code of a refusal, by the server's status and the reason it gives to programs.
pub(crate) fn exit_of_status(code: Code, reason: &str) -> Exit {
    match (code, reason) {
        (Code::ResourceExhausted | Code::DeadlineExceeded, _) | (_, "CONTEXT_TOO_LONG" | "KV_NEVER_FITS") => {
            Exit::TooLarge
        }
        (Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::OutOfRange, _)
        | (Code::Unauthenticated | Code::PermissionDenied, _) => Exit::Usage,
        (Code::Unavailable | Code::Cancelled, _) => Exit::Server,
        _ => Exit::Internal,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_refusal_of_the_server_ends_with_the_code_it_has_without_one() {
        for error in [
            EngineError::NeverFits { needed_blocks: 2, total_blocks: 1 },
            EngineError::QueueFull { waiting: 1 },
            EngineError::BacklogFull { waiting_tokens: 9, needed_tokens: 2, max_tokens: 10 },
            EngineError::DeadlineUnmeetable {
                estimate: Duration::from_secs(2),
                left: Duration::from_secs(1),
            },
            EngineError::DeadlineExceeded { late: Duration::from_secs(1) },
            EngineError::Invalid { field: "parts".into(), problem: "x".into() },
            EngineError::Executor("x".into()),
        ] {
            let status = lazy_attn_server::status::of_engine_error(&error);
            assert_eq!(Failure::from(status).exit, Failure::from(error.clone()).exit, "{error}");
        }
        assert_eq!(Failure::from(Status::unavailable("x")).exit, Exit::Server);
    }

    #[test]
    fn a_connection_that_broke_is_no_answer_of_the_server() {
        let broken = io::Error::new(io::ErrorKind::InvalidData, "received fatal alert: CertificateRequired");
        let failure = Failure::from(Status::from_error(broken.into()));
        assert_eq!(failure.exit, Exit::Server);
        assert!(failure.line().unwrap().ends_with("CertificateRequired"));
    }

    #[test]
    fn each_engine_error_ends_with_the_code_of_its_kind() {
        let cases = [
            (EngineError::NeverFits { needed_blocks: 2, total_blocks: 1 }, Exit::TooLarge),
            (EngineError::Invalid { field: "parts".into(), problem: "x".into() }, Exit::Usage),
            (EngineError::Executor("x".into()), Exit::Internal),
            (EngineError::DeviceLost("x".into()), Exit::Internal),
            (EngineError::ShutDown, Exit::Internal),
        ];
        for (error, exit) in cases {
            assert_eq!(Failure::from(error.clone()).exit, exit, "{error}");
        }
    }

    #[test]
    fn a_failure_prints_on_one_line_without_repeating_its_cause() {
        let source = io::Error::new(io::ErrorKind::NotFound, "no such\nfile");
        let error = ModelError::Io { path: "m.gguf".into(), source };
        assert_eq!(Failure::from(error).line().unwrap(), "cannot read m.gguf: no such file");
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit, failure.line()), (Exit::Success, None));
    }
}
