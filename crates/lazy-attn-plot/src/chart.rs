//! Series of points.

use crate::axis::{Axis, Span};
use crate::canvas::{Canvas, Side, colour};
use crate::error::PlotError;

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// A line from point to point.
    Line,
    /// The same, with a dot at every point: for few points that were measured each.
    LineAndDots,
    /// The same in dashes: for what was computed, not measured.
    Dashes,
    /// Dots alone.
    Dots,
}

/// Points that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What they are, for the legend.
    pub name: String,
    /// How they are drawn.
    pub mark: Mark,
    /// `(x, y)`, in the order in which the line goes through them.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// A series.
    #[must_use]
    pub fn new(name: &str, mark: Mark, points: Vec<(f64, f64)>) -> Series {
        Series { name: name.to_owned(), mark, points }
    }
}

/// Series over two axes.
#[derive(Debug, Clone, PartialEq)]
pub struct LineChart {
    /// What it shows.
    pub title: String,
    /// The axis below.
    pub x: Axis,
    /// The axis on the left.
    pub y: Axis,
    /// What is drawn, in the order of the legend.
    pub series: Vec<Series>,
}

impl LineChart {
    /// The chart as the text of an SVG file.
    ///
    /// # Errors
    /// [`PlotError::Empty`] without a point, [`PlotError::Value`] for a value that is not finite, or not above 0 on a
    /// logarithmic axis.
    pub fn to_svg(&self) -> Result<String, PlotError> {
        if self.series.iter().all(|series| series.points.is_empty()) {
            return Err(PlotError::Empty { title: self.title.clone() });
        }
        for series in &self.series {
            check(series, &self.x, series.points.iter().map(|point| point.0))?;
            check(series, &self.y, series.points.iter().map(|point| point.1))?;
        }
        let points = || self.series.iter().flat_map(|series| &series.points);
        let (x, y) = (self.x.span(points().map(|p| p.0)), self.y.span(points().map(|p| p.1)));
        let names = || self.series.iter().map(|series| series.name.as_str());
        let mut canvas = Canvas::new(&self.title, names());
        canvas.axis(Side::Below, &x, &self.x.label);
        canvas.axis(Side::Left, &y, &self.y.label);
        for (index, series) in self.series.iter().enumerate() {
            draw(&mut canvas, series, colour(index), (&x, &y));
        }
        canvas.legend(names());
        Ok(canvas.finish())
    }
}

fn draw(canvas: &mut Canvas, series: &Series, colour: &str, (x, y): (&Span, &Span)) {
    let places: Vec<(f64, f64)> =
        series.points.iter().map(|point| (x.place(point.0), y.place(point.1))).collect();
    match series.mark {
        Mark::Line | Mark::LineAndDots => canvas.line(&places, colour, ""),
        Mark::Dashes => canvas.line(&places, colour, "6 4"),
        Mark::Dots => {}
    }
    if matches!(series.mark, Mark::LineAndDots | Mark::Dots) {
        places.iter().for_each(|&place| canvas.dot(place, colour));
    }
}

fn check(series: &Series, axis: &Axis, mut values: impl Iterator<Item = f64>) -> Result<(), PlotError> {
    match values.find(|&value| !axis.takes(value)) {
        None => Ok(()),
        Some(value) => Err(PlotError::Value {
            series: series.name.clone(),
            value: value.to_string(),
            axis: axis.label.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(x: Axis, mark: Mark, points: &[(f64, f64)]) -> Result<String, PlotError> {
        let series = vec![Series::new("measured", mark, points.to_vec())];
        LineChart { title: "t".into(), x, y: Axis::linear("y, ms"), series }.to_svg()
    }

    #[test]
    fn a_line_goes_from_corner_to_corner_and_dots_stand_at_its_points() {
        let svg = chart(Axis::linear("x"), Mark::LineAndDots, &[(0.0, 0.0), (10.0, 10.0)]).unwrap();
        assert!(svg.contains("M74.0 322.0L634.0 44.0") && svg.contains("#0072b2"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains(">measured</text>") && svg.contains(">y, ms</text>"));
        let dashes = chart(Axis::linear("x"), Mark::Dashes, &[(0.0, 0.0), (10.0, 10.0)]).unwrap();
        assert!(dashes.contains("stroke-dasharray") && !dashes.contains("<circle"));
    }

    #[test]
    fn what_has_no_place_is_refused_by_name() {
        let refused = |axis, points: &[(f64, f64)]| chart(axis, Mark::Line, points).unwrap_err().to_string();
        assert!(
            refused(Axis::log("rate"), &[(0.0, 1.0)])
                .contains("has the value 0, which has no place on the axis \"rate\"")
        );
        assert!(refused(Axis::linear("x"), &[(1.0, f64::NAN)]).contains("NaN"));
        assert!(refused(Axis::linear("x"), &[]).contains("no point"));
    }
}
