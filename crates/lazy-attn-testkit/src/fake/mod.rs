//! An executor without a model.
//!
//! It has two "layers" of hashing. Layer one gives each token a state: a hash of its own token and of every visible
//! (token, distance). Layer two gives each row a hash of every visible (state, distance). Logits follow from that hash,
//! so the chosen token says exactly what the row saw: a wrong block list, start, mask, stale slot or order shows up as
//! another token. Only distances enter, so a document's states do not depend on its place, as in the real model.
//!
//! * [`store`]: the fake KV store.
//! * [`sampler`]: tokens drawn by the executor; `pipeline`: its steps in flight.
//! * [`script`]: forced tokens, failures, and a record of the steps.
//! * [`mod@reference`]: the same tokens from the logical context alone.

mod executor;
mod hash;
mod pipeline;
pub mod reference;
pub mod sampler;
pub mod script;
pub mod store;

pub use executor::{FakeConfig, FakeExecutor};
pub use reference::{expected_placed, expected_tokens};
pub use sampler::RowSampler;
pub use script::FakeProbe;
