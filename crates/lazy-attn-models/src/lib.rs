//! The model zoo: configuration, weights (safetensors, GGUF, hub, random) and one decoder with a CPU executor.
//!
//! Reading order: [`config`] says what a decoder is, [`weights`] where its tensors come from, [`cpu`] how it runs.

pub mod config;
pub mod cpu;
mod error;
pub mod weights;

pub use config::ModelConfig;
pub use error::ModelError;
