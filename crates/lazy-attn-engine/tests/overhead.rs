//! The engine's own work is small beside a step of the device.

#![allow(clippy::unwrap_used)] // helpers of tests, not only the tests themselves

mod common;

use common::busy::{busy_steps, percentile};
use lazy_attn_types::Capability;

#[test]
fn what_the_engine_does_between_two_steps_is_a_small_part_of_a_step() {
    // A vocabulary of the test's tokenizer: what is measured is the loop, not the reading of logits.
    let steps = busy_steps(258, 100, Capability::Logits);
    assert!(steps.len() > 50, "{} steps in which all decode", steps.len());
    // The fast ones, because other processes take the core away in many of the steps. Loose: tests are hardly optimised, and
    // the bench has the figure.
    let (between, modelled) =
        (percentile(&steps, 5, |step| step.between), percentile(&steps, 50, |step| step.modelled));
    assert!(between * 2 < modelled, "{between:?} between steps of {modelled:?}");
}
