//! Ids, units, segments, sampling parameters, the executor contract of the LazyAttention engine and what a step of it costs.
//!
//! This crate is the vocabulary every other crate speaks; it holds no algorithm beyond validation, hashing and the arithmetic
//! of what a step costs.
//! Reading order:
//!
//! * [`ids`]: opaque ids and units (tokens, blocks, positions) as newtypes.
//! * [`segment`]: what a context is made of, and the content keys under which its KV is stored.
//! * [`exactness`]: how much of a document is computed again in a context, and where documents stand.
//! * [`focus`]: how attention weighs documents that were encoded apart.
//! * [`context`]: the segments of a prompt, in order.
//! * [`sampling`]: how tokens are chosen and when a sequence ends.
//! * [`vocab`]: what a model file says about its tokenizer, as plain data.
//! * [`policy`]: how KV is reused, by this system and, for comparison, by others.
//! * [`exec`]: the contract between the control plane and the data plane.
//! * [`cost`]: what a step would cost on a device.

pub mod context;
pub mod cost;
pub mod exactness;
pub mod exec;
pub mod focus;
pub mod ids;
pub mod policy;
pub mod sampling;
pub mod segment;
pub mod vocab;

pub use context::{Context, ContextBuilder};
pub use cost::{CostModel, StepSize};
pub use exactness::{ContextRules, Exactness, Placement};
pub use exec::{
    BlockPairs, Capability, CarriedToken, ExecError, Executor, ExecutorInfo, FocusedView, OutputKind,
    OutputRow, Reencoding, RowSampling, Run, SampledRow, SegmentHandle, SegmentView, SharedReads, StepInput,
    StepOutput,
};
pub use focus::DocumentFocus;
pub use ids::{BlockId, BlockSize, Position, RequestId, SequenceId, Timestamp, TokenId};
pub use policy::{KvPolicy, StoredKeys, UnknownPolicy};
pub use sampling::{OutputParams, ParamError, SamplingParams, StopParams};
pub use segment::{
    AttentionMode, Fingerprint, KeySpace, Segment, SegmentKey, SegmentKind, TenantSalt, TokenRange,
};
pub use vocab::{BpeVocab, SpecialTokens, TokenizerSource};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
