//! Fetching against servers on loopback: names that change their address, retries, memory,
//! concurrency.

use crate::common::web_server::{Answer, WebServer};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tagstream::stage::budget::Budget;
use tagstream::stage::fetch::{FetchError, Fetcher, Lookup, LookupFuture};
use tagstream_core::config::{FetchConfig, ObjectStoreConfig};
use tagstream_core::events::DeadLetterKind;

/// Answers the first lookup with the first list, the next with the next, and keeps to the last.
struct Script {
    answers: Vec<Vec<IpAddr>>,
    asked: AtomicUsize,
}

impl Script {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        Arc::new(Script {
            answers: answers
                .iter()
                .map(|list| list.iter().map(|a| a.parse().unwrap()).collect())
                .collect(),
            asked: AtomicUsize::new(0),
        })
    }
}

impl Lookup for Script {
    fn lookup<'a>(&'a self, _host: &'a str) -> LookupFuture<'a> {
        let turn = self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.answers[turn.min(self.answers.len() - 1)].clone();
        Box::pin(async move { Ok(answer) })
    }
}

/// Loopback's first address is allowed; all others stand for an internal network.
fn config() -> FetchConfig {
    FetchConfig {
        allow_schemes: vec!["http".into()],
        allow_networks: vec!["127.0.0.1/32".into()],
        retries: 2,
        retry_delay_ms: 5,
        max_mib: 1,
        ..FetchConfig::default()
    }
}

fn fetcher(config: &FetchConfig, lookup: Arc<dyn Lookup>) -> Fetcher {
    Fetcher::with_lookup(config, &ObjectStoreConfig::default(), lookup).unwrap()
}

fn served(answers: &[(&str, Answer)]) -> HashMap<String, Answer> {
    answers
        .iter()
        .map(|(path, answer)| (path.to_string(), answer.clone()))
        .collect()
}

/// A public server and an internal one on the same port, as a rebinding attack needs them.
async fn outside_and_inside(outside: &[(&str, Answer)]) -> (WebServer, WebServer) {
    let outside = WebServer::start("127.0.0.1", 0, served(outside)).await;
    let inside = WebServer::start(
        "127.0.0.2",
        outside.address.port(),
        served(&[("/", Answer::ok("text/plain", "secret"))]),
    )
    .await;
    (outside, inside)
}

async fn get(fetcher: &Fetcher, url: &str) -> Result<Vec<u8>, FetchError> {
    let fetched = fetcher.fetch(url, &Budget::new(16 << 20)).await?;
    Ok(fetched.body.load().unwrap().to_vec())
}

#[tokio::test]
async fn a_name_that_changes_its_address_gains_nothing() {
    let (outside, inside) = outside_and_inside(&[("/", Answer::ok("text/plain", "public"))]).await;
    let url = format!("http://rebind.example:{}/", outside.address.port());
    let script = Script::new(&[&["127.0.0.1"], &["127.0.0.2"]]);
    let fetcher = fetcher(&config(), script.clone());
    assert_eq!(get(&fetcher, &url).await.unwrap(), b"public");
    assert_eq!(
        script.asked.load(Ordering::SeqCst),
        1,
        "checked and used: one lookup"
    );
    let error = get(&fetcher, &url).await.unwrap_err();
    assert_eq!(error.kind(), DeadLetterKind::ForbiddenUri, "{error}");
    assert!(error.to_string().contains("127.0.0.2"), "{error}");
    assert_eq!(inside.requests(), 0);
}

#[tokio::test]
async fn of_several_addresses_only_the_allowed_are_tried() {
    let (outside, inside) = outside_and_inside(&[("/", Answer::ok("text/plain", "public"))]).await;
    let url = format!("http://both.example:{}/", outside.address.port());
    for order in [["127.0.0.2", "127.0.0.1"], ["127.0.0.1", "127.0.0.2"]] {
        let fetcher = fetcher(&config(), Script::new(&[&order]));
        assert_eq!(get(&fetcher, &url).await.unwrap(), b"public");
    }
    assert_eq!(inside.requests(), 0);
}

