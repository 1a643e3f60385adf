//! Which times a table can hold, and how they are written.

use super::message_error::MessageError;
use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, Utc};

/// The first time that every reader takes: before it, Spark 3.5 asks which calendar was meant.
const FIRST: &str = "1900-01-01T00:00:00Z";
/// The first time that some reader does not take any more: pandas counts nanoseconds in 64 bits.
const END: &str = "2262-01-01T00:00:00Z";

/// Refuses a time that some reader of the tables cannot read: one such row would keep it from
/// reading any other. `of` names the time for people.
///
/// ```
/// use tagstream_core::events::readable_time;
///
/// assert!(readable_time("2026-01-01T00:00:00Z".parse()?, "`event_time`").is_ok());
/// assert!(readable_time("0001-01-01T00:00:00Z".parse()?, "`event_time`").is_err());
/// # Ok::<(), chrono::ParseError>(())
/// ```
///
/// # Errors
/// [`MessageError::TimeOutOfRange`].
pub fn readable_time(time: DateTime<Utc>, of: &'static str) -> Result<(), MessageError> {
    let limit = |text: &str| text.parse::<DateTime<Utc>>().ok();
    let fits =
        limit(FIRST).is_some_and(|first| first <= time) && limit(END).is_some_and(|end| time < end);
    if fits {
        return Ok(());
    }
    Err(MessageError::TimeOutOfRange {
        of,
        time: time.to_rfc3339(),
        first: FIRST,
        end: END,
    })
}

/// How times are written that name no zone.
const WITHOUT_ZONE: [&str; 4] = [
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M",
    // Cameras (EXIF).
    "%Y:%m:%dT%H:%M:%S%.f",
    "%Y/%m/%dT%H:%M:%S%.f",
];

/// Reads a time: RFC 3339, with a blank for the `T` or without seconds, or digits since 1970. One
/// that names no zone is of `zone`; without one it is refused.
///
/// # Errors
/// Why it is none, to stand behind its name; what was written is not repeated.
pub fn read_time(text: &str, zone: Option<FixedOffset>) -> Result<DateTime<Utc>, String> {
    const WRITE: &str = "write 2026-01-31T12:00:00Z";
    let text = text.trim();
    if let Ok(time) = text.parse::<DateTime<Utc>>() {
        return Ok(time);
    }
    // PostgreSQL writes `+00` for `+00:00`.
    let hours = text.len().checked_sub(3).and_then(|at| text.get(at..));
    if hours.is_some_and(|hours| hours.starts_with(['+', '-']))
        && let Ok(time) = format!("{text}:00").parse::<DateTime<Utc>>()
    {
        return Ok(time);
    }
    if let Some(time) = time_of_number(text) {
        return Ok(time);
    }
    let with_t = text.replacen(' ', "T", 1);
    let of_form = |form: &&str| NaiveDateTime::parse_from_str(&with_t, form).ok();
    let day = || {
        NaiveDate::parse_from_str(text, "%Y-%m-%d")
            .ok()?
            .and_hms_opt(0, 0, 0)
    };
    let Some(local) = WITHOUT_ZONE.iter().find_map(of_form).or_else(day) else {
        return Err(format!("is no time: {WRITE}"));
    };
    let Some(zone) = zone else {
        return Err(format!("is a time without a zone: {WRITE}"));
    };
    let time = local.and_local_timezone(zone).single();
    let time = time.ok_or_else(|| format!("is no time: {WRITE}"))?;
    Ok(time.to_utc())
}

