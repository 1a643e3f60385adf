//! What the report shows as charts.

use super::EpochLosses;
use crate::retrain::judge::CategoryOutcome;
use std::fmt::Write;
use tagstream_train::chart::{Anchor, Drawing, LineChart, Series, WIDTH, colour, escape};

/// Longest name of a category beside its line, characters; the whole name is in the line's title.
const NAME: usize = 24;
const BETTER: &str = "#059669";
const WORSE: &str = "#dc2626";

/// Losses over epochs, a line a part, each scaled to its own largest value so that all can be read.
pub(super) fn curves(curves: &[EpochLosses]) -> String {
    let Some(longest) = curves.iter().max_by_key(|epoch| epoch.losses.len()) else {
        return "<p class=note>No epoch was trained in this run.</p>".into();
    };
    let parts: Vec<Series> = longest
        .losses
        .iter()
        .map(|(name, _)| part(name, curves))
        .collect();
    let relative: Vec<Series> = parts.iter().map(relative).collect();
    let chart = LineChart {
        label: "Training losses",
        step: "epoch",
        series: &relative,
        range: (0.0, 1.0),
        value: |share| format!("{:.0} %", 100.0 * share),
    };
    let mut page = chart.in_page();
    page.push_str("<p class=legend>");
    for (number, part) in parts.iter().enumerate() {
        let value = |point: Option<&(usize, f64)>| point.map_or(0.0, |p| p.1);
        let (from, to) = (value(part.points.first()), value(part.points.last()));
        let (colour, name) = (colour(number), escape(&part.name));
        let _ = write!(
            page,
            "<span><i style='background:{colour}'></i>{name} {from:.3} &rarr; {to:.3}</span>"
        );
    }
    page.push_str("</p>");
    page
}

/// One part of the loss, epoch by epoch.
fn part(name: &str, curves: &[EpochLosses]) -> Series {
    let of = |epoch: &EpochLosses| {
        let (_, value) = epoch.losses.iter().find(|(other, _)| other == name)?;
        value.is_finite().then_some((epoch.epoch, *value))
    };
    Series {
        name: name.to_owned(),
        points: curves.iter().filter_map(of).collect(),
    }
}

/// In shares of the largest value. A part may begin at nothing (a penalty on what starts at zero):
/// the largest value is what there always is.
fn relative(part: &Series) -> Series {
    let values = part.points.iter().map(|point| point.1.abs());
    let largest = values.fold(0.0, f64::max);
    let base = if largest > 0.0 { largest } else { 1.0 };
    let points = part.points.iter().map(|(epoch, v)| (*epoch, v / base));
    Series {
        name: part.name.clone(),
        points: points.collect(),
    }
}

/// AP of every category before and after, with the interval of the difference.
pub(super) fn categories(outcomes: &[CategoryOutcome]) -> String {
    if outcomes.is_empty() {
        return "<p class=note>No category has known presences and absences in the held-out \
                part.</p>"
            .into();
    }
    let mut sorted: Vec<&CategoryOutcome> = outcomes.iter().collect();
    sorted.sort_by(|a, b| b.difference.estimate.total_cmp(&a.difference.estimate));
    let longest = sorted.iter().map(|o| o.category.chars().count()).max();
    let rows = CategoryRows {
        left: 20.0 + 7.0 * longest.unwrap_or(0).min(NAME) as f64,
        count: sorted.len(),
    };
    let mut drawing = rows.begin();
    for (row, outcome) in sorted.iter().enumerate() {
        rows.outcome(&mut drawing, row, outcome);
    }
    let legend = [
        ("class=hollow".to_owned(), "before"),
        (format!("style='background:{BETTER}'"), "after, better"),
        (format!("style='background:{WORSE}'"), "after, worse"),
        (
            "class=bar".to_owned(),
            "interval of the difference, from before",
        ),
    ];
    let legend = legend.map(|(mark, text)| format!("<span><i {mark}></i>{text}</span>"));
    let legend = legend.concat();
    format!("{}<p class=legend>{legend}</p>", drawing.finish())
}

/// Where the rows of the chart of categories are.
struct CategoryRows {
    /// Where the axis begins; the names are before it.
    left: f64,
    count: usize,
}

impl CategoryRows {
    const TOP: f64 = 42.0;
    const HEIGHT: f64 = 22.0;
    /// For the differences in figures.
    const RIGHT: f64 = 142.0;

    fn x(&self, precision: f64) -> f64 {
        self.left + (WIDTH - self.left - Self::RIGHT) * precision.clamp(0.0, 1.0)
    }

    /// The axis and its lines.
    fn begin(&self) -> Drawing {
        let bottom = Self::TOP + Self::HEIGHT * self.count as f64;
        let label = "Average precision before and after";
        let mut drawing = Drawing::new(WIDTH, bottom + 8.0, label);
        let head = "average precision, points";
        drawing.text((self.x(0.5), 14.0), Anchor::Middle, "axis", head);
        let head = "difference [bounds]";
        drawing.text((WIDTH - 4.0, 14.0), Anchor::End, "axis", head);
        for points in [0, 25, 50, 75, 100] {
            let at = self.x(f64::from(points) / 100.0);
            drawing.line((at, Self::TOP), (at, bottom), "class='grid'");
            drawing.text((at, 34.0), Anchor::Middle, "axis", &points.to_string());
        }
        drawing
    }

    fn outcome(&self, drawing: &mut Drawing, row: usize, o: &CategoryOutcome) {
        let y = Self::TOP + Self::HEIGHT * (row as f64 + 0.5);
        let d = &o.difference;
        let better = d.estimate >= 0.0;
        let colour = if better { BETTER } else { WORSE };
        let [estimate, lower, upper] = [d.estimate, d.lower, d.upper].map(|x| 100.0 * x);
        let difference = format!("{estimate:+.1} [{lower:+.1}, {upper:+.1}]");
        let (category, present, absent) = (&o.category, o.present, o.absent);
        let (before, after) = (100.0 * o.champion, 100.0 * o.candidate);
        drawing.begin_group(&format!(
            "{category} - {present} present, {absent} absent; \
             AP {before:.1} to {after:.1}, difference {difference}"
        ));
        let name: String = category.chars().take(NAME).collect();
        drawing.text((self.left - 10.0, y + 4.0), Anchor::End, "name", &name);
        let at = |precision: f64| (self.x(precision), y);
        let (before, after) = (at(o.champion), at(o.candidate));
        let bounds = (at(o.champion + d.lower), at(o.champion + d.upper));
        drawing.line(bounds.0, bounds.1, "class='interval'");
        let thick = format!("stroke='{colour}' stroke-width='4'");
        drawing.line(before, after, &thick);
        drawing.dot(before, 4.0, "class='before'");
        drawing.dot(after, 4.5, &format!("fill='{colour}'"));
        drawing.text((WIDTH - 4.0, y + 4.0), Anchor::End, "axis", &difference);
        drawing.end_group();
    }
}