#[tokio::test]
async fn every_redirect_is_resolved_and_checked_again() {
    let (outside, inside) = outside_and_inside(&[]).await;
    let port = outside.address.port();
    drop(outside);
    let location = format!("http://inside.example:{port}/");
    let front = WebServer::start(
        "127.0.0.1",
        0,
        served(&[("/", Answer::redirect(&location))]),
    )
    .await;
    let fetcher = fetcher(&config(), Script::new(&[&["127.0.0.1"], &["127.0.0.2"]]));
    let url = format!("http://front.example:{}/", front.address.port());
    let error = get(&fetcher, &url).await.unwrap_err();
    assert_eq!(error.kind(), DeadLetterKind::ForbiddenUri, "{error}");
    assert_eq!((front.requests(), inside.requests()), (1, 0));
}

/// What servers do that is odd and that browsers bear.
#[tokio::test]
async fn answers_with_many_headers_and_redirects_to_raw_letters_are_followed() {
    let ok = || Answer::ok("text/plain", "here");
    let many: String = (0..900).map(|i| format!("X-{i}: y\r\n")).collect();
    let raw = format!("HTTP/1.1 200 OK\r\n{many}Connection: close\r\n\r\nhere");
    // As the page's own encoding has it, which need not be UTF-8.
    let latin = b"HTTP/1.1 301 Moved\r\nLocation: /\xfc\r\nContent-Length: 0\r\n\r\n";
    let server = WebServer::start(
        "127.0.0.1",
        0,
        served(&[
            ("/many", Answer::Raw(raw.into_bytes())),
            ("/utf8", Answer::redirect("/ü")),
            ("/latin", Answer::Raw(latin.to_vec())),
            ("/%C3%BC", ok()),
            ("/%FC", ok()),
        ]),
    )
    .await;
    let fetcher = fetcher(&config(), Script::new(&[&["127.0.0.1"]]));
    for path in ["/many", "/utf8", "/latin"] {
        assert_eq!(get(&fetcher, &server.url(path)).await.unwrap(), b"here");
    }
}

/// Answers for `localhost` alone, as a file of hosts does.
struct HostsFile;

impl Lookup for HostsFile {
    fn lookup<'a>(&'a self, host: &'a str) -> LookupFuture<'a> {
        let known = host == "localhost";
        let unknown = || std::io::Error::new(std::io::ErrorKind::NotFound, "no such name");
        let answer = known.then(|| vec!["127.0.0.1".parse().unwrap()]);
        Box::pin(async move { answer.ok_or_else(unknown) })
    }
}

#[tokio::test]
async fn localhost_with_a_dot_is_localhost() {
    let page = [("/", Answer::ok("text/plain", "here"))];
    let server = WebServer::start("127.0.0.1", 0, served(&page)).await;
    let fetcher = fetcher(&config(), Arc::new(HostsFile));
    for host in ["localhost", "localhost.", "LOCALHOST."] {
        let url = format!("http://{host}:{}/", server.address.port());
        assert_eq!(get(&fetcher, &url).await.unwrap(), b"here", "{host}");
    }
}

#[tokio::test]
async fn mapped_addresses_are_judged_by_what_they_carry() {
    let fetcher = fetcher(
        &config(),
        Script::new(&[&["::ffff:127.0.0.2", "64:ff9b::a00:1"]]),
    );
    let error = get(&fetcher, "http://mapped.example/").await.unwrap_err();
    assert_eq!(error.kind(), DeadLetterKind::ForbiddenUri, "{error}");
}

#[tokio::test]
async fn transient_errors_are_retried_and_others_are_not() {
    let server = WebServer::start(
        "127.0.0.1",
        0,
        served(&[
            ("/500", Answer::status("500 Internal Server Error", "")),
            ("/404", Answer::status("404 Not Found", "")),
            ("/400", Answer::status("400 Bad Request", "")),
        ]),
    )
    .await;
    let fetcher = fetcher(&config(), Script::new(&[&["127.0.0.1"]]));
    for (path, requests) in [("/500", 3), ("/404", 1), ("/400", 1)] {
        let before = server.requests();
        get(&fetcher, &server.url(path)).await.unwrap_err();
        assert_eq!(server.requests() - before, requests, "{path}");
    }
}

