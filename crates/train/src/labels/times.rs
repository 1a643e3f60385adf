//! Times as annotation tools write them.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde_json::Value;

/// Forms without a zone.
const LOCAL: [&str; 2] = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
/// Seconds since 1970 that are milliseconds: the year 5138 has not come.
const MILLISECONDS: i64 = 100_000_000_000;
const READ: &str = "a time such as 2026-01-31T12:00:00Z is read";

/// A time, and whether it says its zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) time: DateTime<Utc>,
    pub(super) zoned: bool,
}

/// The time that `text` says.
pub(super) fn parse(text: &str) -> Result<Said, String> {
    let text = text.trim();
    if let Ok(time) = text.parse::<DateTime<Utc>>() {
        return Ok(Said { time, zoned: true });
    }
    let mut local = LOCAL
        .iter()
        .map(|form| NaiveDateTime::parse_from_str(text, form));
    match local.find_map(Result::ok) {
        Some(time) => Ok(Said {
            time: time.and_utc(),
            zoned: false,
        }),
        None => Err(format!("{text:?} is no time; {READ}")),
    }
}

/// The time of a JSON value: text, or seconds since 1970; `None` where nothing is said.
pub(super) fn of_value(value: Option<&Value>) -> Result<Option<Said>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Value::String(text)) => parse(text).map(Some),
        Some(Value::Number(number)) => {
            let seconds = number.as_f64().unwrap_or(f64::NAN) as i64;
            let time = match seconds.abs() >= MILLISECONDS {
                true => DateTime::from_timestamp_millis(seconds),
                false => DateTime::from_timestamp(seconds, 0),
            };
            let said = time.map(|time| Some(Said { time, zoned: true }));
            said.ok_or_else(|| format!("{number} is no time; {READ}"))
        }
        Some(other) => Err(format!("{} is no time; {READ}", super::json::kind(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_and_without_a_zone() {
        let noon = "2024-01-01T12:00:00Z".parse().unwrap();
        for (text, zoned) in [
            ("2024-01-01T12:00:00.000000Z", true),
            ("2024-01-01 14:00:00+02:00", true),
            ("2024-01-01T12:00:00.000000", false),
            ("2024-01-01 12:00:00", false),
        ] {
            let said = parse(text).unwrap();
            assert_eq!((said.time, said.zoned), (noon, zoned), "{text}");
        }
        for seconds in [1_704_110_400_i64, 1_704_110_400_000] {
            let said = of_value(Some(&seconds.into())).unwrap().unwrap();
            assert_eq!(said.time, noon);
        }
        assert_eq!(of_value(Some(&Value::Null)), Ok(None));
        for bad in [Value::from("yesterday"), true.into(), f64::MAX.into()] {
            assert!(of_value(Some(&bad)).unwrap_err().contains("is no time"));
        }
    }
}
