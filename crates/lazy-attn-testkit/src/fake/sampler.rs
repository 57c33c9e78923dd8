//! How the fake executor draws tokens, if it does.

use std::fmt;

use lazy_attn_types::{RowSampling, SampledRow};

type Draw = dyn FnMut(&[f32], &RowSampling) -> SampledRow + Send;

/// Draws the token of a row. This crate knows no way to: a test brings that of the engine.
pub struct RowSampler(Box<Draw>);

impl RowSampler {
    /// Draws by `draw`.
    pub fn new(draw: impl FnMut(&[f32], &RowSampling) -> SampledRow + Send + 'static) -> RowSampler {
        RowSampler(Box::new(draw))
    }

    pub(super) fn draw(&mut self, logits: &[f32], sampling: &RowSampling) -> SampledRow {
        (self.0)(logits, sampling)
    }
}

impl fmt::Debug for RowSampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RowSampler(..)")
    }
}