#[tokio::test]
async fn a_retry_that_would_come_too_late_is_not_waited_for() {
    let busy = Answer::status("503 Service Unavailable", "Retry-After: 3600\r\n");
    let server = WebServer::start("127.0.0.1", 0, served(&[("/", busy)])).await;
    let fetcher = fetcher(&config(), Script::new(&[&["127.0.0.1"]]));
    let error = get(&fetcher, &server.url("/")).await.unwrap_err();
    assert_eq!(error.kind(), DeadLetterKind::FetchFailed, "{error}");
    assert!(error.to_string().contains("503"), "{error}");
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn nothing_but_the_request_is_sent_and_cookies_are_forgotten() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads = tokio::spawn(async move {
        let mut heads = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            heads.push(String::from_utf8(head).unwrap().to_ascii_lowercase());
            let answer = "HTTP/1.1 302 Found\r\nLocation: /again\r\nSet-Cookie: a=b\r\n\
                          Content-Length: 0\r\nConnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        heads
    });
    let config = FetchConfig {
        max_redirects: 1,
        ..config()
    };
    let fetcher = fetcher(&config, Script::new(&[&["127.0.0.1"]]));
    get(&fetcher, &format!("http://{address}/first#part"))
        .await
        .unwrap_err();
    for head in heads.await.unwrap() {
        for header in [
            "cookie:",
            "authorization:",
            "referer:",
            "accept-encoding:",
            "proxy",
        ] {
            assert!(!head.contains(header), "{head}");
        }
        assert!(!head.contains("#part"), "{head}");
    }
}

