//! Who may, and what is tried by those who may not.

use super::{ACTOR, READER, Served};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn every_answer_forbids_what_no_page_needs() {
    let served = Served::start(|_, _| {}).await;
    for path in [
        "/",
        "/models",
        "/review",
        "/nothing",
        "/assets/page.css",
        "/models/99",
    ] {
        let answer = served.get(path, &[]).await;
        let header = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
        assert!(
            policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(header("x-frame-options"), "DENY", "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert!(
            !answer.headers.contains_key("access-control-allow-origin"),
            "{path}"
        );
    }
    // Nothing is loaded from elsewhere, and nothing stands in a page that the policy would refuse.
    for path in ["/", "/models", "/models/1", "/review"] {
        let body = served.get(path, &[]).await.body;
        for no in [
            "src=\"http",
            "href=\"http",
            " style=",
            " onclick",
            "javascript:",
            "<style",
        ] {
            assert!(!body.contains(no), "{path}: {no} in\n{body}");
        }
    }
}

#[tokio::test]
async fn whoever_has_no_token_sees_nothing() {
    let served = Served::with_tokens().await;
    for path in [
        "/",
        "/models",
        "/models/1",
        "/review",
        "/live/events",
        "/pictures/0",
        "/x",
    ] {
        assert_eq!(served.get(path, &[]).await.status, 401, "{path}");
        let browser = served.get(path, &[("accept", "text/html")]).await;
        assert_eq!(browser.status, 303, "{path}");
        assert_eq!(browser.headers["location"], "/login", "{path}");
    }
    for wrong in [
        "",
        "Bearer",
        "Bearer x",
        "Basic YTpi",
        &format!("Bearer {ACTOR}x"),
    ] {
        let answer = served.get("/", &[("authorization", wrong)]).await;
        assert_eq!(answer.status, 401, "{wrong}");
        assert!(!answer.body.contains(ACTOR), "{}", answer.body);
    }
    for made_up in ["", "0", &"0".repeat(64), "../../etc"] {
        let cookie = format!("tagstream_session={made_up}");
        assert_eq!(
            served.get("/", &[("cookie", &cookie)]).await.status,
            401,
            "{made_up}"
        );
    }
    // A header of a proxy that nobody named.
    for name in [
        "x-forwarded-user",
        "x-forwarded-for",
        "x-real-ip",
        "forwarded",
    ] {
        assert_eq!(
            served.get("/", &[(name, "127.0.0.1")]).await.status,
            401,
            "{name}"
        );
    }
    let bearer = format!("Bearer {READER}");
    assert_eq!(
        served.get("/", &[("authorization", &bearer)]).await.status,
        200
    );
}

#[tokio::test]
async fn a_session_lasts_until_it_is_left_and_one_of_a_reader_reads() {
    let served = Served::with_tokens().await;
    let reader = served.log_in(READER).await;
    let page = served.get("/models", &[("cookie", &reader)]).await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("ann") && !page.body.contains("action=\"/models/decide\""));
    let token = served.form_token("/models", &[("cookie", &reader)]).await;
    let refused = served.promote(&[("cookie", &reader)], &token).await;
    assert_eq!(refused.status, 403, "{}", refused.body);
    assert_eq!(served.serving().await, 1);

    let actor = served.log_in(ACTOR).await;
    let own = served.form_token("/models", &[("cookie", &actor)]).await;
    assert_ne!(own, token);
    let left = served
        .post("/logout", &[("cookie", &actor)], &[("form_token", &own)])
        .await;
    assert_eq!(left.status, 303);
    assert_eq!(served.get("/", &[("cookie", &actor)]).await.status, 401);
    assert_eq!(served.get("/", &[("cookie", &reader)]).await.status, 200);
}

