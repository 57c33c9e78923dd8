//! Groups of bars.

use crate::axis::{Axis, number};
use crate::canvas::{Canvas, Side, colour};
use crate::error::PlotError;

/// One bar in every group.
#[derive(Debug, Clone, PartialEq)]
pub struct BarSeries {
    /// What it is, for the legend.
    pub name: String,
    /// One value per group; `None` where nothing was measured.
    pub values: Vec<Option<f64>>,
}

/// Bars side by side, in groups.
#[derive(Debug, Clone, PartialEq)]
pub struct BarChart {
    /// What it shows.
    pub title: String,
    /// The axis on the left.
    pub y: Axis,
    /// Names of the groups.
    pub groups: Vec<String>,
    /// What is drawn in each, in the order of the legend.
    pub series: Vec<BarSeries>,
}

/// Part of a group's width that its bars take.
const FILLED: f64 = 0.84;

impl BarChart {
    /// The chart as the text of an SVG file.
    ///
    /// # Errors
    /// [`PlotError::Empty`] without a value, [`PlotError::Groups`] if a series has more or fewer values than there are
    /// groups, [`PlotError::Value`] for a value that is not finite, or not above 0 on a logarithmic axis.
    pub fn to_svg(&self) -> Result<String, PlotError> {
        for series in &self.series {
            self.check(series)?;
        }
        let values = || self.series.iter().flat_map(|series| &series.values).copied().flatten();
        if values().next().is_none() {
            return Err(PlotError::Empty { title: self.title.clone() });
        }
        let y = self.y.span(values());
        let names = || self.series.iter().map(|series| series.name.as_str());
        let mut canvas = Canvas::new(&self.title, names());
        canvas.axis(Side::Left, &y, &self.y.label);
        let group_width = 1.0 / self.groups.len() as f64;
        let width = group_width * FILLED / self.series.len() as f64;
        for (at, group) in self.groups.iter().enumerate() {
            let left = (at as f64 + (1.0 - FILLED) / 2.0) * group_width;
            canvas.name_below((at as f64 + 0.5) * group_width, group);
            for (index, series) in self.series.iter().enumerate() {
                if let Some(value) = series.values[at] {
                    let label = (colour(index), number(value));
                    canvas.bar(left + index as f64 * width, width, y.place(value), (label.0, &label.1));
                }
            }
        }
        canvas.legend(names());
        Ok(canvas.finish())
    }

    fn check(&self, series: &BarSeries) -> Result<(), PlotError> {
        if series.values.len() != self.groups.len() {
            let (values, groups) = (series.values.len(), self.groups.len());
            return Err(PlotError::Groups { series: series.name.clone(), values, groups });
        }
        match series.values.iter().flatten().find(|&&value| !self.y.takes(value)) {
            None => Ok(()),
            Some(value) => Err(PlotError::Value {
                series: series.name.clone(),
                value: value.to_string(),
                axis: self.y.label.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(groups: &[&str], values: &[&[Option<f64>]]) -> Result<String, PlotError> {
        let series = values.iter().enumerate();
        let series =
            series.map(|(index, values)| BarSeries { name: format!("s{index}"), values: values.to_vec() });
        BarChart {
            title: "t".into(),
            y: Axis::linear("ms"),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            series: series.collect(),
        }
        .to_svg()
    }

    #[test]
    fn every_value_has_a_bar_and_what_was_not_measured_has_none() {
        let svg = chart(&["a", "b"], &[&[Some(1.0), Some(2.0)], &[None, Some(4.0)]]).unwrap();
        // Background, frame and two entries of the legend.
        assert_eq!(svg.matches("<rect").count(), 3 + 4);
        assert!(svg.contains(">4</text>"));
    }

    #[test]
    fn a_value_per_group_is_asked_for() {
        let error = chart(&["a", "b"], &[&[Some(1.0)]]).unwrap_err();
        assert_eq!(error.to_string(), "series \"s0\" has 1 values for 2 groups; give one per group");
        assert!(matches!(chart(&["a"], &[&[None]]), Err(PlotError::Empty { .. })));
        assert!(matches!(chart(&["a"], &[&[Some(f64::INFINITY)]]), Err(PlotError::Value { .. })));
    }
}
