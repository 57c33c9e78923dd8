//! Stands in for CUDA devices where the feature `cuda` is off.

use lazy_attn_models::LoadedModel;

use super::choose::Found;
use super::{Backend, Wanted};
use crate::exit::Failure;
use crate::ui::LoadProgress;

/// None.
pub(crate) fn find() -> Found {
    Found::NotCompiled
}

/// Refuses: [`find`] finds no device that could be opened.
pub(super) fn open(
    ordinals: &[usize],
    _wanted: &Wanted<'_>,
    _model: &LoadedModel,
    _progress: &LoadProgress,
) -> Result<Backend, Failure> {
    Err(Failure::usage(format!(
        "CUDA devices {ordinals:?}: this build has no CUDA; build it with `--features cuda`"
    )))
}
