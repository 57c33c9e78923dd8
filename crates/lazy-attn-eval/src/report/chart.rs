//! The report as a chart.

use lazy_attn_plot::{Axis, BarChart, BarSeries, PlotError};

use super::Report;

/// Exact matches and F1 of every mode side by side, as SVG.
///
/// # Errors
/// [`PlotError`] for a report without results.
pub fn to_svg(report: &Report) -> Result<String, PlotError> {
    let series = |name: &str, values: Vec<f64>| BarSeries {
        name: name.to_owned(),
        values: values.into_iter().map(Some).collect(),
    };
    let results = &report.results;
    let chart = BarChart {
        title: format!(
            "{}, {}, {} questions",
            report.setting.dataset, report.setting.model, report.num_questions
        ),
        y: Axis::linear("percent"),
        groups: results.iter().map(|result| result.mode.clone()).collect(),
        series: vec![
            series("exact match", results.iter().map(|result| result.em).collect()),
            series("F1", results.iter().map(|result| result.f1).collect()),
        ],
    };
    chart.to_svg()
}
