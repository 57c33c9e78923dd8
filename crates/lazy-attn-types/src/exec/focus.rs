//! Views of documents that attention weighs otherwise.

use super::{ExecError, Run, StepInput};
use crate::DocumentFocus;

/// A view that its run looks at in another way than at the rest of its context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FocusedView {
    /// Entry of [`StepInput::segments`], not the segment that its run writes.
    pub view: u32,
    /// In which way; the same for all views of a run.
    pub focus: DocumentFocus,
}

impl StepInput {
    /// The focused views of `run`.
    #[must_use]
    pub fn focused_of(&self, run: &Run) -> &[FocusedView] {
        let begin = self.focused.partition_point(|focused| focused.view < run.first_segment);
        let rest = &self.focused[begin..];
        let end = rest.partition_point(|focused| focused.view < run.first_segment + run.num_segments);
        &rest[..end]
    }

    pub(super) fn validate_focus(&self) -> Result<(), ExecError> {
        let invalid = |problem: &str| Err(ExecError::InvalidStep(problem.into()));
        if !self.focused.is_sorted_by(|a, b| a.view < b.view) {
            return invalid("focused views are not in order");
        }
        let mut num_found = 0;
        for run in &self.runs {
            let focused = self.focused_of(run);
            num_found += focused.len();
            if focused.iter().any(|view| view.focus != focused[0].focus) {
                return invalid("a run focuses its documents in two ways");
            }
            if focused.last().is_some_and(|view| view.view + 1 == run.first_segment + run.num_segments) {
                return invalid("a run focuses the segment that it writes");
            }
        }
        if num_found != self.focused.len() {
            return invalid("a focused view is not in exactly one run");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{info, step};
    use super::*;

    #[test]
    fn focused_views_are_those_of_one_run_before_its_own_segment() {
        let mut input = step();
        let view = input.segments[0];
        input.segments.insert(0, view);
        input.segments.insert(0, view);
        input.runs[0].num_segments = 3;
        let ways = [(0.5, 1.0), (0.5, 0.5)].map(|(t, s)| DocumentFocus::new(t, s).unwrap());
        let of = |views: &[(u32, usize)]| {
            let focused = views.iter().map(|&(view, way)| FocusedView { view, focus: ways[way] }).collect();
            StepInput { focused, ..input.clone() }
        };
        for good in [&[(0, 0)][..], &[(0, 1), (1, 1)], &[(1, 0)], &[]] {
            of(good).validate(&info()).unwrap();
            assert_eq!(of(good).focused_of(&input.runs[0]).len(), good.len());
        }
        for bad in [&[(2, 0)][..], &[(3, 0)], &[(1, 0), (0, 0)], &[(0, 0), (0, 0)], &[(0, 0), (1, 1)]] {
            assert!(of(bad).validate(&info()).is_err(), "{bad:?}");
        }
    }
}
