//! What of an address may be printed: never user info, a query, a fragment or data.
//!
//! Messages decide which addresses there are, so what cannot be taken apart is not shown at all:
//! nobody knows where in it a password stands. The whole address is in the message, in the dead
//! letter and in the table's `uri`, which are the user's.

use percent_encoding::percent_decode_str;
use url::Url;

/// Most characters of an address or a reason that are shown.
const SHOWN_CHARS: usize = 200;

/// Shortest part of an address that is looked for in what a library says.
const PART: usize = 4;

/// Schemes of object stores' addresses; a test holds them to the grammar of addresses.
pub(crate) const STORE_SCHEMES: [&str; 12] = [
    "s3", "s3a", "s3n", "gs", "gcs", "az", "azure", "abfs", "abfss", "wasb", "wasbs", "adl",
];

/// Names of parameters whose values are secrets, also in a path.
const SECRET_NAMES: [&str; 9] = [
    "sig", "token", "key", "secret", "pass", "pwd", "auth", "cred", "session",
];

/// An address without the blanks and control characters around it, which browsers and curl leave
/// out, too.
pub fn trimmed(uri: &str) -> &str {
    uri.trim_matches(|c: char| c <= ' ')
}

/// An address from a message as it may be logged. One that cannot be taken apart, or has a scheme
/// that images are not fetched by, is only counted.
pub fn redact(uri: &str) -> String {
    let uri = trimmed(uri);
    let scheme = uri
        .split_once(':')
        .map(|(scheme, _)| scheme.to_ascii_lowercase());
    let shown = match scheme.as_deref() {
        Some("data") => Some(data(uri)),
        Some("file" | "http" | "https") => taken_apart(uri),
        Some(scheme) if STORE_SCHEMES.contains(&scheme) => taken_apart(uri),
        _ => None,
    };
    printable(&shown.unwrap_or_else(|| opaque(uri)))
}

/// A place that an operator has named (a folder, or a URL of a store) as it may be logged. Folders
/// are shown as they are.
pub fn redact_place(place: &str) -> String {
    let parameters = place.contains("://") && place.contains('=');
    let suspect = place.contains(['@', '?', '#', '%', ';', '&'])
        || place.to_ascii_lowercase().contains("data:")
        || parameters;
    if !suspect || !place.contains([':', '?']) {
        return printable(place);
    }
    printable(&taken_apart(place).unwrap_or_else(|| opaque(place)))
}

/// The option that names a server with user info, if there is one: what a store's client says of a
/// request repeats the server's address.
pub fn endpoint_with_user<'a>(
    options: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Option<&'a str> {
    // Also where no URL can be read: nobody knows which part is the password.
    let has_user = |value: &str| value.contains('@') || decoded(value).contains('@');
    let mut options = options.into_iter();
    options
        .find(|(key, value)| key.contains("endpoint") && has_user(value))
        .map(|(key, _)| key)
}

/// A message of a library with every address in it redacted.
pub fn scrub(message: &str) -> String {
    let words: Vec<String> = message.split_whitespace().map(scrub_word).collect();
    printable(&words.join(" "))
}

fn scrub_word(word: &str) -> String {
    let lower = word.to_ascii_lowercase();
    let suspect =
        word.contains(['@', '?', '\\']) || lower.contains("://") || lower.contains("data:");
    if !suspect {
        return word.to_owned();
    }
    let core = word.trim_start_matches(['(', '[', '<', '"', '\'', '`']);
    let before = &word[..word.len() - core.len()];
    let address = core.trim_end_matches([')', ']', '>', '"', '\'', '`', ',', '.', ':', ';']);
    format!("{before}{}{}", redact(address), &core[address.len()..])
}

/// What a library or a server said about `uri`, without what [`redact`] hides of it.
pub fn cover(mut text: String, uri: &str) -> String {
    let shown = redact(uri);
    let plain = decoded(uri);
    let parted = |c: char| c.is_whitespace() || "/?#&;=@:\\,\"".contains(c);
    let parts = [uri, &plain].into_iter();
    for part in parts.flat_map(|uri| uri.split(parted).take(1000)) {
        if part.len() >= PART && !shown.contains(part) && text.contains(part) {
            text = text.replace(part, "***");
        }
    }
    text
}