/// A time by its digits since 1970: seconds, or thousandths, millionths or billionths of them. Each
/// is told by its size, from 1973 on; what is smaller is seconds.
pub(super) fn time_of_number(digits: &str) -> Option<DateTime<Utc>> {
    const SIZES: [(u64, i64); 4] = [
        (100_000_000_000, 1),
        (100_000_000_000_000, 1_000),
        (100_000_000_000_000_000, 1_000_000),
        (u64::MAX, 1_000_000_000),
    ];
    // Seconds with a fraction, as Python's clock gives them.
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let only_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !only_digits(whole.strip_prefix('-').unwrap_or(whole)) || !only_digits(fraction) {
        return None;
    }
    let number: i64 = whole.parse().ok()?;
    let (_, unit) = SIZES
        .iter()
        .find(|(most, _)| number.unsigned_abs() < *most)?;
    let mut nanos = (number.rem_euclid(*unit)) * (1_000_000_000 / unit);
    if *unit == 1 && number >= 0 {
        let nine: String = fraction
            .chars()
            .chain("000000000".chars())
            .take(9)
            .collect();
        nanos += nine.parse::<i64>().ok()?;
    }
    DateTime::from_timestamp(number.div_euclid(*unit), nanos.try_into().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{ImageReference, LabelEvent};

    #[test]
    fn times_are_read_as_they_are_written() {
        let utc = FixedOffset::east_opt(0);
        for (written, meant) in [
            ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
            (" 2026-01-31T12:00:00.5+02:00 ", "2026-01-31T10:00:00.5Z"),
            ("2026-01-31 12:00:00Z", "2026-01-31T12:00:00Z"),
            ("2026-01-31 12:00:00+00", "2026-01-31T12:00:00Z"),
            ("2026-01-31T12:00:00", "2026-01-31T12:00:00Z"),
            ("2026-01-31T12:00:00.25", "2026-01-31T12:00:00.25Z"),
            ("2026-01-31 12:00:00", "2026-01-31T12:00:00Z"),
            ("2026-01-31T12:00", "2026-01-31T12:00:00Z"),
            ("2026-01-31", "2026-01-31T00:00:00Z"),
            ("2026:01:31 12:00:00", "2026-01-31T12:00:00Z"),
            ("1769860800", "2026-01-31T12:00:00Z"),
            ("1769860800.5", "2026-01-31T12:00:00.5Z"),
            ("1769860800250", "2026-01-31T12:00:00.25Z"),
            ("1769860800000001", "2026-01-31T12:00:00.000001Z"),
            ("1769860800000000001", "2026-01-31T12:00:00.000000001Z"),
            ("-1", "1969-12-31T23:59:59Z"),
        ] {
            let meant: DateTime<Utc> = meant.parse().unwrap();
            assert_eq!(read_time(written, utc), Ok(meant), "{written}");
        }
        let berlin = FixedOffset::east_opt(3_600);
        let read = read_time("2026-01-31T12:00:00", berlin).unwrap();
        assert_eq!(read.to_rfc3339(), "2026-01-31T11:00:00+00:00");
        let said = read_time("2026-01-31T12:00:00", None).unwrap_err();
        assert!(said.contains("without a zone"), "{said}");
        for none in [
            "",
            "yesterday",
            "12:00",
            "2026-13-01",
            "1e9",
            "1.2.3",
            "--1",
            "+5",
        ] {
            let said = read_time(none, utc).unwrap_err();
            assert!(said.contains("no time"), "{none}: {said}");
        }
    }

    #[test]
    fn only_times_that_every_reader_takes_are_taken() {
        for (time, good) in [
            ("1900-01-01T00:00:00Z", true),
            ("1970-01-01T00:00:00Z", true),
            ("2026-01-01T00:00:00.123456789Z", true),
            ("2261-12-31T23:59:59.999999Z", true),
            ("1899-12-31T23:59:59.999999Z", false),
            ("1900-01-01T00:00:00+00:01", false),
            ("0001-01-01T00:00:00Z", false),
            ("-0001-01-01T00:00:00Z", false),
            ("2262-01-01T00:00:00Z", false),
            ("9999-12-31T23:59:59Z", false),
            ("+12026-01-01T00:00:00Z", false),
        ] {
            let message = format!(r#"{{"image_id":"a","uri":"x","event_time":"{time}"}}"#);
            let image = ImageReference::from_json(message.as_bytes()).map(|_| ());
            let label = LabelEvent::from_json(message.as_bytes()).map(|_| ());
            assert_eq!(image, label, "{time}");
            match image {
                Ok(()) => assert!(good, "{time}"),
                Err(error) => {
                    let told = error.to_string();
                    assert!(!good && told.contains("`event_time`"), "{time}: {told}");
                    assert!(
                        matches!(error, MessageError::TimeOutOfRange { .. }),
                        "{told}"
                    );
                    assert!(
                        told.contains("1900-01-01") && told.contains("2262-01-01"),
                        "{told}"
                    );
                }
            }
        }
    }
}
