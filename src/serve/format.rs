//! Figures and times for people.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

/// A time, by the minute.
pub(crate) fn time(time: DateTime<Utc>) -> Markup {
    html! {
        time datetime=(time.format("%Y-%m-%dT%H:%M:%SZ")) title=(time.format("%H:%M:%S UTC")) {
            (time.format("%Y-%m-%d %H:%M"))
        }
    }
}

/// How long ago, roughly.
pub(crate) fn ago(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    match now.signed_duration_since(time).num_seconds() {
        ..1 => "now".into(),
        seconds @ 1..120 => format!("{seconds} s ago"),
        seconds @ 120..7_200 => format!("{} min ago", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h ago", seconds / 3_600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

/// A whole number with spaces between thousands.
pub(crate) fn count(value: f64) -> String {
    // An empty sum of floats is -0.
    let digits = format!("{:.0}", value.max(0.0) + 0.0);
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{2009}');
        }
        text.push(digit);
    }
    text
}

/// A rate: three figures are enough.
pub(crate) fn rate(value: f64) -> String {
    match value {
        value if value >= 100.0 => count(value),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value > 0.0 => format!("{value:.2}"),
        _ => "0".into(),
    }
}

/// A time span of seconds.
pub(crate) fn seconds(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value < 0.001 => format!("{:.0} µs", 1e6 * value.max(0.0)),
        Some(value) if value < 1.0 => format!("{:.0} ms", 1e3 * value),
        Some(value) if value < 120.0 => format!("{value:.1} s"),
        Some(value) if value < 7_200.0 => format!("{:.0} min", value / 60.0),
        Some(value) => format!("{:.0} h", value / 3_600.0),
    }
}

/// In the largest unit of which there is at least one: `3.4 MiB`.
pub(crate) fn bytes(value: f64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = value.max(0.0);
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit > 0 && value < 10.0 {
        true => format!("{value:.1} {}", UNITS[unit]),
        false => format!("{value:.0} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!(count(1_234_567.0), "1\u{2009}234\u{2009}567");
        assert_eq!((count(-0.0), count(999.0)), ("0".into(), "999".into()));
        assert_eq!(
            (rate(0.5), rate(31.25), rate(1_234.0)),
            ("0.50".into(), "31.2".into(), "1\u{2009}234".into())
        );
        assert_eq!((rate(0.0), rate(-0.0)), ("0".into(), "0".into()));
        assert_eq!(bytes(1_536.0), "1.5 KiB");
        assert_eq!(bytes(512.0 * 1024.0 * 1024.0), "512 MiB");
        assert_eq!(seconds(Some(0.0123)), "12 ms");
        assert_eq!(seconds(None), "-");
        let now = DateTime::from_timestamp(1_000_000, 0).unwrap();
        assert_eq!(ago(now - chrono::TimeDelta::seconds(90), now), "90 s ago");
        assert_eq!(ago(now + chrono::TimeDelta::seconds(90), now), "now");
        assert_eq!(ago(now - chrono::TimeDelta::days(3), now), "3 days ago");
    }
}
