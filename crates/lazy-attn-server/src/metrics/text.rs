//! The exposition format, version 0.0.4.

use std::fmt::{Display, Write};

use super::cells::{Histogram, Unit};
use super::families::{Family, Kind};

/// The media type of the format.
pub const METRICS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Text that grows by families.
#[derive(Debug)]
pub(super) struct Exposition {
    text: String,
    /// `model="..."`, which every sample has.
    model: String,
}

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Exposition {
    pub(super) fn new(model: &str) -> Exposition {
        Exposition { text: String::with_capacity(16 << 10), model: format!("model=\"{}\"", escaped(model)) }
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    /// A family with one sample.
    pub(super) fn single(&mut self, family: &Family, labels: Labels<'_>, value: impl Display) {
        self.head(family);
        self.sample(family, "", labels, value);
    }

    /// A family with one sample per value of a label.
    pub(super) fn by_word(
        &mut self,
        family: &Family,
        label: &str,
        samples: impl Iterator<Item = (&'static str, u64)>,
    ) {
        self.head(family);
        for (word, value) in samples {
            self.sample(family, "", &[(label, word)], value);
        }
    }

    pub(super) fn histogram(&mut self, family: &Family, histogram: &Histogram) {
        self.head(family);
        let cumulative = histogram.cumulative();
        let shown = |value: u64| match histogram.unit {
            Unit::Micros => seconds(value),
            Unit::Count => value.to_string(),
        };
        for (&bound, at_most) in histogram.bounds.iter().zip(&cumulative) {
            self.sample(family, "_bucket", &[("le", &shown(bound))], at_most);
        }
        let total = cumulative.last().copied().unwrap_or_default();
        self.sample(family, "_bucket", &[("le", "+Inf")], total);
        self.sample(family, "_sum", &[], shown(histogram.sum()));
        self.sample(family, "_count", &[], total);
    }

    fn head(&mut self, family: &Family) {
        let Family { name, help, kind } = family;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.line(format_args!("# HELP lazyattn_{name} {help}"));
        self.line(format_args!("# TYPE lazyattn_{name} {kind}"));
    }

    fn sample(&mut self, family: &Family, suffix: &str, labels: Labels<'_>, value: impl Display) {
        let mut all = self.model.clone();
        for (label, word) in labels {
            all += &format!(",{label}=\"{}\"", escaped(word));
        }
        self.line(format_args!("lazyattn_{}{suffix}{{{all}}} {value}", family.name));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{line}");
    }
}

/// `micros` in seconds, exactly.
fn seconds(micros: u64) -> String {
    let exact = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    exact.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_exact_and_without_trailing_zeros() {
        let shown: Vec<String> = [0, 100, 2_500, 1_000_000, 61_000_001].map(seconds).into();
        assert_eq!(shown, ["0", "0.0001", "0.0025", "1", "61.000001"]);
    }

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        let mut exposition = Exposition::new("a\"} 1\nb\\");
        let family = Family { name: "x", kind: Kind::Gauge, help: "What." };
        exposition.single(&family, &[], 2);
        let text = exposition.finish();
        assert_eq!(text.lines().last(), Some(r#"lazyattn_x{model="a\"} 1\nb\\"} 2"#));
    }
}
