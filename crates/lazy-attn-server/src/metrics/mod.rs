//! What the engine did, for Prometheus.
//!
//! An engine tells its [`Metrics`] what happens ([`lazy_attn_engine::Observer`]); recording is an atomic addition or two,
//! without locks or allocation, so nothing a scraper does can hold up a step. Labels are the model and fixed words:
//! never a tenant or a document, whose names and number are nobody's business and without bound. docs/metrics.md lists
//! every name. Reading order:
//!
//! * `cells`: counters, gauges and histograms of atomics.
//! * `labels`: the fixed words.
//! * `record`: [`Metrics`], all cells together, and what each observation does to them.
//! * `text`: the exposition format; `families`: all names with what they mean.
//! * `http`: `GET /metrics` on a listener of its own.

mod cells;
mod families;
mod http;
mod labels;
mod record;
mod text;

pub use http::serve_metrics;
pub use labels::Rejection;
pub use record::Metrics;
pub use text::METRICS_CONTENT_TYPE;
