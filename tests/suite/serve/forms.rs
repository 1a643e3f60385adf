//! Every form and every page alike: what is tested of one must hold of all.

use super::{ACTOR, READER, Served};
use std::time::Instant;

/// What changes something, and what it would be sent.
const ACTS: [(&str, &[(&str, &str)]); 4] = [
    ("/review/say", &[("what", "yes"), ("order", "mixed")]),
    (
        "/review/grid",
        &[("what", "say"), ("rest", "no"), ("order", "mixed")],
    ),
    ("/review/grid", &[("what", "undo"), ("order", "mixed")]),
    (
        "/models/decide",
        &[
            ("action", "promote"),
            ("version", "2"),
            ("generation", "1"),
            ("why", "x"),
        ],
    ),
];

/// All that can be looked at, and what is no page.
const PAGES: [&str; 14] = [
    "/",
    "/login",
    "/review",
    "/review/grid",
    "/search",
    "/search?tag=a&from=yesterday",
    "/models",
    "/models/1",
    "/models/1/report",
    "/models/compare?a=1&b=2",
    "/label-studio/health",
    "/v2/health/live",
    "/assets/review.js",
    "/nothing",
];

#[tokio::test]
async fn no_form_is_taken_from_another_site_or_from_who_only_reads() {
    let served = Served::with_tokens().await;
    let (actor, reader) = (served.log_in(ACTOR).await, served.log_in(READER).await);
    let session = ("cookie", actor.as_str());
    let token = served.form_token("/models", &[session]).await;
    for (path, fields) in ACTS {
        let with = |token| [&[("form_token", token)], fields].concat();
        for forged in ["", "0", &token[1..]] {
            let answer = served.post(path, &[session], &with(forged)).await;
            assert_eq!(answer.status, 403, "{path} with the token {forged:?}");
        }
        for foreign in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            let answer = served.post(path, &[session, foreign], &with(&token)).await;
            assert_eq!(answer.status, 403, "{path} from {foreign:?}");
        }
        let read = [("cookie", reader.as_str())];
        let own = served.form_token("/models", &read).await;
        let answer = served.post(path, &read, &with(&own)).await;
        assert_eq!(answer.status, 403, "{path} by a reader");
        let answer = served.post(path, &[], &with(&token)).await;
        assert_eq!(answer.status, 401, "{path} by nobody");
        for kind in [
            "text/plain",
            "application/json",
            "multipart/form-data; boundary=x",
            "",
        ] {
            let request = served
                .client
                .post(served.url(path))
                .header("cookie", &actor);
            let request = request
                .header("content-type", kind)
                .body(format!("form_token={token}"));
            assert_eq!(
                request.send().await.unwrap().status(),
                415,
                "{path} as {kind:?}"
            );
        }
    }
    assert_eq!(served.serving().await, 1);
}

/// Of whatever comes back: pages, programs' answers, and what is refused.
#[tokio::test]
async fn nothing_can_be_framed_or_read_by_another_site() {
    let served = Served::start(|_, _| {}).await;
    let foreign = [("origin", "https://evil.example")];
    for path in PAGES {
        for headers in [&[][..], &foreign, &[("host", "evil.example")]] {
            let answer = served.get(path, headers).await;
            let header = |name: &str| {
                let value = answer.headers.get(name);
                value.map_or("", |value| value.to_str().unwrap()).to_owned()
            };
            let policy = header("content-security-policy");
            assert!(
                policy.contains("frame-ancestors 'none'"),
                "{path}: {policy}"
            );
            assert!(policy.contains("default-src 'none'"), "{path}: {policy}");
            assert_eq!(header("x-frame-options"), "DENY", "{path}");
            assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
            assert_eq!(
                header("cross-origin-resource-policy"),
                "same-origin",
                "{path}"
            );
            assert_eq!(header("access-control-allow-origin"), "", "{path}");
        }
    }
    for path in ["/v1/tag", "/review/say", "/label-studio/webhook"] {
        let request = served
            .client
            .request(reqwest::Method::OPTIONS, served.url(path));
        let request = request.header("origin", "https://evil.example");
        let request = request.header("access-control-request-method", "POST");
        let answer = request.send().await.unwrap();
        assert!(
            !answer.headers().contains_key("access-control-allow-origin"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn what_is_asked_for_is_text_on_every_page() {
    let served = Served::start(|config, folder| {
        config.tables.url = folder.join("tables").to_str().unwrap().into();
        std::fs::create_dir(folder.join("tables")).unwrap();
    })
    .await;
    let markup = "\"><script>alert(1)</script><img src=x onerror='alert(2)'>";
    let fields = [
        (
            "/search",
            &["words", "image", "vector", "tag", "least", "from", "to"][..],
        ),
        ("/review", &["order"]),
        ("/review/grid", &["category", "order", "seat"]),
        ("/models/compare", &["a", "b"]),
    ];
    for (path, fields) in fields {
        for field in fields {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.append_pair(field, markup);
            query.extend_pairs((*field == "least").then_some(("tag", "a")));
            let answer = served.get(&format!("{path}?{}", query.finish()), &[]).await;
            for no in ["<script>alert", "<img src=x", "panicked"] {
                assert!(!answer.body.contains(no), "{path} {field}: {}", answer.body);
            }
            assert!(answer.status < 500, "{path} {field}: {}", answer.body);
        }
    }
    // Values of a form, too.
    let token = served.form_token("/models", &[]).await;
    for (path, fields) in ACTS {
        for (at, _) in fields.iter().enumerate() {
            let mut fields = fields.to_vec();
            fields[at].1 = markup;
            fields.push(("form_token", &token));
            fields.extend([("seat", markup), ("category", markup), ("image-0", markup)]);
            let answer = served.post(path, &[], &fields).await;
            assert!(
                !answer.body.contains("<script>alert"),
                "{path}: {}",
                answer.body
            );
        }
    }
}

#[tokio::test]
async fn acts_of_one_name_are_limited_whatever_form_they_come_by() {
    let served = Served::start(|config, _| config.access.acts_a_minute = 6).await;
    let token = served.form_token("/models", &[]).await;
    let (mut statuses, began) = (Vec::new(), Instant::now());
    for _ in 0..3 {
        for (path, fields) in ACTS {
            // A reason is wanted: nothing is decided.
            let fields = fields.iter().filter(|(name, _)| *name != "why").copied();
            let fields: Vec<_> = fields.chain([("form_token", token.as_str())]).collect();
            statuses.push(served.post(path, &[], &fields).await.status);
        }
    }
    assert!(
        statuses[..6].iter().all(|status| *status != 429),
        "{statuses:?}"
    );
    // A place comes back every ten seconds.
    let places = 7 + began.elapsed().as_secs() as usize / 10;
    let taken = statuses.iter().filter(|status| **status != 429).count();
    assert!(taken <= places, "{statuses:?}");
    assert_eq!(served.serving().await, 1);
}
