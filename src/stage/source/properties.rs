//! The properties of librdkafka: which there are, and what is said of one that is refused.
//!
//! librdkafka's own words repeat the value that it refuses, and a mistyped `sasl.pasword` is
//! refused with the password. [`Refusal`] names the property, the nearest one known and what it
//! takes, never a value.

use super::security::missing_login;
use super::token_keys::{AWS_MSK_IAM, is_taken};
use rdkafka::ClientConfig;
use rdkafka::bindings::rd_kafka_conf_properties_show;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::{ptr, slice};
use tagstream_core::config::Secret;

/// Why librdkafka makes no client of a configuration. Holds no value of any property.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No property has this name.
    #[error("`{property}` is no property of librdkafka{}", did_you_mean(.nearest))]
    Unknown {
        /// The property, as the user wrote it.
        property: String,
        /// The known name that is most like it.
        nearest: Option<&'static str>,
    },
    /// A right name, for which this build of librdkafka has no code.
    #[error("`{property}` cannot be used: {reason}")]
    Unsupported {
        /// The property.
        property: String,
        /// What librdkafka says of it.
        reason: String,
    },
    /// A value that the property does not take.
    #[error("`{property}` has a value that librdkafka refuses (it is not shown){}", takes(.range))]
    Value {
        /// The property.
        property: String,
        /// Values that it takes; empty where librdkafka lists none.
        range: &'static str,
    },
    /// Each property is right by itself, but they make no client.
    #[error("`kafka.properties` (or `--property`) make no client; values are shown as ***: {0}")]
    Client(String),
}

fn did_you_mean(nearest: &Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

fn takes(range: &str) -> String {
    match range {
        "" => String::new(),
        range => format!("; it takes {range}"),
    }
}

/// Checks every property by itself, without a broker: that librdkafka knows it, has it in this
/// build, and takes its value.
///
/// # Errors
/// [`Refusal`] for the first that is refused, in the order of their names.
pub fn check_properties(properties: &BTreeMap<String, Secret>) -> Result<(), Refusal> {
    for (key, value) in properties.iter().filter(|(key, _)| !is_taken(key)) {
        check_property(key, value.expose(), &format!("kafka.properties.\"{key}\""))?;
    }
    Ok(())
}

/// Checks one property, which the user knows as `shown`.
pub(super) fn check_property(key: &str, value: &str, shown: &str) -> Result<(), Refusal> {
    if matches!(key, "sasl.mechanism" | "sasl.mechanisms") {
        check_mechanism(value, shown)?;
    }
    let tried = ClientConfig::new().set(key, value).create_native_config();
    tried
        .map(drop)
        .map_err(|error| refusal(&error, |_| shown.to_owned(), &Hidden::of([(key, value)])))
}

/// Checks a way to log in, of which librdkafka would tell only when a client is made.
fn check_mechanism(value: &str, shown: &str) -> Result<(), Refusal> {
    let reason = match missing_login(value) {
        Some(reason) => reason,
        None if value.is_empty() || MECHANISMS.contains(&value) => return Ok(()),
        None => match MECHANISMS
            .iter()
            .find(|known| known.eq_ignore_ascii_case(value))
        {
            Some(known) => format!("it is written in capitals: `{known}`"),
            None => format!(
                "its value is no way to log in that is known here (it is not shown); there are {}",
                MECHANISMS.join(", ")
            ),
        },
    };
    Err(Refusal::Unsupported {
        property: shown.to_owned(),
        reason,
    })
}

/// Turns what a client's making was answered with into words without values: the only place where
/// this is done. `shown` is a property's name as the user knows it.
pub(super) fn refusal(
    error: &KafkaError,
    shown: impl Fn(&str) -> String,
    hidden: &Hidden,
) -> Refusal {
    let (code, words, key) = match error {
        KafkaError::ClientConfig(code, words, key, _) => (*code, words, key),
        KafkaError::ClientCreation(words) => return Refusal::Client(hidden.cover(words)),
        // Names and values go to librdkafka as C strings.
        KafkaError::Nul(_) => return Refusal::Client("a property contains a zero byte".into()),
        other => return Refusal::Client(hidden.cover(&other.to_string())),
    };
    let property = shown(key);
    if code == RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN {
        let nearest = nearest(key);
        return Refusal::Unknown { property, nearest };
    }
    let known = known().iter().find(|known| known.name == *key);
    match words.split_once("not supported in this build: ") {
        Some((_, reason)) => Refusal::Unsupported {
            property,
            reason: format!(
                "this build of librdkafka lacks it ({})",
                hidden.cover(reason)
            ),
        },
        // These names lead only to advice, such as which property takes the place of Java's.
        None if known.is_none() && !speaks_of_a_value(words) => Refusal::Unsupported {
            property,
            reason: hidden.cover(words),
        },
        None => Refusal::Value {
            property,
            range: known.map_or("", |known| &known.range),
        },
    }
}

fn speaks_of_a_value(words: &str) -> bool {
    words.to_ascii_lowercase().contains("value")
}

/// A property as librdkafka lists it.
#[derive(Debug)]
struct Known {
    name: String,
    /// Values or range that it takes; empty for free text.
    range: String,
}

/// Every name that librdkafka lists, of clients and of topics.
pub fn known_properties() -> impl Iterator<Item = &'static str> {
    known().iter().map(|known| known.name.as_str())
}

