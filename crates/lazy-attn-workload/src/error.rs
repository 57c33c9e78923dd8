//! What can be wrong with a workload or a trace.

/// Why there is no trace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// A number outside its range.
    #[error("{field} is {value}, but must be {allowed}")]
    Param {
        /// Which number.
        field: &'static str,
        /// The number, as text.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// A line that is not part of a trace.
    #[error("line {line} of the trace {problem}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The file failed.
    #[error("the trace cannot be read or written: {0}")]
    Io(#[from] std::io::Error),
}
