//! The loop: intake, plan, flatten, execute, sample, publish.
//!
//! One thread owns the scheduler and the executor; everything else is a handle to it. Reading order, which is that of the
//! data:
//!
//! * [`request`]: what a client asks and gets back.
//! * [`config`], [`clock`]: bounds and time, both injected.
//! * [`handle`]: starting an engine, submitting, reading statistics.
//! * `rankings`: which tokens of a document are worth computing again.
//! * `intake`: a request becomes a context, on the submitting thread.
//! * `step_loop`: plan, execute, commit, over and over; two steps in flight if the executor can.
//! * [`mod@flatten`]: a plan becomes the arrays of the executor.
//! * [`sampling`], [`stop`]: logits become a token, and the end of a sequence.
//! * [`observe`]: what the loop tells about itself while it works; [`stats`]: what it has done.
//! * `egress`: tokens become events; [`stream`]: the reader's end.
//! * `end`: what handles are told once the engine is gone.
//! * [`documents`]: documents outside a request; [`watch`]: what is resident and how it changes.

pub mod clock;
mod command;
pub mod config;
pub mod documents;
mod egress;
mod end;
mod error;
pub mod flatten;
pub mod handle;
mod intake;
pub mod observe;
mod rankings;
pub mod request;
mod sample;
pub mod sampling;
pub mod stats;
mod step_loop;
pub mod stop;
pub mod stream;
pub mod watch;

pub use clock::{Clock, ManualClock, SystemClock};
pub use config::EngineConfig;
pub use documents::{DocumentInfo, DocumentResidency, EncodeRequest, Pin, PromptCount};
pub use error::EngineError;
pub use flatten::flatten;
pub use handle::{Engine, EngineHandle, EngineParts};
/// What [`EngineConfig`] and [`EngineParts`] take.
pub use lazy_attn_kv::{EvictionPolicy, KvEvent};
pub use lazy_attn_text::Tokenizer;
pub use observe::{CancelCause, Observation, Observer, Unobserved};
pub use request::{
    CacheUse, Event, FinishReason, GenerateRequest, GeneratedToken, Part, PartContent, PartOutcome,
    ResolvedPart, Timing, TokenLogprob, TokenOrigin, Usage,
};
pub use stats::EngineStats;
pub use stream::RequestStream;
pub use watch::{KvWatch, NumberedKvEvent};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
