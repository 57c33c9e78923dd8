//! From values to places, and the ticks between.

/// How an axis is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Equal steps, zero included.
    Linear,
    /// Equal factors; values are above 0.
    Log,
}

/// What one direction of a chart means.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// What it shows, with the unit.
    pub label: String,
    /// How it is divided.
    pub scale: Scale,
    /// The range, if it is not that of the values.
    pub range: Option<(f64, f64)>,
}

impl Axis {
    /// A linear axis over the values and zero.
    #[must_use]
    pub fn linear(label: &str) -> Axis {
        Axis { label: label.to_owned(), scale: Scale::Linear, range: None }
    }

    /// A logarithmic axis over the values.
    #[must_use]
    pub fn log(label: &str) -> Axis {
        Axis { scale: Scale::Log, ..Axis::linear(label) }
    }

    /// The same over `from..=to`.
    #[must_use]
    pub fn over(self, from: f64, to: f64) -> Axis {
        Axis { range: Some((from, to)), ..self }
    }

    /// Whether `value` has a place.
    pub(crate) fn takes(&self, value: f64) -> bool {
        value.is_finite() && (self.scale == Scale::Linear || value > 0.0)
    }

    /// The range drawn and its ticks for `values`, all of which have a place.
    pub(crate) fn span(&self, values: impl Iterator<Item = f64>) -> Span {
        let (low, high) = self.range.unwrap_or_else(|| {
            let start = if self.scale == Scale::Linear { (0.0, 0.0) } else { (f64::INFINITY, 0.0) };
            values.fold(start, |(low, high), value| (low.min(value), high.max(value)))
        });
        match self.scale {
            Scale::Linear => linear_span(low, high, self.range.is_some()),
            Scale::Log => log_span(low, high, self.range.is_some()),
        }
    }
}

/// A range of values and its ticks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Span {
    scale: Scale,
    low: f64,
    high: f64,
    pub(crate) ticks: Vec<f64>,
}

impl Span {
    /// Where `value` lies: 0 at the low end, 1 at the high end.
    pub(crate) fn place(&self, value: f64) -> f64 {
        let (low, high, value) = match self.scale {
            Scale::Linear => (self.low, self.high, value),
            Scale::Log => (self.low.ln(), self.high.ln(), value.ln()),
        };
        ((value - low) / (high - low)).clamp(0.0, 1.0)
    }
}

const NUM_STEPS: f64 = 5.0;

fn linear_span(low: f64, high: f64, is_given: bool) -> Span {
    let high = if high > low { high } else { low + 1.0 };
    let raw = (high - low) / NUM_STEPS;
    let decade = 10f64.powf(raw.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|digit| digit * decade).into_iter().find(|&step| step >= raw * 0.999);
    let step = step.unwrap_or(decade);
    let (first, last) = if is_given {
        ((low / step).ceil(), (high / step).floor())
    } else {
        ((low / step).floor(), (high / step).ceil())
    };
    let ticks: Vec<f64> =
        (0..=(last - first) as u32).map(|index| (first + f64::from(index)) * step).collect();
    let (low, high) = if is_given { (low, high) } else { (first * step, last * step) };
    Span { scale: Scale::Linear, low, high, ticks }
}

fn log_span(low: f64, high: f64, is_given: bool) -> Span {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let digits: &[f64] = if last - first > 3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let all = (first..=last).flat_map(|decade| digits.iter().map(move |digit| digit * 10f64.powi(decade)));
    let all: Vec<f64> = all.collect();
    // Rounding of a power must not lose the tick at the end.
    let below = all.iter().rev().find(|&&tick| tick <= low * (1.0 + 1e-9)).copied().unwrap_or(low);
    let above = all.iter().find(|&&tick| tick >= high * (1.0 - 1e-9)).copied().unwrap_or(high);
    let (low, high) = if is_given { (low, high) } else { (below, above) };
    let high = if high > low { high } else { low * 10.0 };
    let inside = |tick: &f64| *tick >= low * (1.0 - 1e-9) && *tick <= high * (1.0 + 1e-9);
    let ticks = all.into_iter().filter(inside).collect();
    Span { scale: Scale::Log, low, high, ticks }
}

/// A number for a tick or a label.
pub(crate) fn number(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, "G"),
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let decimals = match scaled.abs() {
        size if size == 0.0 || size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size => (1.0 - size.log10().floor()) as usize,
    };
    let text = format!("{scaled:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(axis: Axis, values: &[f64]) -> Vec<String> {
        axis.span(values.iter().copied()).ticks.into_iter().map(number).collect()
    }

    #[test]
    fn linear_ticks_are_round_and_cover_zero_and_the_values() {
        assert_eq!(ticks(Axis::linear(""), &[3.0, 9.3]), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(ticks(Axis::linear(""), &[-2.0, 3.0]), ["-2", "-1", "0", "1", "2", "3"]);
        assert_eq!(ticks(Axis::linear(""), &[0.0]), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(ticks(Axis::linear("").over(0.0, 0.9), &[5.0]), ["0", "0.2", "0.4", "0.6", "0.8"]);
    }

    #[test]
    fn logarithmic_ticks_are_ones_twos_and_fives_or_decades() {
        assert_eq!(ticks(Axis::log(""), &[3.0, 90.0]), ["2", "5", "10", "20", "50", "100"]);
        assert_eq!(
            ticks(Axis::log(""), &[1.0, 1e6]),
            ["1", "10", "100", "1000", "10k", "100k", "1M"][..].to_vec()
        );
        assert_eq!(ticks(Axis::log(""), &[7.0]).len(), 2, "a single value has a range around it");
    }

    #[test]
    fn places_go_from_zero_to_one() {
        let span = Axis::log("").span([1.0, 100.0].into_iter());
        let places: Vec<f64> = [1.0, 10.0, 100.0].map(|value| span.place(value)).to_vec();
        assert!((places[0], places[2]) == (0.0, 1.0) && (places[1] - 0.5).abs() < 1e-12, "{places:?}");
        assert!(
            !Axis::log("").takes(0.0) && Axis::linear("").takes(0.0) && !Axis::linear("").takes(f64::NAN)
        );
    }

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (0.0213, "0.021"),
            (1.5, "1.5"),
            (12.34, "12.3"),
            (9999.0, "9999"),
            (128_000.0, "128k"),
            (2.5e9, "2.5G"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }
}