/// What a store's client said when it was made, without the values it was made of: `options`, and
/// the environment's for stores.
pub fn cover_options<'a>(text: String, options: impl IntoIterator<Item = &'a str>) -> String {
    let of_stores = |name: &str| {
        ["AWS_", "GOOGLE_", "AZURE_"]
            .iter()
            .any(|p| name.starts_with(p))
    };
    let environment = std::env::vars().filter(|(name, _)| of_stores(name));
    let values = options.into_iter().map(str::to_owned);
    let mut values: Vec<String> = values.chain(environment.map(|(_, value)| value)).collect();
    values.sort_by_key(|value| std::cmp::Reverse(value.len()));
    values
        .iter()
        .filter(|value| value.len() >= PART)
        .fold(scrub(&text), |text, value| {
            text.replace(value.as_str(), "***")
        })
}

fn opaque(uri: &str) -> String {
    format!("(an address of {} bytes, not shown)", uri.len())
}

/// `data:image/png,(1234 bytes)`. What is no name of a picture's format may be data.
fn data(uri: &str) -> String {
    const FORMATS: [&str; 9] = [
        "png", "jpeg", "jpg", "gif", "webp", "bmp", "tiff", "avif", "svg+xml",
    ];
    let media = uri[5..].split([',', ';']).next().unwrap_or_default();
    let format = media.to_ascii_lowercase();
    let format = format.strip_prefix("image/").unwrap_or_default();
    let media = if FORMATS.contains(&format) {
        media
    } else {
        "..."
    };
    format!("data:{media},({} bytes)", uri.len())
}

/// Scheme, host and path of an address; `None` where it is not certain which is which.
fn taken_apart(uri: &str) -> Option<String> {
    let url = Url::parse(uri).ok()?;
    let web = matches!(url.scheme(), "http" | "https");
    let host = url.host_str().unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.[]:".contains(c);
    let certain = !url.cannot_be_a_base()
        && (url.scheme() == "file" || !host.is_empty())
        && host.chars().all(plain)
        // A bucket has no port: `s3://KEY:7SECRET` looks like one.
        && (url.port().is_none() || (web && !decoded(url.path()).contains('@')));
    if !certain {
        return None;
    }
    let user = url.username().len() + url.password().map_or(0, str::len) > 0;
    let mut shown = format!("{}://", url.scheme());
    shown += if user { "***@" } else { "" };
    shown += host;
    if let Some(port) = url.port() {
        shown += &format!(":{port}");
    }
    shown += &path(url.path());
    if url.query().is_some() || url.fragment().is_some() {
        shown += "?***";
    }
    Some(shown)
}

/// The path up to the first segment that may hold more than a name: parameters, or another address.
fn path(path: &str) -> String {
    let mut shown: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        if holds_more(&decoded(segment)) {
            shown.push("***");
            break;
        }
        shown.push(segment);
    }
    shown.join("/")
}

fn holds_more(segment: &str) -> bool {
    let lower = segment.to_ascii_lowercase();
    let secret = lower
        .split_once('=')
        .is_some_and(|(name, _)| SECRET_NAMES.iter().any(|secret| name.contains(secret)));
    secret || segment.contains(|c: char| c.is_control() || "?#;&:@\\".contains(c))
}

/// Percent-decoded, also where it was encoded several times.
fn decoded(text: &str) -> String {
    let mut text = text.to_owned();
    for _ in 0..3 {
        if !text.contains('%') {
            break;
        }
        text = percent_decode_str(&text).decode_utf8_lossy().into_owned();
    }
    text
}

