//! Plays traces of requests against an engine or a server and measures what their readers see.
//!
//! Reading order:
//!
//! * [`record`]: what is noted of one request while it runs.
//! * [`contender`]: what is compared.
//! * [`endpoint`]: whatever answers requests; an engine of this process is one.
//! * [`mod@play`]: sends the requests of a trace, at their times or by clients that wait for answers.
//! * [`lend`]: one executor, with its weights, for one engine after the other.
//! * [`meter`]: what the engine tells that a reader cannot see.
//! * [`offline`]: one trace under one policy on a lent executor.
//! * [`summary`]: many samples as a few numbers.
//! * [`report`]: the figures as JSON, in the names of `vllm bench serve` where they mean the same.
//! * [`agreement`]: whether contenders that compute the same choose the same tokens.
//! * [`error`]: the one error of this crate.

pub mod agreement;
pub mod contender;
pub mod endpoint;
pub mod error;
pub mod lend;
pub mod meter;
pub mod offline;
pub mod play;
pub mod record;
pub mod report;
pub mod summary;

pub use agreement::Agreement;
pub use contender::Contender;
pub use endpoint::{Endpoint, EngineEndpoint, Prompt};
pub use error::BenchError;
pub use lend::LentExecutor;
pub use meter::{Meter, Sharing};
pub use offline::{Offline, Played};
pub use play::{PlayOptions, play};
pub use record::{DocumentOutcome, DocumentUse, Recorder, RequestRecord, Tokens};
pub use report::{Report, RunFigures, Setting};
pub use summary::Summary;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