#[tokio::test]
async fn wrong_tokens_are_not_tried_without_end() {
    let served = Served::start(|config, folder| {
        let path = folder.join("tokens");
        std::fs::write(&path, format!("act bob {ACTOR}\n")).unwrap();
        config.access.token_file = path.to_str().unwrap().into();
        config.access.acts_a_minute = 5;
    })
    .await;
    let form_token = served.form_token("/login", &[]).await;
    let fields = |token| [("form_token", form_token.clone()), ("token", token)];
    let mut statuses = Vec::new();
    for _ in 0..8 {
        let fields = fields("wrong-wrong-wrong-wrong".to_owned());
        let fields = fields
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        statuses.push(served.post("/login", &[], &fields).await.status);
    }
    assert_eq!(statuses[..5], [401; 5]);
    assert_eq!(statuses[5..], [429; 3]);
    let fields = fields(ACTOR.to_owned());
    let fields = fields
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let right = served.post("/login", &[], &fields).await;
    assert_eq!(
        right.status, 429,
        "whoever guesses does not learn that it was right"
    );
}

#[tokio::test]
async fn what_another_sites_page_sends_changes_nothing() {
    let served = Served::with_tokens().await;
    let cookie = served.log_in(ACTOR).await;
    let session = ("cookie", cookie.as_str());
    let token = served.form_token("/models", &[session]).await;
    // What a foreign page can send: the cookie (were it not SameSite), but no form token; and what
    // gives it away although it had one.
    let other = served.log_in(ACTOR).await;
    let others = served.form_token("/models", &[("cookie", &other)]).await;
    for (forged, shown) in [
        (vec![], ""),
        (vec![], "0"),
        (vec![], others.as_str()),
        (vec![("origin", "https://evil.example")], token.as_str()),
        (vec![("origin", "null")], token.as_str()),
        (vec![("origin", "http://127.0.0.1:1")], token.as_str()),
        (vec![("sec-fetch-site", "cross-site")], token.as_str()),
        (vec![("sec-fetch-site", "same-site")], token.as_str()),
    ] {
        let headers = [vec![session], forged.clone()].concat();
        let answer = served.promote(&headers, shown).await;
        assert_eq!(answer.status, 403, "{forged:?} {shown}");
    }
    // No form at all, which a page can send without being asked by the browser.
    let fields = format!("form_token={token}&action=promote&version=2&generation=1&why=x");
    for kind in [
        "text/plain",
        "application/json",
        "multipart/form-data; boundary=x",
    ] {
        let request = served
            .client
            .post(served.url("/models/decide"))
            .body(fields.clone());
        let request = request
            .header("cookie", &cookie)
            .header("content-type", kind);
        assert_eq!(request.send().await.unwrap().status(), 415, "{kind}");
    }
    let get = served
        .get(&format!("/models/decide?{fields}"), &[session])
        .await;
    assert_eq!(get.status, 405, "looking changes nothing");
    assert_eq!(served.serving().await, 1);

    let origin = format!("http://{}", served.address());
    let own = [
        session,
        ("origin", &origin),
        ("sec-fetch-site", "same-origin"),
    ];
    assert_eq!(served.promote(&own, &token).await.status, 303);
    assert_eq!(served.serving().await, 2);
}

#[tokio::test]
async fn a_foreign_name_that_points_here_is_refused() {
    let served = Served::start(|config, _| config.serve.hosts = vec!["tags.example".into()]).await;
    let port = served.address().port();
    for (host, status) in [
        ("evil.example".to_owned(), 421),
        (format!("evil.example:{port}"), 421),
        (format!("127.0.0.1.evil.example:{port}"), 421),
        ("127.0.0.1:1".to_owned(), 421),
        (String::new(), 421),
        (format!("127.0.0.1:{port}"), 200),
        (format!("localhost:{port}"), 200),
        ("tags.example".to_owned(), 200),
        ("TAGS.example:8443".to_owned(), 200),
    ] {
        let answer = served.get("/models", &[("host", &host)]).await;
        assert_eq!(answer.status, status, "{host}");
    }
}

