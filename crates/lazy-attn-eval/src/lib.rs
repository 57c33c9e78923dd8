//! Answer quality: question sets, metrics with intervals, and a runner that asks an engine in several modes.
//!
//! Knows the engine only as a handle. Reading order:
//!
//! * [`question`]: a question, its documents and the answers that are right.
//! * [`dataset`]: question sets from files in the layouts that are in use.
//! * [`procedural`]: question sets made from a seed.
//! * [`metrics`]: how right one answer is.
//! * [`statistics`]: intervals of means, and of differences between modes.
//! * [`mode`]: what is compared.
//! * [`runner`]: every question in every mode through an engine.
//! * [`report`]: what came out, as JSON, Markdown and SVG.
//! * [`random`]: the one seeded generator.

pub mod dataset;
mod error;
pub mod metrics;
pub mod mode;
pub mod procedural;
pub mod question;
pub mod random;
pub mod report;
pub mod runner;
pub mod statistics;

pub use error::EvalError;
pub use mode::Mode;
pub use question::{Question, SourceDocument};
pub use report::Report;
pub use runner::{Answers, Asker, RunOptions};