#[tokio::test]
async fn secrets_of_the_uri_stay_out_of_the_error() {
    let server = WebServer::start("127.0.0.1", 0, HashMap::new()).await;
    let fetcher = fetcher(&config(), Script::new(&[&["127.0.0.1"]]));
    let urls = [
        server.url("/a?X-Amz-Signature=hunter2"),
        "http://me:hunter2@127.0.0.1/".to_string(),
        "http://closed.example:1/?token=hunter2".to_string(),
        "ftp://me:hunter2@host/?hunter2".to_string(),
    ];
    for url in urls {
        let error = get(&fetcher, &url).await.unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_images_than_fit_into_the_budget_still_all_arrive() {
    // 800 kB each, lengths announced and not, 40 at once, in 3 MiB: only a few fit at a time.
    let body = vec![7; 800_000];
    let mut chunked =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n".to_vec();
    chunked.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
    chunked.extend_from_slice(&body);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    let server = WebServer::start(
        "127.0.0.1",
        0,
        served(&[
            ("/0", Answer::ok("image/png", &body)),
            ("/1", Answer::Raw(chunked)),
        ]),
    )
    .await;
    let fetcher = fetcher(&config(), Script::new(&[&["127.0.0.1"]]));
    let budget = Budget::new(3 << 20);
    let all = (0..40).map(|i| {
        let (fetcher, budget) = (fetcher.clone(), budget.clone());
        let url = server.url(&format!("/{}", i % 2));
        tokio::spawn(async move {
            let fetched = fetcher.fetch(&url, &budget).await.unwrap();
            assert!(budget.used_bytes() <= budget.bytes());
            let (bytes, reservation) = (fetched.body.load().unwrap(), fetched.reservation);
            assert!(reservation.bytes() >= bytes.len() as u64);
            bytes.len()
        })
    });
    for one in futures::future::join_all(all).await {
        assert_eq!(one.unwrap(), 800_000);
    }
    assert_eq!(budget.used_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_memory_does_not_count_as_waiting_for_the_image() {
    let server = WebServer::start(
        "127.0.0.1",
        0,
        served(&[("/", Answer::ok("image/png", "x"))]),
    )
    .await;
    let silent = WebServer::start("127.0.0.1", 0, served(&[("/", Answer::Silence)])).await;
    let config = FetchConfig {
        timeout_ms: 1_000,
        ..config()
    };
    let fetcher = fetcher(&config, Script::new(&[&["127.0.0.1"]]));
    let budget = Budget::new(1 << 20);
    let all = budget.reserve(1 << 20).await;
    let fetch = tokio::spawn({
        let (fetcher, budget, url) = (fetcher.clone(), budget.clone(), server.url("/"));
        async move {
            fetcher
                .fetch(&url, &budget)
                .await
                .map(|f| f.body.load().unwrap().len())
        }
    });
    // A whole deadline passes: that of a fetch which began later.
    let error = get(&fetcher, &silent.url("/")).await.unwrap_err();
    assert_eq!(error.kind(), DeadLetterKind::FetchTimeout, "{error}");
    assert!(!fetch.is_finished());
    assert_eq!(server.requests(), 0);
    drop(all);
    assert_eq!(fetch.await.unwrap(), Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_exchanged_for_a_link_while_it_is_read_never_leaks() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(folder.path().join("secret"), "secret").unwrap();
    std::fs::write(inside.join("honest"), "public").unwrap();
    let config = FetchConfig {
        allow_schemes: vec!["file".into()],
        allow_path_prefixes: vec![inside.to_str().unwrap().into()],
        ..config()
    };
    let fetcher = fetcher(&config, Script::new(&[&[]]));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let swapper = std::thread::spawn({
        let (inside, stop) = (inside.clone(), Arc::clone(&stop));
        move || {
            let mut turns = 0u32;
            while !stop.load(Ordering::Relaxed) {
                let target = if turns.is_multiple_of(2) {
                    "../secret"
                } else {
                    "honest"
                };
                let _ = std::fs::remove_file(inside.join("next"));
                std::os::unix::fs::symlink(target, inside.join("next")).unwrap();
                std::fs::rename(inside.join("next"), inside.join("image")).unwrap();
                turns += 1;
            }
            turns
        }
    });
    let url = format!("file://{}/image", inside.display());
    let (mut public, mut refused) = (0, 0);
    // Both sides of the exchange must have been seen often, however the threads are scheduled.
    for turn in 0..200_000 {
        if turn >= 1_000 && public >= 50 && refused >= 50 {
            break;
        }
        match get(&fetcher, &url).await {
            Ok(bytes) => {
                assert_eq!(bytes, b"public");
                public += 1;
            }
            Err(error) => {
                assert!(
                    matches!(
                        error.kind(),
                        DeadLetterKind::ForbiddenUri | DeadLetterKind::NotFound
                    ),
                    "{error}"
                );
                refused += 1;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    let turns = swapper.join().unwrap();
    println!("{public} read, {refused} refused, {turns} exchanges");
    assert!(public >= 50 && refused >= 50);
}

#[tokio::test]
async fn objects_come_from_the_configured_endpoint() {
    let listed = |code: &str| {
        Answer::Raw(
            format!(
                "HTTP/1.1 {code}\r\nContent-Type: application/xml\r\nContent-Length: 0\r\n\
                 Connection: close\r\n\r\n"
            )
            .into_bytes(),
        )
    };
    let object = |body: &str| {
        Answer::Raw(
            format!(
                "HTTP/1.1 200 OK\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nETag: \"a\"\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            )
            .into_bytes(),
        )
    };
    let huge = Answer::Stall(
        b"HTTP/1.1 200 OK\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nETag: \"a\"\r\n\
          Content-Length: 2000000\r\n\r\n"
            .to_vec(),
    );
    let server = WebServer::start(
        "127.0.0.1",
        0,
        served(&[
            ("/photos/a%20b/c.jpg", object("object")),
            ("/photos/denied.jpg", listed("403 Forbidden")),
            ("/photos/broken.jpg", listed("500 Internal Server Error")),
            ("/photos/huge.jpg", huge),
        ]),
    )
    .await;
    let stores: ObjectStoreConfig = serde_json::from_value(serde_json::json!({"s3": {
        "endpoint": server.url(""),
        "allow_http": "true",
        "region": "eu-1",
        "access_key_id": "key",
        "secret_access_key": "hunter2",
    }}))
    .unwrap();
    let config = FetchConfig {
        allow_schemes: vec!["s3".into()],
        allow_buckets: vec!["s3://photos".into()],
        ..config()
    };
    let fetcher = Fetcher::new(&config, &stores).unwrap();
    let fetched = get(&fetcher, "s3://photos/a%20b/c.jpg").await;
    assert_eq!(fetched.unwrap(), b"object");
    for (key, kind) in [
        ("no-such.jpg", DeadLetterKind::NotFound),
        ("denied.jpg", DeadLetterKind::AccessDenied),
        ("broken.jpg", DeadLetterKind::FetchFailed),
        ("huge.jpg", DeadLetterKind::TooLarge),
        ("a/../../etc/passwd", DeadLetterKind::NotFound),
        ("a//b", DeadLetterKind::BadUri),
    ] {
        let error = get(&fetcher, &format!("s3://photos/{key}"))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{key}: {error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
    let unknown = serde_json::from_value(serde_json::json!({"s3": {"endpiont": "x"}})).unwrap();
    let error = Fetcher::new(&config, &unknown).err().unwrap();
    assert!(error.to_string().contains("endpiont"), "{error}");
}
