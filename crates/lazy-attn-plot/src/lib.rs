//! SVG charts of measurements: lines, distributions and bars, linear or logarithmic.
//!
//! Reading order: [`axis`] turns values into places and picks the ticks, [`chart`] draws series of points, [`bars`] groups of
//! bars, [`mod@distribution`] turns samples into points, `canvas` writes the elements, [`error`] says what cannot be drawn.

pub mod axis;
pub mod bars;
mod canvas;
pub mod chart;
pub mod distribution;
pub mod error;

pub use axis::{Axis, Scale};
pub use bars::{BarChart, BarSeries};
pub use chart::{LineChart, Mark, Series};
pub use distribution::distribution;
pub use error::PlotError;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
