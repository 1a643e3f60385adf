//! Charts as SVG: of losses beside a training run, and in the report of a retraining.
//!
//! A chart in a page takes its colours from the page (classes `grid`, `axis` and `name`), so that
//! it is right on a dark ground too; a chart that is a file of its own brings them.

use std::fmt::Write;

/// Width of a chart, in its own units.
pub const WIDTH: f64 = 720.0;
/// Colours that can be told apart with any colour vision (Okabe and Ito), and on any ground.
pub const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999",
];

/// Space of a line chart around its lines: left, right, above and below.
const MARGINS: (f64, f64, f64, f64) = (48.0, 12.0, 12.0, 38.0);
/// Height of what the lines are in.
const HEIGHT: f64 = 200.0;
/// Width of the names beside a chart that is a file.
const NAMES: f64 = 180.0;
/// The most steps that the horizontal axis names.
const MOST_TICKS: usize = 16;
/// What a page has in its style sheet.
const STYLE: &str = "<style>svg{background:#fff;font-family:sans-serif}.grid{stroke:#ddd}\
                     .axis{fill:#555;font-size:11px}.name{font-size:12px}</style>";

/// The colour of the line with this number.
pub fn colour(number: usize) -> &'static str {
    COLOURS[number % COLOURS.len()]
}

/// Text that is safe between tags and in quotes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Where a text stands from its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// Behind it.
    Start,
    /// On both sides.
    Middle,
    /// Before it.
    End,
}

/// A picture under way.
#[derive(Debug)]
pub struct Drawing {
    svg: String,
}

impl Drawing {
    /// An empty picture; `label` says what it shows to those who cannot see it.
    pub fn new(width: f64, height: f64, label: &str) -> Self {
        let label = escape(label);
        let size = format!("viewBox='0 0 {width:.0} {height:.0}'");
        Drawing {
            svg: format!("<svg {size} role='img' aria-label='{label}'>"),
        }
    }

    /// A straight line; `look` is its class or its stroke, as attributes.
    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), look: &str) {
        let ends = format!("x1='{x1:.1}' x2='{x2:.1}' y1='{y1:.1}' y2='{y2:.1}'");
        self.push(format_args!("<line {ends} {look}/>"));
    }

    /// A line through all `points`.
    pub fn polyline(&mut self, points: impl Iterator<Item = (f64, f64)>, colour: &str) {
        let points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let (points, look) = (points.join(" "), format!("fill='none' stroke='{colour}'"));
        self.push(format_args!(
            "<polyline points='{points}' {look} stroke-width='2'/>"
        ));
    }

    /// A dot; `look` is its class or its fill, as attributes.
    pub fn dot(&mut self, (x, y): (f64, f64), radius: f64, look: &str) {
        self.push(format_args!(
            "<circle cx='{x:.1}' cy='{y:.1}' r='{radius}' {look}/>"
        ));
    }

    /// Text of a class, any text.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        let look = format!("class='{class}' text-anchor='{anchor}'");
        self.push(format_args!(
            "<text x='{x:.1}' y='{y:.1}' {look}>{text}</text>"
        ));
    }

    /// Begins a group that tells `title` when it is pointed at.
    pub fn begin_group(&mut self, title: &str) {
        self.push(format_args!("<g><title>{}</title>", escape(title)));
    }

    /// Closes the group that was opened last.
    pub fn end_group(&mut self) {
        self.svg.push_str("</g>");
    }

    /// The whole picture.
    pub fn finish(mut self) -> String {
        self.svg.push_str("</svg>");
        self.svg
    }

    fn push(&mut self, part: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.svg.write_fmt(part);
    }
}

/// A line of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What it shows.
    pub name: String,
    /// Steps from left to right with their values, which are finite.
    pub points: Vec<(usize, f64)>,
}

/// Values over steps, a line a series.
#[derive(Debug)]
pub struct LineChart<'a> {
    /// What it shows, in words.
    pub label: &'a str,
    /// What a step is.
    pub step: &'a str,
    /// The lines.
    pub series: &'a [Series],
    /// Values at the bottom and at the top.
    pub range: (f64, f64),
    /// How a value on the axis is written.
    pub value: fn(f64) -> String,
}

