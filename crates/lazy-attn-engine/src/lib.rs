//! The loop: intake, plan, flatten, execute, sample, publish.

mod error;
mod request;
pub mod sampling;
pub mod stop;

pub use error::EngineError;
pub use request::{
    CacheUse, Event, FinishReason, GenerateRequest, GeneratedToken, Part, PartContent, PartOutcome,
    ResolvedPart, Timing, TokenLogprob, Usage,
};
