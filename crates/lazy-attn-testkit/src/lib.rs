//! Test helpers of the workspace: an independent oracle, tiny models, a fake executor, generators and scenarios.
//!
//! Unpublished; every other crate may use it in tests, benches and examples. Reading order:
//!
//! * [`part`]: a logical context, and which token of it sees which.
//! * [`rng`]: the one seeded generator, stable for ever because fixtures depend on it.
//! * [`oracle`]: a float64 decoder that rotates *keys* to global positions and caches nothing.
//! * [`deferred`]: the engine's idea in its most naive form, a float64 executor over blocks.
//! * [`tiny`]: small models with weights that every dtype holds exactly.
//! * [`fixture`]: golden files made from both.
//! * [`driver`]: puts segments into blocks and plays contexts through any executor.
//! * [`fake`]: an executor without a model, whose tokens betray every wrong block, start, mask or order.
//! * [`cost`]: an executor that computes nothing and knows what a step would have cost.
//! * [`generate`]: proptest strategies for contexts and steps.
//! * [`scenario`]: the named workloads of the benches, with the story each stands for.
//! * [`vocab`]: a token per byte.

pub mod cost;
pub mod deferred;
pub mod driver;
pub mod fake;
pub mod fixture;
pub mod generate;
pub mod oracle;
pub mod part;
pub mod rng;
pub mod scenario;
pub mod tiny;
pub mod vocab;

pub use cost::{CostExecutor, CostProbe, StepCost};
pub use deferred::DeferredExecutor;
pub use driver::{Player, Pool, RunSpec, StepBuilder, StoredSegment};
pub use fake::{FakeConfig, FakeExecutor, FakeProbe, RowSampler, expected_tokens};
pub use oracle::{Oracle, OracleConfig, OracleWeights};
pub use part::{Part, Placed, place};
pub use rng::SplitMix64;
pub use tiny::{TinyModel, TinyTensor};
pub use vocab::byte_vocab;