/// Every property that takes a number, with the least and the largest.
#[cfg(test)]
pub(super) fn ranges() -> Vec<(String, i64, i64)> {
    let range = |known: &Known| {
        let (least, most) = known.range.split_once(" .. ")?;
        Some((known.name.clone(), least.parse().ok()?, most.parse().ok()?))
    };
    known().iter().filter_map(range).collect()
}

fn known() -> &'static [Known] {
    static KNOWN: OnceLock<Vec<Known>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let listing = listing();
        listing.lines().filter_map(Known::parse).collect()
    })
}

impl Known {
    /// Reads `name | C/P | range | default | importance | description`; other lines are headings.
    fn parse(line: &str) -> Option<Self> {
        let columns: Vec<&str> = line.split(" | ").map(str::trim).collect();
        let [name, clients, range, _, _, ..] = columns[..] else {
            return None;
        };
        matches!(clients, "*" | "C" | "P").then(|| Known {
            name: name.into(),
            range: range.into(),
        })
    }
}

/// librdkafka's table of its properties; empty if there is no memory for it.
fn listing() -> String {
    let (mut text, mut length) = (ptr::null_mut(), 0);
    // SAFETY: the stream is used only here and closed before its buffer is read; closing sets
    // `text` and `length` to the buffer that is then ours to free.
    unsafe {
        let stream = libc::open_memstream(&mut text, &mut length);
        if stream.is_null() {
            return String::new();
        }
        rd_kafka_conf_properties_show(stream.cast());
        libc::fclose(stream);
        if text.is_null() {
            return String::new();
        }
        let listing =
            String::from_utf8_lossy(slice::from_raw_parts(text.cast::<u8>(), length)).into_owned();
        libc::free(text.cast());
        listing
    }
}

/// The known name that is most like `name`, if any is like it.
fn nearest(name: &str) -> Option<&'static str> {
    let plain = |name: &str| name.to_ascii_lowercase().replace(['_', '-', '.'], "");
    let wanted = plain(name);
    if wanted.len() < 3 {
        return None;
    }
    let begun = known_properties().filter(|known| plain(known).starts_with(&wanted));
    if let Some(shortest) = begun.min_by_key(|known| known.len()) {
        return Some(shortest);
    }
    let closest = known_properties().min_by_key(|known| distance(&plain(known), &wanted))?;
    let most = 1 + wanted.len() / 4;
    (distance(&plain(closest), &wanted) <= most).then_some(closest)
}

/// How many letters are to be changed, added or left out to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut above_left = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let changed = above_left + usize::from(x != y);
            above_left = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(above_left + 1);
        }
    }
    row[b.len()]
}

/// Shortest value or part of one that is covered inside a word.
const PART: usize = 6;

