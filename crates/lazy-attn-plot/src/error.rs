//! What cannot be drawn.

/// Why there is no chart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    /// Nothing to draw.
    #[error("chart {title:?} has no point; leave it out or give it a series")]
    Empty {
        /// Title of the chart.
        title: String,
    },
    /// A value that has no place.
    #[error(
        "series {series:?} has the value {value}, which has no place on the axis {axis:?}; leave the point out"
    )]
    Value {
        /// Name of the series.
        series: String,
        /// The value, as text.
        value: String,
        /// Label of the axis.
        axis: String,
    },
    /// A series of bars that does not fit the groups.
    #[error("series {series:?} has {values} values for {groups} groups; give one per group")]
    Groups {
        /// Name of the series.
        series: String,
        /// Its values.
        values: usize,
        /// Groups of the chart.
        groups: usize,
    },
}
