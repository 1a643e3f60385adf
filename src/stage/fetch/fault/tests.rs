//! The whole table: every kind of trouble, whose fault it is, and the page that tells it.

use super::*;

struct Row {
    at: &'static str,
    seen: &'static str,
    symptoms: Vec<Symptom>,
    expected: &'static str,
    kind: Option<DeadLetterKind>,
}

const OWN: &str = "the message's own";
const FAR: &str = "the far side's";
const ONCE_REFUSED: &str = "the far side's, until it gives others";
const THROTTLED: &str = "the far side's: fewer requests";
const KNOWN: &str = "the far side's if it has answered before, else the message's own";

fn row(
    at: &'static str,
    seen: &'static str,
    symptoms: impl IntoIterator<Item = Symptom>,
    expected: &'static str,
    kind: DeadLetterKind,
) -> Row {
    Row {
        at,
        seen,
        symptoms: symptoms.into_iter().collect(),
        expected,
        kind: Some(kind),
    }
}

fn lacking_row(
    seen: &'static str,
    symptoms: impl IntoIterator<Item = Symptom>,
    expected: &'static str,
) -> Row {
    Row {
        at: "this process",
        seen,
        symptoms: symptoms.into_iter().collect(),
        expected,
        kind: None,
    }
}

fn sockets(errors: &[i32]) -> Vec<Symptom> {
    errors.iter().map(|e| Symptom::Socket(*e)).collect()
}

fn files(errors: &[i32]) -> Vec<Symptom> {
    errors.iter().map(|e| Symptom::File(*e)).collect()
}

fn statuses(codes: impl IntoIterator<Item = u16>) -> Vec<Symptom> {
    codes.into_iter().map(Symptom::Status).collect()
}

fn stores(answers: &[(u16, &str)]) -> Vec<Symptom> {
    let of = |(status, code): &(u16, &str)| Symptom::Store(*status, (*code).into());
    answers.iter().map(of).collect()
}

fn web() -> Vec<Row> {
    use DeadLetterKind::{AccessDenied, FetchFailed, NotFound};
    vec![
        row("web", "404, 410", statuses([404, 410]), OWN, NotFound),
        row(
            "web",
            "401, 402, 403, 407, 451",
            statuses([401, 402, 403, 407, 451]),
            OWN,
            AccessDenied,
        ),
        row(
            "web",
            "another 4xx, 3xx without an address, 1xx, more",
            statuses([400, 405, 406, 418, 421, 422, 304, 300, 101, 999]),
            OWN,
            FetchFailed,
        ),
        row(
            "web",
            "more redirects than `fetch.max_redirects`",
            [Symptom::Redirects],
            OWN,
            FetchFailed,
        ),
        row(
            "web",
            "408, 425, any 5xx",
            statuses([408, 425]).into_iter().chain(statuses(500..=599)),
            FAR,
            FetchFailed,
        ),
        row(
            "web",
            "429; 503 with `Retry-After`",
            [Symptom::Status(429), Symptom::LeaveAlone(503)],
            THROTTLED,
            FetchFailed,
        ),
    ]
}

fn web_silence() -> Vec<Row> {
    use DeadLetterKind::{FetchFailed, FetchTimeout, NotFound};
    vec![
        row(
            "web",
            "no connection, or no image, in time",
            [Symptom::Timeout],
            FAR,
            FetchTimeout,
        ),
        row(
            "web",
            "refused, reset, aborted, unreachable",
            sockets(&[
                libc::ECONNREFUSED,
                libc::ECONNRESET,
                libc::ECONNABORTED,
                libc::EPIPE,
                libc::ETIMEDOUT,
                libc::EHOSTUNREACH,
                libc::EHOSTDOWN,
                libc::ENETUNREACH,
            ]),
            FAR,
            FetchFailed,
        ),
        row(
            "web",
            "the connection ends early; no HTTP",
            [Symptom::Broken, Symptom::Other],
            FAR,
            FetchFailed,
        ),
        row(
            "web",
            "the TLS handshake fails (certificate, protocol)",
            [Symptom::Tls],
            FAR,
            FetchFailed,
        ),
        row(
            "web",
            "the name does not exist, or has no address",
            [Symptom::NoSuchName],
            KNOWN,
            NotFound,
        ),
        row(
            "web",
            "the resolver fails for this name, not for others",
            [Symptom::NameFailed],
            FAR,
            FetchFailed,
        ),
    ]
}

