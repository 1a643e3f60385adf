//! Charts as SVG.

use super::super::judge::CategoryOutcome;
use super::EpochLosses;
use std::fmt::Write;

const WIDTH: f64 = 720.0;
/// Longest name of a category beside its line, characters; the whole name is in the line's title.
const NAME: usize = 24;
const COLOURS: [&str; 8] = [
    "#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f",
];

/// Text that is safe between tags and in quotes.
pub(super) fn escape(text: &str) -> String {
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

/// Losses over epochs, a line a part, each scaled to its own first value so that all can be read.
pub(super) fn curves(curves: &[EpochLosses]) -> String {
    let names: Vec<&str> = match curves.iter().max_by_key(|e| e.losses.len()) {
        Some(epoch) => epoch.losses.iter().map(|(name, _)| name.as_str()).collect(),
        None => return "<p class=note>No epoch was trained in this run.</p>".into(),
    };
    let series: Vec<(&str, Vec<(usize, f64)>)> = names
        .iter()
        .map(|name| {
            let of = |e: &EpochLosses| e.losses.iter().find(|(n, _)| n == name).map(|l| l.1);
            let points = curves.iter().filter_map(|e| Some((e.epoch, of(e)?)));
            (*name, points.filter(|p| p.1.is_finite()).collect())
        })
        .collect();
    let (left, top, height) = (48.0, 12.0, 200.0);
    let last = curves.iter().map(|e| e.epoch).max().unwrap_or(1).max(2);
    let first = curves
        .iter()
        .map(|e| e.epoch)
        .min()
        .unwrap_or(1)
        .min(last - 1);
    // A part may begin at nothing (a penalty on what starts at zero): the largest value is what
    // there always is.
    let relative = |points: &[(usize, f64)]| -> Vec<(usize, f64)> {
        let largest = points.iter().map(|p| p.1.abs()).fold(0.0f64, f64::max);
        let base = if largest > 0.0 { largest } else { 1.0 };
        points.iter().map(|(e, v)| (*e, v / base)).collect()
    };
    let all: Vec<_> = series
        .iter()
        .map(|(name, points)| (*name, relative(points), points))
        .collect();
    let x = |epoch: usize| {
        left + (WIDTH - left - 12.0) * (epoch - first) as f64 / (last - first) as f64
    };
    let y = |value: f64| top + height * (1.0 - value.clamp(0.0, 1.0));
    let mut svg = format!(
        "<svg viewBox='0 0 {WIDTH} {:.0}' role=img aria-label='Training losses'>\
         <text class=axis x={:.1} y={:.1} text-anchor=middle>epoch</text>",
        top + height + 38.0,
        (left + WIDTH - 12.0) / 2.0,
        top + height + 33.0
    );
    for tick in 0..=4 {
        let value = f64::from(tick) / 4.0;
        let at = y(value);
        let _ = write!(
            svg,
            "<line class=grid x1={left} x2={} y1={at:.1} y2={at:.1} /><text class=axis x={} y={:.1} text-anchor=end>{:.0} %</text>",
            WIDTH - 12.0,
            left - 6.0,
            at + 4.0,
            100.0 * value
        );
    }
    for epoch in first..=last {
        if (last - first) <= 16 || (epoch - first) % 5 == 0 {
            let _ = write!(
                svg,
                "<text class=axis x={:.1} y={:.1} text-anchor=middle>{epoch}</text>",
                x(epoch),
                top + height + 16.0
            );
        }
    }
    for (i, (_, points, _)) in all.iter().enumerate() {
        let path: Vec<String> = points
            .iter()
            .map(|(e, v)| format!("{:.1},{:.1}", x(*e), y(*v)))
            .collect();
        let colour = COLOURS[i % COLOURS.len()];
        let _ = write!(
            svg,
            "<polyline fill=none stroke='{colour}' stroke-width=2 points='{}' />",
            path.join(" ")
        );
    }
    svg.push_str("</svg><p class=legend>");
    for (i, (name, _, points)) in all.iter().enumerate() {
        let (from, to) = (
            points.first().map_or(0.0, |p| p.1),
            points.last().map_or(0.0, |p| p.1),
        );
        let _ = write!(
            svg,
            "<span><i style='background:{}'></i>{} {from:.3} &rarr; {to:.3}</span>",
            COLOURS[i % COLOURS.len()],
            escape(name)
        );
    }
    svg.push_str("</p>");
    svg
}

/// AP of every category before and after, with the interval of the difference.
pub(super) fn categories(outcomes: &[CategoryOutcome]) -> String {
    if outcomes.is_empty() {
        return "<p class=note>No category has known presences and absences in the held-out part.</p>".into();
    }
    let mut sorted: Vec<&CategoryOutcome> = outcomes.iter().collect();
    sorted.sort_by(|a, b| b.difference.estimate.total_cmp(&a.difference.estimate));
    let longest = sorted.iter().map(|o| o.category.chars().count()).max();
    let left = 20.0 + 7.0 * longest.unwrap_or(0).min(NAME) as f64;
    let (row, top) = (22.0, 42.0);
    let span = WIDTH - left - 142.0;
    let x = |ap: f64| left + span * ap.clamp(0.0, 1.0);
    let bottom = top + row * sorted.len() as f64;
    let mut svg = format!(
        "<svg viewBox='0 0 {WIDTH} {:.0}' role=img aria-label='Average precision before and after'>\
         <text class=axis x={:.1} y=14 text-anchor=middle>average precision, points</text>\
         <text class=axis x={} y=14 text-anchor=end>difference [bounds]</text>",
        bottom + 8.0,
        left + span / 2.0,
        WIDTH - 4.0
    );
    for tick in 0..=4 {
        let at = x(f64::from(tick) / 4.0);
        let _ = write!(
            svg,
            "<line class=grid x1={at:.1} x2={at:.1} y1={top} y2={bottom:.1} /><text class=axis x={at:.1} y=34 text-anchor=middle>{}</text>",
            25 * tick
        );
    }
    for (i, o) in sorted.iter().enumerate() {
        let y = top + row * (i as f64 + 0.5);
        let d = &o.difference;
        let better = d.estimate >= 0.0;
        let colour = if better { "#059669" } else { "#dc2626" };
        let name: String = o.category.chars().take(NAME).collect();
        let _ = write!(
            svg,
            "<g><title>{} - {} present, {} absent; AP {:.1} to {:.1}, difference {:+.1} [{:+.1}, {:+.1}]</title>\
             <text class=name x={} y={:.1} text-anchor=end>{}</text>\
             <line x1={:.1} x2={:.1} y1={y:.1} y2={y:.1} class=interval />\
             <line x1={:.1} x2={:.1} y1={y:.1} y2={y:.1} stroke='{colour}' stroke-width=4 />\
             <circle cx={:.1} cy={y:.1} r=4 class=before /><circle cx={:.1} cy={y:.1} r=4.5 fill='{colour}' />\
             <text class=axis x={} y={:.1} text-anchor=end>{:+.1} [{:+.1}, {:+.1}]</text></g>",
            escape(&o.category),
            o.present,
            o.absent,
            100.0 * o.champion,
            100.0 * o.candidate,
            100.0 * d.estimate,
            100.0 * d.lower,
            100.0 * d.upper,
            left - 10.0,
            y + 4.0,
            escape(&name),
            x(o.champion + d.lower),
            x(o.champion + d.upper),
            x(o.champion),
            x(o.candidate),
            x(o.champion),
            x(o.candidate),
            WIDTH - 4.0,
            y + 4.0,
            100.0 * d.estimate,
            100.0 * d.lower,
            100.0 * d.upper
        );
    }
    svg.push_str("</svg><p class=legend><span><i class=hollow></i>before</span><span><i style='background:#059669'></i>after, better</span><span><i style='background:#dc2626'></i>after, worse</span><span><i class=bar></i>interval of the difference, from before</span></p>");
    svg
}
