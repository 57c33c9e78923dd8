//! Deterministic mutation fuzzing of everything that reads foreign bytes.
//!
//! * [`target`]: what a target is, and the list of them.
//! * `targets`: the functions under test; `seeds`: what their inputs are made from.
//! * [`alloc`]: how much memory an input costs.
//! * [`guard`]: one input under its bounds.
//! * [`mutate`]: new inputs from old ones.
//! * [`fuzzer`]: the loop over inputs.

pub mod alloc;
pub mod fuzzer;
pub mod guard;
pub mod mutate;
mod seeds;
pub mod target;
mod targets;

pub use fuzzer::{Crash, Fuzzer};
pub use guard::{Finding, try_input};
pub use target::{Bounds, TARGETS, Target};