fn buckets() -> Vec<Row> {
    use DeadLetterKind::{AccessDenied, FetchFailed, NotFound};
    vec![
        row(
            "bucket",
            "404",
            stores(&[(404, ""), (404, "NoSuchKey")]),
            OWN,
            NotFound,
        ),
        row(
            "bucket",
            "403 for the object",
            stores(&[(403, "AccessDenied"), (403, "AllAccessDisabled"), (403, "")]),
            ONCE_REFUSED,
            AccessDenied,
        ),
        row(
            "bucket",
            "there is no such bucket",
            stores(&[(404, "NoSuchBucket"), (404, "ContainerNotFound")]),
            ONCE_REFUSED,
            NotFound,
        ),
        row(
            "bucket",
            "408, any 5xx",
            stores(&[(408, ""), (500, "InternalError"), (502, ""), (503, "")]),
            FAR,
            FetchFailed,
        ),
        row(
            "bucket",
            "429, SlowDown, ServerBusy, Throttling",
            stores(&[
                (429, ""),
                (503, "SlowDown"),
                (503, "ServerBusy"),
                (400, "Throttling"),
            ]),
            THROTTLED,
            FetchFailed,
        ),
        row(
            "bucket",
            "another 4xx",
            stores(&[(400, "InvalidRequest"), (400, "KeyTooLongError"), (405, "")]),
            OWN,
            FetchFailed,
        ),
    ]
}

fn local() -> Vec<Row> {
    use DeadLetterKind::{AccessDenied, FetchFailed, NotFound};
    vec![
        row(
            "file",
            "there is none",
            files(&[libc::ENOENT, libc::ENOTDIR]),
            OWN,
            NotFound,
        ),
        row(
            "file",
            "it may not be read",
            files(&[libc::EACCES, libc::EPERM]),
            OWN,
            AccessDenied,
        ),
        row(
            "file",
            "links in a circle, a name that is too long, no device",
            files(&[
                libc::ELOOP,
                libc::ENAMETOOLONG,
                libc::EINVAL,
                libc::ENXIO,
                libc::ENODEV,
            ]),
            OWN,
            FetchFailed,
        ),
        row(
            "file",
            "the disk or the mount fails (EIO, ESTALE, ENOTCONN, ETIMEDOUT)",
            files(&[
                libc::EIO,
                libc::ESTALE,
                libc::ENOTCONN,
                libc::ETIMEDOUT,
                libc::EREMOTEIO,
            ]),
            FAR,
            FetchFailed,
        ),
    ]
}

fn ours() -> Vec<Row> {
    let both = |errors: &[i32]| {
        let mut all = sockets(errors);
        all.extend(files(errors));
        all
    };
    vec![
        lacking_row(
            "no more descriptors (EMFILE, ENFILE)",
            both(&[libc::EMFILE, libc::ENFILE]),
            "descriptors",
        ),
        lacking_row(
            "no memory (ENOMEM, ENOBUFS)",
            both(&[libc::ENOMEM, libc::ENOBUFS]),
            "memory",
        ),
        lacking_row(
            "a full disk (ENOSPC, EDQUOT)",
            both(&[libc::ENOSPC, libc::EDQUOT]),
            "disk",
        ),
        lacking_row("no name can be resolved", [Symptom::NoResolver], "names"),
        lacking_row(
            "no free port, no network, a firewall of ours",
            sockets(&[
                libc::EADDRNOTAVAIL,
                libc::EADDRINUSE,
                libc::ENETDOWN,
                libc::EACCES,
                libc::EPERM,
            ]),
            "network",
        ),
        lacking_row(
            "no credentials; a store refuses ours; options that make no client",
            stores(&[
                (401, ""),
                (403, "InvalidAccessKeyId"),
                (403, "SignatureDoesNotMatch"),
                (400, "ExpiredToken"),
                (403, "RequestTimeTooSkewed"),
                (403, "AuthenticationFailed"),
                (301, "PermanentRedirect"),
            ])
            .into_iter()
            .chain([Symptom::NoCredentials, Symptom::NoClient]),
            "credentials",
        ),
        lacking_row(
            "an allowed folder is gone, or on another file system than at the start",
            [Symptom::FolderGone],
            "folder",
        ),
    ]
}