/// The values of `sasl.mechanism`, which librdkafka does not list.
const MECHANISMS: [&str; 6] = [
    "GSSAPI",
    "PLAIN",
    "SCRAM-SHA-256",
    "SCRAM-SHA-512",
    "OAUTHBEARER",
    AWS_MSK_IAM,
];

/// Values that do not appear in what is printed.
#[derive(Debug, Clone, Default)]
pub(super) struct Hidden(Vec<Secret>);

impl Hidden {
    /// The values of `properties` that could say anything: not those that librdkafka lists as
    /// choices, nor numbers in its ranges.
    pub(super) fn of<'a>(properties: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let free = |key: &str, value: &str| {
            let range = known().iter().find(|known| known.name == key);
            let range = range.map_or("", |known| &known.range);
            let listed = |part: &str| {
                range
                    .split(", ")
                    .any(|c| c.eq_ignore_ascii_case(part.trim()))
            };
            let choice = value.split(',').all(listed);
            let mechanism = key.starts_with("sasl.mechanism") && MECHANISMS.contains(&value);
            let number = range.contains("..") && value.parse::<f64>().is_ok();
            !value.trim().is_empty() && !choice && !mechanism && !number
        };
        let mut values: Vec<&str> = properties
            .into_iter()
            .filter(|(key, value)| free(key, value))
            .map(|(_, value)| value)
            .collect();
        // A value may be part of another.
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        Hidden(values.into_iter().map(|v| v.to_owned().into()).collect())
    }

    /// `text` with `***` for each value, also for one that was cut off.
    pub(super) fn cover(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for value in &self.0 {
            let value = value.expose();
            text = match value.len() >= PART {
                true => text.replace(value, "***"),
                false => cover_word(&text, value),
            };
        }
        let is_part = |word: &str| {
            word.len() >= PART && self.0.iter().any(|value| value.expose().contains(word))
        };
        let parted = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '(' | ')');
        let covered = text.split_inclusive(parted).map(|piece| {
            let word = piece.trim_end_matches(parted);
            match is_part(word.trim_end_matches([',', '.', ':', ';'])) {
                true => format!("***{}", &piece[word.len()..]),
                false => piece.to_owned(),
            }
        });
        covered.collect()
    }
}

