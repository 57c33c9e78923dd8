//! A decoder in float64, written from the papers and with another algorithm than the engine's.
//!
//! It materialises every q and k, rotates **both at global positions**, builds the dense mask of the whole context,
//! takes a plain softmax and caches nothing: every token of every call is recomputed. Documents, reuse, blocks and
//! deferred rotation do not exist here; a document is a block on the diagonal of the mask.
//!
//! * [`config`]: what a decoder is.
//! * [`rope`]: angles of every supported type.
//! * [`weights`]: tensors under their Hugging Face names.
//! * [`decoder`]: the forward pass and the greedy continuation.

pub mod config;
pub mod decoder;
pub mod rope;
pub mod weights;

pub use config::{BiasFlags, OracleConfig, Pairing, Rope, RopeKind};
pub use decoder::{GreedyStep, KvNoise, Oracle, argmax, top};
pub use weights::{OracleTensor, OracleWeights};
