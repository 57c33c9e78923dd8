//! The elements of an SVG file.

use std::fmt::Write as _;

use crate::axis::{Span, number};

/// Colours that people with any colour vision tell apart (Okabe and Ito), black last.
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#333333"];

pub(crate) fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

/// Sizes in pixels.
const HEIGHT: f64 = 380.0;
const PLOT_WIDTH: f64 = 560.0;
const LEFT: f64 = 74.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 58.0;
/// Width of a character of the legend.
const CHARACTER: f64 = 6.9;

/// Which way an axis runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Below,
    Left,
}

/// An SVG file that is being written. Places are parts of the plot's area, from its lower left corner.
#[derive(Debug)]
pub(crate) struct Canvas {
    body: String,
    right: f64,
}

impl Canvas {
    /// An empty plot under `title`, with room for `names` on its right.
    pub(crate) fn new<'a>(title: &str, names: impl Iterator<Item = &'a str>) -> Canvas {
        let longest = names.map(|name| name.chars().count()).max().unwrap_or(0);
        let mut canvas = Canvas { body: String::new(), right: 50.0 + longest as f64 * CHARACTER };
        canvas.text((LEFT + PLOT_WIDTH / 2.0, 24.0), "middle", 15, title);
        canvas
    }

    fn x(place: f64) -> f64 {
        LEFT + place * PLOT_WIDTH
    }

    fn y(place: f64) -> f64 {
        TOP + (1.0 - place) * (HEIGHT - TOP - BOTTOM)
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: &str, size: u32, text: &str) {
        let text = escaped(text);
        let _ = writeln!(
            self.body,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}">{text}</text>"#
        );
    }

    /// Ticks of `span`, lines across the plot, and what the axis means.
    pub(crate) fn axis(&mut self, side: Side, span: &Span, label: &str) {
        for &tick in &span.ticks {
            let place = span.place(tick);
            let (from, to) = match side {
                Side::Below => ((place, 0.0), (place, 1.0)),
                Side::Left => ((0.0, place), (1.0, place)),
            };
            let _ = writeln!(
                self.body,
                r##"<path d="M{:.1} {:.1}L{:.1} {:.1}" stroke="#dddddd" fill="none"/>"##,
                Canvas::x(from.0),
                Canvas::y(from.1),
                Canvas::x(to.0),
                Canvas::y(to.1)
            );
            match side {
                Side::Below => self.name_below(place, &number(tick)),
                Side::Left => {
                    self.text((LEFT - 8.0, Canvas::y(place) + 4.0), "end", 12, &number(tick));
                }
            }
        }
        self.label(side, label);
    }

    /// A name under the plot.
    pub(crate) fn name_below(&mut self, place: f64, name: &str) {
        self.text((Canvas::x(place), Canvas::y(0.0) + 18.0), "middle", 12, name);
    }

    /// What an axis means.
    pub(crate) fn label(&mut self, side: Side, label: &str) {
        match side {
            Side::Below => self.text((Canvas::x(0.5), HEIGHT - 14.0), "middle", 13, label),
            Side::Left => {
                let (y, label) = (Canvas::y(0.5), escaped(label));
                let _ = writeln!(
                    self.body,
                    r#"<text transform="translate(18 {y:.1}) rotate(-90)" text-anchor="middle" font-size="13">{label}</text>"#
                );
            }
        }
    }

    /// A line through `places`, in pieces of `dashes` if that is not empty.
    pub(crate) fn line(&mut self, places: &[(f64, f64)], colour: &str, dashes: &str) {
        let mut path = String::new();
        for (index, &(x, y)) in places.iter().enumerate() {
            let letter = if index == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{:.1} {:.1}", Canvas::x(x), Canvas::y(y));
        }
        let dashes =
            if dashes.is_empty() { String::new() } else { format!(r#" stroke-dasharray="{dashes}""#) };
        let _ = writeln!(
            self.body,
            r#"<path d="{path}" stroke="{colour}" stroke-width="2" fill="none"{dashes}/>"#
        );
    }

    /// A dot.
    pub(crate) fn dot(&mut self, (x, y): (f64, f64), colour: &str) {
        let (x, y) = (Canvas::x(x), Canvas::y(y));
        let _ = writeln!(self.body, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.2" fill="{colour}"/>"#);
    }

    /// A bar from the bottom of the plot to `top`, `width` wide, with what it stands for above.
    pub(crate) fn bar(&mut self, left: f64, width: f64, top: f64, (colour, value): (&str, &str)) {
        let (x, y) = (Canvas::x(left), Canvas::y(top));
        let (width, height) = (width * PLOT_WIDTH, Canvas::y(0.0) - y);
        let _ = writeln!(
            self.body,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{colour}"/>"#
        );
        self.text((x + width / 2.0, y - 4.0), "middle", 10, value);
    }

    /// What each colour means, on the right.
    pub(crate) fn legend<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        for (index, name) in names.enumerate() {
            let y = TOP + 12.0 + 20.0 * index as f64;
            let x = LEFT + PLOT_WIDTH + 14.0;
            let _ = writeln!(
                self.body,
                r#"<rect x="{x:.1}" y="{:.1}" width="14" height="6" fill="{}"/>"#,
                y - 7.0,
                colour(index)
            );
            self.text((x + 20.0, y), "start", 12, name);
        }
    }

    /// The file.
    pub(crate) fn finish(self) -> String {
        let width = LEFT + PLOT_WIDTH + self.right;
        let (x, y) = (Canvas::x(0.0), Canvas::y(1.0));
        let (frame_width, frame_height) = (PLOT_WIDTH, Canvas::y(0.0) - y);
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {HEIGHT:.0}" width="{width:.0}" height="{HEIGHT:.0}" font-family="Helvetica, Arial, sans-serif" fill="#222222">
<rect width="100%" height="100%" fill="#ffffff"/>
{}<rect x="{x:.1}" y="{y:.1}" width="{frame_width:.1}" height="{frame_height:.1}" fill="none" stroke="#555555"/>
</svg>
"##,
            self.body
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        let svg = Canvas::new("a < b & c", ["x"].into_iter()).finish();
        assert!(svg.contains("a &lt; b &amp; c") && !svg.contains("a < b"));
    }

    #[test]
    fn the_legend_has_room() {
        let width = |name: &'static str| Canvas::new("", [name].into_iter()).right;
        assert!(width("a long name of a series") > width("a") + 100.0);
    }
}