/// Without control characters, and cut to a bearable length.
fn printable(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(SHOWN_CHARS)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses that hold `hunter2` where a secret can stand.
    const SECRETIVE: [&str; 50] = [
        "https://user:hunter2@example.org/a.jpg",
        " https://user:hunter2@example.org/a.jpg",
        "\n\thttps://user:hunter2@example.org/a.jpg",
        "\u{feff}https://user:hunter2@example.org/a.jpg",
        "\u{a0}https://user:hunter2@example.org/a.jpg",
        "\"https://user:hunter2@example.org/a.jpg\"",
        "https://user:hun ter hunter2@example.org/a.jpg",
        "https://user:a/hunter2@example.org/a.jpg",
        "https://user:12/hunter2@example.org/a.jpg",
        "https://user:12/a/hunter2%40example.org/a.jpg",
        "https://hunter2@example.org/a.jpg",
        "https://a@hunter2@example.org/a",
        "https://user%3Ahunter2@example.org/a.jpg",
        "https://user%3Ahunter2%40example.org/a.jpg",
        "https://user:hunter2%40example.org/a.jpg",
        "https:user:hunter2@example.org",
        "https:/user:hunter2@example.org",
        "https:///user:hunter2@example.org",
        "https:\\\\user:hunter2@example.org\\a",
        "HTTPS://user:hunter2@example.org/a.jpg",
        "ht\ntps://user:hunter2@example.org/a.jpg",
        "htps://user:hunter2@example.org/a.jpg",
        "ftp://user:hunter2@example.org/a.jpg",
        "view-source:https://user:hunter2@example.org/a.jpg",
        "url:https://example.org/a.jpg?sig=hunter2",
        "//user:hunter2@example.org/a.jpg",
        "user:hunter2@example.org",
        "hunter2",
        "example.org/a.jpg?X-Amz-Signature=hunter2",
        "https://example.org/a.jpg?X-Amz-Signature=hunter2",
        "https://example.org/a.jpg%3FX-Amz-Signature=hunter2",
        "https://example.org/a.jpg%253Fsig=hunter2",
        "https://example.org/a.jpg#hunter2",
        "https://example.org/a.jpg;token=hunter2",
        "https://example.org/token=hunter2/a.jpg",
        "https://example.org/a&sig=hunter2",
        "https://example.org:port/a.jpg?sig=hunter2",
        "https://[::1/a.jpg?sig=hunter2",
        "https://thumb.example.net/https://user:hunter2@example.org/a.jpg",
        "https://thumb.example.net/https%3A%2F%2Fuser%3Ahunter2%40example.org",
        "s3://AKIA:hunter2@bucket/key",
        "s3://AKIA:7/hunter2@bucket/key",
        "s3://AKIA%3Ahunter2%40bucket/key",
        "s3:AKIA:hunter2@bucket/key",
        "s3:///AKIA:hunter2@bucket/key",
        "file://user:hunter2@host/a.jpg",
        "data:image/png;base64,hunter2",
        " data:image/png;base64,hunter2",
        "data:hunter2,x",
        "image:data:image/png;base64,hunter2",
    ];

    #[test]
    fn no_secret_survives() {
        for uri in SECRETIVE {
            let shown = redact(uri);
            assert!(!shown.contains("hunter2"), "{uri:?} became {shown}");
            assert!(!shown.contains("AKIA:"), "{uri:?} became {shown}");
            let place = redact_place(uri);
            // That may be a folder's name.
            let is_folder = uri == "hunter2";
            assert!(
                is_folder || !place.contains("hunter2"),
                "{uri:?} became {place}"
            );
            for message in [
                format!("error sending ({uri}): closed"),
                format!("GET {uri} failed"),
                format!("<Key>{uri}</Key>"),
                "hunter2 is not what it was".into(),
            ] {
                let scrubbed = cover(scrub(&message), uri);
                assert!(!scrubbed.contains("hunter2"), "{uri:?}: {scrubbed}");
            }
        }
    }

    #[test]
    fn what_helps_stays() {
        for (uri, shown) in [
            (
                "https://example.org:8443/a/b.jpg",
                "https://example.org:8443/a/b.jpg",
            ),
            (" https://example.org/a\n", "https://example.org/a"),
            (
                "https://u:p@example.org/a.jpg?q=1",
                "https://***@example.org/a.jpg?***",
            ),
            (
                "s3://bucket/day=2026-01-01/a.jpg",
                "s3://bucket/day=2026-01-01/a.jpg",
            ),
            ("file:///data/a.jpg", "file:///data/a.jpg"),
            ("https://example.org/a;v=1/b", "https://example.org/***"),
            ("data:image/png;base64,aGk=", "data:image/png,(26 bytes)"),
            ("a.jpg", "(an address of 5 bytes, not shown)"),
        ] {
            assert_eq!(redact(uri), shown);
        }
        for place in [
            "/data/tables",
            "s3://bucket/prefix",
            "tables",
            "ss3://bucket/prefix",
        ] {
            assert_eq!(redact_place(place), place);
        }
        assert_eq!(redact_place("s3://AKIA:x@bucket/p"), "s3://***@bucket/p");
        assert_eq!(
            scrub("error sending request for url (https://x.org/k): closed"),
            "error sending request for url (https://x.org/k): closed"
        );
    }

    #[test]
    fn an_address_cannot_forge_log_lines() {
        let shown = redact("https://example.org/\n{\"level\":\"error\"}\x1b[31m");
        assert!(!shown.contains(['\n', '\x1b']), "{shown}");
        assert!(redact(&"ä".repeat(1000)).chars().count() <= SHOWN_CHARS + 1);
        assert!(
            redact(&format!("https://x.org/{}", "a".repeat(1000)))
                .chars()
                .count()
                <= SHOWN_CHARS + 1
        );
    }
}
