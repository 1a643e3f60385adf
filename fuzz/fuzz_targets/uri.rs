//! URIs: no panic, nothing allowed that the rules forbid, and no secret survives redaction.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tagstream::{
    config::FetchConfig,
    stage::fetch::{UriPolicy, check, redact},
};

static POLICY: LazyLock<UriPolicy> = LazyLock::new(|| {
    UriPolicy::new(&FetchConfig {
        allow_schemes: ["file", "s3", "http", "https", "data"]
            .map(String::from)
            .to_vec(),
        allow_hosts: vec!["example.org".into(), "*.example.net".into()],
        allow_path_prefixes: vec!["/usr/share".into()],
        ..FetchConfig::default()
    })
    .unwrap()
});

fuzz_target!(|uri: &str| {
    let shown = redact(uri);
    assert!(shown.chars().count() <= 201 && !shown.contains(char::is_control));
    if check(&POLICY, uri).is_err() {
        return;
    }
    let lower = uri.to_ascii_lowercase();
    if lower.starts_with("data:") {
        return;
    }
    // What was allowed is allowed for a reason that can be seen in the parsed URI.
    let url = url::Url::parse(uri).expect("allowed, so it parses");
    assert!(url.username().is_empty() && url.password().is_none());
    match url.scheme() {
        "file" => assert!(url.to_file_path().unwrap().starts_with("/usr/share")),
        "http" | "https" | "s3" => {
            let host = url.host_str().unwrap().trim_end_matches('.').to_ascii_lowercase();
            assert!(
                host == "example.org" || host.ends_with(".example.net"),
                "{host}"
            );
        }
        other => panic!("the scheme {other} is not allowed"),
    }
});
