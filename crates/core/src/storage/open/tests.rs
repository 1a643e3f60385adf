//! Stores opened on a server that answers what it is told to.

use super::*;
use crate::storage::store::{Put, TableStore};
use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const CONFLICT: (&str, &str) = (
    "409 Conflict",
    "<Error><Code>ConditionalRequestConflict</Code></Error>",
);
const DONE: (&str, &str) = ("200 OK", "");

/// A server and the heads of the requests that it got.
struct Stub {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Stub {
    /// Answers with these statuses and bodies in turn, the last for ever.
    async fn start(answers: &[(&'static str, &'static str)]) -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let (heads, mut answers) = (Arc::clone(&requests), VecDeque::from(answers.to_vec()));
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !is_whole(&request) {
                    let mut piece = [0; 4096];
                    let read = connection.read(&mut piece).await.unwrap();
                    assert!(read > 0, "the client closed");
                    request.extend_from_slice(&piece[..read]);
                }
                let head = String::from_utf8_lossy(&request).to_lowercase();
                heads.lock().unwrap().push(head);
                let (status, body) = answers[0];
                if answers.len() > 1 {
                    answers.pop_front();
                }
                let answer = format!(
                    "HTTP/1.1 {status}\r\nETag: \"a\"\r\nContent-Length: {}\r\n\
                     Connection: close\r\n\r\n{body}",
                    body.len()
                );
                connection.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Stub { url, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    fn options(&self) -> ObjectStoreConfig {
        s3(&[
            ("endpoint", self.url.as_str()),
            ("allow_http", "true"),
            ("access_key_id", "configured"),
            ("secret_access_key", "secret"),
        ])
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.trim().parse().unwrap())
}

fn s3(options: &[(&str, &str)]) -> ObjectStoreConfig {
    let pairs = options.iter();
    ObjectStoreConfig {
        s3: pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned().into()))
            .collect(),
        ..ObjectStoreConfig::default()
    }
}

fn quick() -> Purpose {
    Purpose::Images(Limits {
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(2),
        ..Limits::of(20, 2, 20)
    })
}

fn tables(options: &ObjectStoreConfig, variables: &[(&str, &str)]) -> TableStore {
    let variables = variables.iter();
    let variables = variables.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let opened = open_with(
        "s3a://bucket/p",
        options,
        quick(),
        Missing::Refuse,
        variables,
    );
    let Storage {
        url,
        objects,
        prefix,
        ..
    } = opened.unwrap();
    TableStore::from_parts(&url, objects, prefix)
}

#[tokio::test]
async fn a_conflict_of_conditional_puts_is_sent_again() {
    let stub = Stub::start(&[CONFLICT, CONFLICT, DONE]).await;
    let store = tables(&stub.options(), &[]);
    let put = store
        .put_if_absent(&ObjectPath::from("p/a"), "x".into())
        .await;
    assert_eq!(put.unwrap(), Put::Created);
    let requests = stub.requests();
    assert_eq!(requests.len(), 3);
    for request in requests {
        assert!(request.starts_with("put /bucket/p/a "), "{request}");
        assert!(request.contains("\r\nif-none-match: *\r\n"), "{request}");
    }
}

#[tokio::test]
async fn a_conflict_that_lasts_is_not_taken_for_an_object() {
    let stub = Stub::start(&[CONFLICT]).await;
    let store = tables(&stub.options(), &[]);
    let put = store
        .put_if_absent(&ObjectPath::from("p/a"), "x".into())
        .await;
    let error = put.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(stub.requests().len(), 3);
}

