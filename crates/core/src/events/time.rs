//! Which times a table can hold.

use super::message_error::MessageError;
use chrono::{DateTime, Utc};

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

/// [`readable_time`] of a message's own `event_time`, which it may lack.
pub(super) fn readable_event_time(time: Option<DateTime<Utc>>) -> Result<(), MessageError> {
    time.map_or(Ok(()), |time| readable_time(time, "`event_time`"))
}

#[cfg(test)]
mod tests {
    use crate::events::{ImageReference, LabelEvent, MessageError};

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
