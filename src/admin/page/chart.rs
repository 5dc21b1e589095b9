//! Small charts of the last hour, as SVG within the page: one path per series, no script, and the
//! same as text.

use maud::{Markup, html};

use super::units::NOTHING;
use crate::admin::history::STEPS;

/// Units of the drawing; the page scales it.
const WIDTH: f64 = STEPS as f64;
const HEIGHT: f64 = 60.0;

/// Without a margin, a line at the very top would be cut in half.
const MARGIN: f64 = 1.0;

/// A chart.
pub struct Chart<'a> {
    /// Unique on the page.
    pub id: &'a str,
    pub title: &'a str,
    /// At most two: more could not be distinguished at this size.
    pub series: Vec<Series<'a>>,
    /// Formats its values.
    pub unit: fn(f64) -> String,
}

/// One line of a chart.
pub struct Series<'a> {
    pub name: &'a str,
    /// Its colour's name in the style sheet.
    pub colour: &'a str,
    /// The current value.
    pub now: Option<f64>,
    /// One value per step, the oldest first; `None` if there was none.
    pub values: &'a [Option<f64>],
}

impl Chart<'_> {
    pub fn draw(&self) -> Markup {
        let highest = self.series.iter().flat_map(|series| series.values.iter().flatten()).copied().fold(0.0, f64::max);
        let top = rounded_up(highest);
        let labels = format!("{}-title", self.id);
        html! {
            figure.chart id=(self.id) data-live aria-labelledby=(labels) {
                figcaption {
                    h3 id=(labels) { (self.title) }
                    ul.legend {
                        @for series in &self.series {
                            li { span.swatch.(series.colour) {} (series.name) " " b { (self.value(series.now)) } }
                        }
                    }
                }
                div.plot {
                    svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img" aria-label=(self.in_words()) {
                        path.grid d=(format!("M0 {0}H{WIDTH}M0 {1}H{WIDTH}", MARGIN, HEIGHT / 2.0)) {}
                        @for series in &self.series {
                            path.area.(series.colour) d=(path(series.values, top, true)) {}
                            path.line.(series.colour) d=(path(series.values, top, false)) {}
                        }
                        path.base d=(format!("M0 {HEIGHT}H{WIDTH}")) {}
                    }
                    span.top aria-hidden="true" { @if highest > 0.0 { (rounded((self.unit)(top))) } }
                    @if highest == 0.0 {
                        span.empty aria-hidden="true" { (self.nothing()) }
                    }
                }
                div.axis aria-hidden="true" { span { "1 h ago" } span { "30 min" } span { "now" } }
            }
        }
    }

    fn value(&self, value: Option<f64>) -> String {
        value.map_or_else(|| NOTHING.to_owned(), self.unit)
    }

    fn nothing(&self) -> &'static str {
        let is_known = self.series.iter().any(|series| series.values.iter().any(Option::is_some));
        if is_known { "none in the last hour" } else { "no data yet" }
    }

    fn in_words(&self) -> String {
        let each = self.series.iter().map(|series| {
            let known = || series.values.iter().flatten().copied();
            match known().count() {
                0 => format!("{}: no data yet", series.name),
                count => format!(
                    "{}: now {}, on average {}, at most {}",
                    series.name,
                    self.value(series.now),
                    (self.unit)(known().sum::<f64>() / count as f64),
                    (self.unit)(known().fold(0.0, f64::max)),
                ),
            }
        });
        format!("{}, the last hour. {}.", self.title, each.collect::<Vec<_>>().join(". "))
    }
}

/// A line through the values, or the area below it; in pieces if values are missing.
fn path(values: &[Option<f64>], top: f64, closed: bool) -> String {
    let mut path = String::new();
    let mut begun_at = None;
    for (place, value) in values.iter().enumerate() {
        let (left, right) = (place, place + 1);
        match (value, begun_at) {
            (Some(value), begun) => {
                let y = HEIGHT - (HEIGHT - MARGIN) * (value / top).clamp(0.0, 1.0);
                if begun.is_none() {
                    path.push_str(&if closed { format!("M{left} {HEIGHT}V{y:.1}") } else { format!("M{left} {y:.1}") });
                    begun_at = Some(left);
                }
                path.push_str(&format!("L{right} {y:.1}"));
            }
            (None, Some(_)) => {
                if closed {
                    path.push_str(&format!("V{HEIGHT}Z"));
                }
                begun_at = None;
            }
            (None, None) => {}
        }
    }
    if closed && begun_at.is_some() {
        path.push_str(&format!("V{HEIGHT}Z"));
    }
    path
}

/// `2/s` for `2.00/s`.
fn rounded(text: String) -> String {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && !".,".contains(letter)).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    match number.contains('.') {
        true => format!("{}{unit}", number.trim_end_matches('0').trim_end_matches('.')),
        false => text,
    }
}

/// The next of 1, 2, 5, 10, 20, …; 1 for zero, which is drawn at the bottom then.
fn rounded_up(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let fraction = value / power;
    // A power of ten with a rounding error stays one.
    [1.0, 2.0, 5.0].into_iter().find(|step| fraction <= step * 1.000_001).unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, top) in [
            (0.0, 1.0),
            (0.0003, 0.0005),
            (0.9, 1.0),
            (1.0, 1.0),
            (1.1, 2.0),
            (4.0, 5.0),
            (7.0, 10.0),
            (1000.0, 1000.0),
        ] {
            assert!((rounded_up(value) - top).abs() < top * 1e-9, "{value}: {}", rounded_up(value));
        }
    }

    #[test]
    fn labels_are_short() {
        for (text, short) in [("2.00/s", "2/s"), ("1.20/min", "1.2/min"), ("1,000/s", "1,000/s"), ("500 µs", "500 µs")]
        {
            assert_eq!(rounded(text.to_owned()), short);
        }
    }

    #[test]
    fn gaps_stay_gaps() {
        let values = [None, Some(1.0), Some(0.5), None, Some(0.0)];
        assert_eq!(path(&values, 1.0, false), "M1 1.0L2 1.0L3 30.5M4 60.0L5 60.0");
        assert_eq!(path(&values, 1.0, true), "M1 60V1.0L2 1.0L3 30.5V60ZM4 60V60.0L5 60.0V60Z");
        assert_eq!(path(&[None], 1.0, true), "");
    }

    #[test]
    fn it_is_said_in_words_too() {
        let values = [None, Some(1.0), Some(3.0)];
        let series = Series { name: "a<b", colour: "blue", now: Some(2.0), values: &values };
        let chart = Chart { id: "x", title: "Title", series: vec![series], unit: super::super::units::rate };
        assert_eq!(chart.in_words(), "Title, the last hour. a<b: now 2.00/s, on average 2.00/s, at most 3.00/s.");
        let drawn = chart.draw().into_string();
        assert!(drawn.contains("a&lt;b") && !drawn.contains("a<b"), "{drawn}");
        assert!(!drawn.contains("no data yet"));
    }
}
