//! GGUF files: a bounded, zero-copy reader of the container, and what its metadata says of model and tokenizer.
//!
//! Reading order: `cursor` (checked reads), `value` (metadata), [`GgufFile`] (the container), `config` and `tokenizer`
//! (what the metadata means), `names` and [`GgufTensors`] (tensors under their Hugging Face names).

mod config;
mod cursor;
mod file;
mod keys;
mod names;
mod tensors;
mod tokenizer;
mod value;

pub use config::model_config;
pub use file::{GgufFile, TensorPlace};
pub use names::hugging_face_name;
pub use tensors::GgufTensors;
pub use tokenizer::{special_tokens, tokenizer};
pub use value::{Array, Value};