fn table() -> Vec<Row> {
    let mut rows = web();
    rows.extend(web_silence());
    rows.extend(buckets());
    rows.extend(local());
    rows.extend(ours());
    rows
}

fn told(fault: Fault) -> &'static str {
    match fault {
        Fault::Message => OWN,
        TWICE => FAR,
        ONCE => ONCE_REFUSED,
        Fault::FarSide { .. } => THROTTLED,
        Fault::FarSideIfKnown => KNOWN,
        Fault::Own(resource) => resource.as_str(),
    }
}

#[test]
fn every_trouble_has_its_class() {
    for row in table() {
        for symptom in &row.symptoms {
            let verdict = judge(symptom);
            assert_eq!(told(verdict.fault), row.expected, "{symptom:?}");
            if let Some(kind) = row.kind {
                assert_eq!(verdict.kind, kind, "{symptom:?}");
            }
        }
    }
}

fn page() -> String {
    let begin = "<!-- written by `UPDATE_DOCS=1 cargo test --lib fetch::fault` -->\n";
    let mut text = String::from(begin);
    text.push_str("| where | what is seen | whose fault | dead letter |\n|---|---|---|---|\n");
    for row in table() {
        let (fault, letter) = match row.kind {
            Some(kind) => (row.expected.to_owned(), format!("`{kind}`")),
            None => (format!("ours: `{}`", row.expected), "never".to_owned()),
        };
        let (at, seen) = (row.at, row.seen);
        text.push_str(&format!("| {at} | {seen} | {fault} | {letter} |\n"));
    }
    text.push_str("<!-- end of what is written -->\n");
    text
}

#[test]
fn the_page_of_faults_is_fresh() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.md");
    let found = std::fs::read_to_string(&path).unwrap();
    let page = page();
    let begin = page.lines().next().unwrap();
    let end = page.lines().last().unwrap();
    let (before, rest) = found.split_once(begin).expect("the table's first line");
    let (_, after) = rest.split_once(end).expect("the table's last line");
    let fresh = format!("{before}{}{after}", page.trim_end());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    } else {
        assert_eq!(
            found, fresh,
            "run UPDATE_DOCS=1 cargo test --lib fetch::fault"
        );
    }
}

#[test]
fn a_resolver_says_whether_the_name_is_missing_or_it_failed() {
    let of = |code: i32| {
        // SAFETY: the C library returns a constant, zero-terminated text for every code.
        let text = unsafe { CStr::from_ptr(libc::gai_strerror(code)) };
        let text = format!(
            "failed to lookup address information: {}",
            text.to_string_lossy()
        );
        of_lookup(&io::Error::other(text))
    };
    assert_eq!(of(libc::EAI_NONAME), Symptom::NoSuchName);
    assert_eq!(of(libc::EAI_AGAIN), Symptom::NameFailed);
    assert_eq!(of(libc::EAI_FAIL), Symptom::NameFailed);
    assert_eq!(of(libc::EAI_MEMORY), Symptom::Socket(libc::ENOMEM));
    let full = io::Error::from_raw_os_error(libc::EMFILE);
    assert_eq!(of_lookup(&full), Symptom::Socket(libc::EMFILE));
}

#[test]
fn the_system_s_number_is_found_however_deep() {
    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);
    let inner = io::Error::from_raw_os_error(libc::EMFILE);
    let deep = Outer(io::Error::other(Outer(inner)));
    assert_eq!(of_chain(&deep), Some(Symptom::Socket(libc::EMFILE)));
    let tls = Outer(io::Error::other("invalid peer certificate: UnknownIssuer"));
    assert_eq!(of_chain(&tls), Some(Symptom::Tls));
    assert_eq!(of_chain(&Outer(io::Error::other("something"))), None);
}
