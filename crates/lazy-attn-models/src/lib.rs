//! The model zoo: configuration, weights (safetensors, GGUF, hub, random) and one decoder with a CPU executor.
//!
//! Reading order: [`config`] says what a decoder is, [`weights`] where its tensors come from, [`load`] opens what a
//! [`ModelRef`] names, [`cpu`] runs it, and so does `cuda` with the feature of that name.
#![cfg_attr(doctest, doc = include_str!("../README.md"))]

mod byte_vocab;
pub mod config;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod error;
mod files;
mod fingerprint;
mod list;
mod model;
mod progress;
mod reference;
#[cfg(test)]
mod testing;
pub mod weights;

pub use config::ModelConfig;
pub use error::ModelError;
pub use fingerprint::{HashCoverage, WeightsHash};
pub use list::{Listing, Summary, describe, list};
pub use model::{LoadOptions, LoadedModel, ModelParts, load};
pub use progress::{Progress, Silent};
pub use reference::{HubId, ModelRef};
