//! The decoder against the float64 oracle, and against itself under every way of driving it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod frequencies;
mod golden;
mod properties;
mod support;
mod tolerance;
mod tuned;