/// Covers `value` where it stands alone: a short one is part of many words.
fn cover_word(text: &str, value: &str) -> String {
    let inside = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let mut covered = String::with_capacity(text.len());
    let mut from = 0;
    for (at, found) in text.match_indices(value) {
        let end = at + found.len();
        if inside(text[..at].chars().next_back()) || inside(text[end..].chars().next()) {
            continue;
        }
        covered.push_str(&text[from..at]);
        covered.push_str("***");
        from = end;
    }
    covered + &text[from..]
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = "hunter2-MARK";

    fn check(key: &str, value: &str) -> Result<(), Refusal> {
        let properties = BTreeMap::from([(key.to_owned(), Secret::from(value.to_owned()))]);
        check_properties(&properties)
    }

    #[test]
    fn a_way_to_log_in_is_refused_where_it_would_fail_later() {
        for right in [
            "PLAIN",
            "SCRAM-SHA-256",
            "SCRAM-SHA-512",
            "OAUTHBEARER",
            AWS_MSK_IAM,
        ] {
            assert_eq!(check("sasl.mechanism", right), Ok(()));
            let lower = right.to_ascii_lowercase();
            let said = check("sasl.mechanisms", &lower).unwrap_err().to_string();
            assert!(said.contains(&format!("in capitals: `{right}`")), "{said}");
        }
        for wrong in ["SCRAM", "SCRAM-SHA512", "EXTERNAL", "hunter2-MARK"] {
            let said = check("sasl.mechanism", wrong).unwrap_err().to_string();
            assert!(said.contains("there are GSSAPI, PLAIN"), "{said}");
            assert!(!said.contains("MARK"), "{said}");
        }
        for kerberos in ["GSSAPI", "gssapi"] {
            let said = check("sasl.mechanism", kerberos).unwrap_err().to_string();
            assert!(said.contains("no login by GSSAPI (Kerberos)"), "{said}");
        }
    }

    #[test]
    fn a_mistyped_property_is_named_with_the_one_that_was_meant() {
        for (wrong, meant) in [
            ("sasl.pasword", "sasl.password"),
            ("sasl_password", "sasl.password"),
            ("SASL.PASSWORD", "sasl.password"),
            ("ssl.key.pasword", "ssl.key.password"),
            ("securty.protocol", "security.protocol"),
            ("sasl.user", "sasl.username"),
            ("queue.buffering.max.mess", "queue.buffering.max.messages"),
        ] {
            let said = check(wrong, MARK).unwrap_err().to_string();
            let property = format!("kafka.properties.\"{wrong}\"");
            assert!(said.contains(&property), "{said}");
            assert!(said.contains(&format!("`{meant}`")), "{said}");
            assert!(!said.contains("MARK"), "{said}");
        }
        let said = check("completely.else", MARK).unwrap_err().to_string();
        assert!(!said.contains("did you mean"), "{said}");
    }

    #[test]
    fn what_this_build_lacks_is_told_from_what_nobody_knows() {
        for key in ["sasl.oauthbearer.extensions", "ssl.truststore.location"] {
            let refused = check(key, MARK).unwrap_err();
            assert!(
                matches!(refused, Refusal::Unsupported { .. }),
                "{refused:?}"
            );
            let said = refused.to_string();
            assert!(said.contains(key) && !said.contains("MARK"), "{said}");
        }
    }

    #[test]
    fn a_value_out_of_range_is_told_what_the_property_takes() {
        let said = check("security.protocol", MARK).unwrap_err().to_string();
        assert!(
            said.contains("sasl_ssl") && !said.contains("MARK"),
            "{said}"
        );
        let said = check("socket.timeout.ms", "424242424").unwrap_err();
        assert!(said.to_string().contains(" .. "), "{said}");
        assert!(!said.to_string().contains("4242"), "{said}");
        let said = check("sasl.password", "a\0b").unwrap_err().to_string();
        assert!(!said.contains('\0'), "{said}");
        assert_eq!(check("security.protocol", "sasl_ssl"), Ok(()));
        assert_eq!(check("sasl.password", MARK), Ok(()));
    }

    /// Every property that there is, with a value that stands for a secret, and mistyped with it.
    #[test]
    fn no_refusal_of_any_property_shows_its_value() {
        let all: Vec<_> = known_properties().collect();
        assert!(all.len() > 150, "{} properties", all.len());
        for must in ["sasl.password", "acks", "partition.assignment.strategy"] {
            assert!(all.contains(&must), "{must}");
        }
        // Setting it loads a library.
        for key in all.into_iter().filter(|key| *key != "plugin.library.paths") {
            for key in [key.to_owned(), format!("{key}x"), key.replace('.', "_")] {
                for value in [MARK, "hunter2 MARK,MARK;q", "MARK=1,", "314159265"] {
                    if let Err(refused) = check(&key, value) {
                        let (shown, debug) = (refused.to_string(), format!("{refused:?}"));
                        let leaks = |text: &str| text.contains("MARK") || text.contains("3141");
                        assert!(!leaks(&shown) && !leaks(&debug), "{key}: {shown} {debug}");
                    }
                }
            }
        }
    }

    #[test]
    fn values_are_covered_whole_cut_off_and_short() {
        let long = "correct-horse-battery-staple";
        let hidden = Hidden::of([("sasl.password", long), ("sasl.username", "bob")]);
        for (text, shown) in [
            ("no correct-horse-battery-staple here", "no *** here"),
            ("cut: \"correct-horse-ba\"", "cut: \"***\""),
            ("bob is not bobby", "*** is not bobby"),
            ("user=bob,", "user=***,"),
        ] {
            assert_eq!(hidden.cover(text), shown);
        }
        let choices = Hidden::of([
            ("security.protocol", "sasl_ssl"),
            ("socket.timeout.ms", "500"),
            ("debug", "broker,security"),
        ]);
        let line = "broker: sasl_ssl in 500 ms";
        assert_eq!(choices.cover(line), line);
    }
}