#[tokio::test]
async fn a_proxys_word_counts_from_the_proxy_alone() {
    let proxied = |networks: &'static str| {
        Served::start(move |config, _| {
            config.access.proxy_header = "X-User".into();
            config.access.proxy_networks = vec![networks.into()];
            config.access.proxy_act = vec!["bob".into()];
        })
    };
    let served = proxied("127.0.0.0/8").await;
    assert_eq!(
        served.get("/models", &[]).await.status,
        401,
        "it names nobody"
    );
    for nobody in ["", "a b", "a\tb"] {
        assert_eq!(
            served.get("/models", &[("x-user", nobody)]).await.status,
            401,
            "{nobody:?}"
        );
    }
    let two = served
        .get("/models", &[("x-user", "ann"), ("x-user", "bob")])
        .await;
    assert_eq!(two.status, 401, "which of them?");
    let ann = served.get("/models", &[("x-user", "ann")]).await;
    assert!(ann.status == 200 && !ann.body.contains("action=\"/models/decide\""));
    let token = served.form_token("/models", &[("x-user", "bob")]).await;
    assert_eq!(
        served.promote(&[("x-user", "ann")], &token).await.status,
        403
    );
    assert_eq!(
        served.promote(&[("x-user", "eve")], &token).await.status,
        403
    );
    assert_eq!(
        served.promote(&[("x-user", "bob")], &token).await.status,
        303
    );
    let last = served.registry.history().await.unwrap().pop().unwrap();
    assert_eq!((last.who.as_str(), last.why.as_str()), ("bob", "a test"));

    let elsewhere = proxied("10.0.0.7").await;
    let answer = elsewhere.get("/models", &[("x-user", "bob")]).await;
    assert_eq!(answer.status, 401, "this is not the proxy");
}

#[tokio::test]
async fn a_flood_is_refused_and_others_are_heard_later() {
    let served = Served::start(|config, _| config.access.requests_a_minute = 20).await;
    let mut statuses = Vec::new();
    for _ in 0..60 {
        statuses.push(served.get("/assets/page.css", &[]).await.status);
    }
    assert_eq!(statuses[..20], [200; 20]);
    assert!(
        statuses.iter().filter(|status| **status == 429).count() >= 35,
        "{statuses:?}"
    );
    let refused = served.get("/", &[]).await;
    assert!(
        refused.headers["retry-after"]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            >= 1
    );
}

#[tokio::test]
async fn paths_and_garbage_lead_nowhere() {
    let served = Served::start(|_, _| {}).await;
    for path in [
        "/../../etc/passwd",
        "/assets/../../Cargo.toml",
        "/assets/%2e%2e%2fCargo.toml",
        "/assets/page.css%00",
        "/models/..%2f..%2fregistry.json",
        "/models/-1",
        "/models/18446744073709551616",
        "/models/1/report/../../current.json",
        "/models/1/report",
        "/models/%3Cscript%3E",
        "/models/compare?a=1&b=..",
        "/models/compare",
        "/pictures/..%2f..%2f..%2fetc%2fpasswd",
        "/pictures/file:%2f%2f%2fetc%2fpasswd",
    ] {
        // As it stands: a client would tidy the path up.
        let mut stream = tokio::net::TcpStream::connect(served.address())
            .await
            .unwrap();
        let host = served.address();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status: u16 = answer[9..12].parse().unwrap();
        assert!(status == 404 || status == 400, "{path}: {answer}");
        for no in ["root:", "[workspace]", "<script>", "panicked"] {
            assert!(!answer.contains(no), "{path}: {answer}");
        }
    }
    for garbage in [
        &b"\0\0\0\0"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        &[0xff; 9_000],
        b"POST /models",
    ] {
        let mut stream = tokio::net::TcpStream::connect(served.address())
            .await
            .unwrap();
        stream.write_all(garbage).await.unwrap();
        drop(stream);
    }
    let form_token = served.form_token("/models", &[]).await;
    let long = "x".repeat(300_000);
    let fields = [("form_token", form_token.as_str()), ("why", &long)];
    assert_eq!(
        served.post("/models/decide", &[], &fields).await.status,
        413
    );
    assert_eq!(served.get("/models", &[]).await.status, 200, "it goes on");
}