#[tokio::test]
async fn an_object_that_exists_does_so_by_either_answer() {
    for status in ["409 Conflict", "412 Precondition Failed"] {
        let stub = Stub::start(&[(status, "<Error><Code>Exists</Code></Error>")]).await;
        let store = tables(&stub.options(), &[]);
        let put = store
            .put_if_absent(&ObjectPath::from("p/a"), "x".into())
            .await;
        assert_eq!(put.unwrap(), Put::Exists, "{status}");
        assert_eq!(stub.requests().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_server_that_takes_no_conditional_put_is_refused_with_the_reason() {
    // It answers 200 to the second put, too.
    let stub = Stub::start(&[DONE]).await;
    let store = tables(&stub.options(), &[]);
    let error = store.prove_conditional_put().await.unwrap_err().to_string();
    assert!(
        error.contains("a second put overwrote the first"),
        "{error}"
    );
    let mut options = stub.options();
    let disabled = String::from("disabled");
    options.s3.insert("conditional_put".into(), disabled.into());
    let error = tables(&options, &[]).prove_conditional_put().await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("cannot create a file only if it is absent"),
        "{error}"
    );
}

/// Counts by name and labels.
#[derive(Default)]
struct Counts(Mutex<BTreeMap<String, Arc<Count>>>);

#[derive(Default)]
struct Count(Mutex<u64>);

impl CounterFn for Count {
    fn increment(&self, value: u64) {
        *self.0.lock().unwrap() += value;
    }

    fn absolute(&self, value: u64) {
        *self.0.lock().unwrap() = value;
    }
}

impl metrics::Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut counts = self.0.lock().unwrap();
        Counter::from_arc(Arc::clone(counts.entry(key.to_string()).or_default()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test]
async fn every_try_is_counted_by_store_and_result() {
    let counts = Counts::default();
    let _here = metrics::set_default_local_recorder(&counts);
    let busy = ("503 Slow Down", "");
    let stub = Stub::start(&[busy, CONFLICT, DONE]).await;
    let store = tables(&stub.options(), &[]);
    let path = ObjectPath::from("p/a");
    store.put_if_absent(&path, "x".into()).await.unwrap();
    store.read(&path).await.unwrap();
    let counts = counts.0.lock().unwrap();
    let of = |result: &str| {
        let mut found = counts.iter().filter(|(key, _)| key.contains(result));
        let (key, count) = found.next().unwrap();
        assert!(key.contains("tagstream_store_requests_total"), "{key}");
        assert!(key.contains("images"), "{key}");
        *count.0.lock().unwrap()
    };
    assert_eq!((of("failed"), of("answered")), (2, 2));
}

#[tokio::test]
async fn what_is_configured_wins_over_the_environment_and_credentials_do_not_mix() {
    let stub = Stub::start(&[DONE]).await;
    let elsewhere = "http://127.0.0.1:1";
    let environment = [
        ("AWS_ENDPOINT_URL", elsewhere),
        ("AWS_ENDPOINT_URL_S3", elsewhere),
        ("AWS_ACCESS_KEY_ID", "of-the-environment"),
        ("AWS_SESSION_TOKEN", "token-of-the-environment"),
        ("AWS_REGION", "of-the-environment"),
        ("AWS_ALLOW_HTTP", ""),
        ("AWS_PAGER", "less"),
        ("GOOGLE_BUCKET", "other"),
    ];
    let store = tables(&stub.options(), &environment);
    store.read(&ObjectPath::from("p/a")).await.unwrap();
    let request = &stub.requests()[0];
    assert!(request.contains("credential=configured/"), "{request}");
    assert!(request.contains("/of-the-environment/s3/"), "{request}");
    assert!(!request.contains("token-of-the-environment"), "{request}");

    let environment = [
        ("AWS_ENDPOINT_URL", stub.url.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "of-the-environment"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_SESSION_TOKEN", "token-of-the-environment"),
    ];
    let store = tables(&ObjectStoreConfig::default(), &environment);
    store.read(&ObjectPath::from("p/a")).await.unwrap();
    let request = &stub.requests()[1];
    assert!(
        request.contains("credential=of-the-environment/"),
        "{request}"
    );
    assert!(request.contains("token-of-the-environment"), "{request}");
}

#[test]
fn a_mistyped_option_is_named_alike_for_every_purpose() {
    let options = s3(&[("acces_key_id", "hunter2")]);
    let wanted = "`object_store.s3.acces_key_id` is no option of S3; did you mean \
                  `object_store.s3.access_key_id`?";
    for purpose in [Purpose::Tables, Purpose::Registry, quick()] {
        // The options of a store that is not the address's are checked, too.
        for address in ["s3://b/p", "gs://b/p"] {
            let error = open(address, &options, purpose, Missing::Create).unwrap_err();
            assert_eq!(error.to_string(), wanted);
        }
    }
}

#[test]
fn every_store_opens_by_its_usual_names() {
    let options: ObjectStoreConfig = serde_json::from_value(serde_json::json!({
        "gs": {"skip_signature": "true"},
        "az": {"account_name": "account", "account_key": "a2V5"},
    }))
    .unwrap();
    for (address, prefix) in [
        ("s3n://bucket/p/q", "p/q"),
        ("gcs://bucket/p", "p"),
        ("azure://container/p", "p"),
        ("abfss://container@other.dfs.core.windows.net/p", "p"),
        ("wasbs://container@other.blob.core.windows.net", ""),
    ] {
        let none = std::iter::empty();
        let opened = open_with(address, &options, Purpose::Tables, Missing::Refuse, none);
        assert_eq!(opened.unwrap().prefix.as_ref(), prefix, "{address}");
    }
}

#[test]
fn a_server_with_a_password_in_the_environment_is_refused_and_not_shown() {
    for (address, variable, value) in [
        ("s3://bucket/p", "AWS_ENDPOINT_URL", "https://u:MARK@h:9000"),
        ("s3://bucket/p", "AWS_ENDPOINT_URL_S3", "u:MARK@h:9000"),
        ("s3://bucket/p", "AWS_ENDPOINT", "https://MARK@h"),
        ("s3://bucket/p", "AWS_ENDPOINT", "https://u%3AMARK%40h"),
        ("az://container/p", "AZURE_ENDPOINT", "https://u:MARK@h"),
    ] {
        let variables = [
            (variable.into(), value.into()),
            ("AWS_REGION".into(), "r".into()),
        ];
        let none = ObjectStoreConfig::default();
        let opened = open_with(address, &none, Purpose::Tables, Missing::Refuse, variables);
        let said = opened.expect_err(variable).to_string();
        assert!(said.contains(variable) && !said.contains("MARK"), "{said}");
    }
}