impl LineChart<'_> {
    /// For a page, which has the names of the lines beside it.
    pub fn in_page(&self) -> String {
        self.draw(WIDTH).finish()
    }

    /// As a file of its own, the names beside the lines.
    pub fn as_file(&self) -> String {
        let mut drawing = self.draw(WIDTH + NAMES);
        drawing.svg.push_str(STYLE);
        for (number, series) in self.series.iter().enumerate() {
            let y = MARGINS.2 + 14.0 + 18.0 * number as f64;
            let (dash, text) = ((WIDTH, y - 4.0), (WIDTH + 20.0, y));
            let look = format!("stroke='{}' stroke-width='2'", colour(number));
            drawing.line(dash, (WIDTH + 14.0, y - 4.0), &look);
            drawing.text(text, Anchor::Start, "name", &series.name);
        }
        // In a page the element is known by its name alone, in a file by its name space.
        let svg = drawing.finish();
        let svg = svg.replacen("<svg ", "<svg xmlns='http://www.w3.org/2000/svg' ", 1);
        svg + "\n"
    }

    fn draw(&self, width: f64) -> Drawing {
        let (left, right, top, below) = MARGINS;
        let (first, last) = self.steps();
        let across = WIDTH - left - right;
        let x = |step: usize| left + across * (step - first) as f64 / (last - first) as f64;
        let (low, high) = self.range;
        let span = (high - low).max(f64::MIN_POSITIVE);
        let y = |value: f64| top + HEIGHT * (high - value.clamp(low, high)) / span;
        let mut drawing = Drawing::new(width, top + HEIGHT + below, self.label);
        for quarter in 0..=4 {
            let value = low + (high - low) * f64::from(quarter) / 4.0;
            let at = y(value);
            drawing.line((left, at), (WIDTH - right, at), "class='grid'");
            let text = (self.value)(value);
            drawing.text((left - 6.0, at + 4.0), Anchor::End, "axis", &text);
        }
        let middle = (left + across / 2.0, top + HEIGHT + 33.0);
        drawing.text(middle, Anchor::Middle, "axis", self.step);
        for step in (first..=last).step_by(tick_width(last - first)) {
            let under = (x(step), top + HEIGHT + 16.0);
            drawing.text(under, Anchor::Middle, "axis", &step.to_string());
        }
        for (number, series) in self.series.iter().enumerate() {
            let points = series.points.iter().map(|(step, v)| (x(*step), y(*v)));
            drawing.polyline(points, colour(number));
        }
        drawing
    }

    /// The first and the last step, which are never the same.
    fn steps(&self) -> (usize, usize) {
        let steps = || {
            self.series
                .iter()
                .flat_map(|s| s.points.iter().map(|p| p.0))
        };
        let first = steps().min().unwrap_or(1);
        (first, steps().max().unwrap_or(2).max(first + 1))
    }
}

/// 1, 2 or 5 times a power of ten, so that no more than [`MOST_TICKS`] fit into `steps`.
fn tick_width(steps: usize) -> usize {
    let powers = std::iter::successors(Some(1usize), |power| power.checked_mul(10));
    let mut widths = powers.flat_map(|power| [1, 2, 5].map(|n| power.saturating_mul(n)));
    let fits = |width: &usize| steps / width < MOST_TICKS;
    widths.find(fits).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, points: &[(usize, f64)]) -> Series {
        Series {
            name: name.into(),
            points: points.to_vec(),
        }
    }

    fn chart(series: &[Series]) -> LineChart<'_> {
        LineChart {
            label: "Losses",
            step: "epoch",
            series,
            range: (0.0, 1.0),
            value: |value| format!("{value:.2}"),
        }
    }

    #[test]
    fn a_line_goes_from_edge_to_edge() {
        let lines = [series("a", &[(1, 1.0), (3, 0.0)]), series("b", &[(2, 0.5)])];
        let svg = chart(&lines).in_page();
        assert!(svg.contains("points='48.0,12.0 708.0,212.0'"), "{svg}");
        assert!(svg.contains("points='378.0,112.0'"), "{svg}");
        // The page names them.
        assert!(!svg.contains(">a<"), "{svg}");
        let svg = chart(&lines).as_file();
        assert!(svg.contains(">a<") && svg.contains(">b<"), "{svg}");
    }

    #[test]
    fn nothing_and_one_point_have_a_place() {
        for lines in [
            vec![],
            vec![series("a", &[])],
            vec![series("a", &[(7, 0.5)])],
        ] {
            let svg = chart(&lines).as_file();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn names_are_text() {
        let svg = chart(&[series("<b a='1'>&", &[(1, 0.5)])]).as_file();
        assert!(svg.contains("&lt;b a=&#39;1&#39;&gt;&amp;"), "{svg}");
    }

    #[test]
    fn steps_are_named_as_far_as_they_fit() {
        let widths = [0, 1, 15, 16, 40, 100, 1000].map(tick_width);
        assert_eq!(widths, [1, 1, 1, 2, 5, 10, 100]);
    }
}
