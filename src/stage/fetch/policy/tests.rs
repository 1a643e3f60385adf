use super::*;
use tagstream_core::events::DeadLetterKind::{BadUri, ForbiddenUri};

fn policy(change: impl FnOnce(&mut FetchConfig)) -> UriPolicy {
    let mut config = FetchConfig {
        allow_schemes: SCHEMES.map(String::from).to_vec(),
        allow_buckets: vec!["*".into()],
        ..FetchConfig::default()
    };
    change(&mut config);
    UriPolicy::new(&config).unwrap()
}

#[test]
fn addresses_in_disguise_are_recognised() {
    let policy = policy(|_| {});
    for uri in [
        "http://127.0.0.1/a.jpg",
        "http://127.1/a.jpg",
        "http://2130706433/a.jpg",
        "http://0177.0.0.1/a.jpg",
        "http://0x7f.0.0.1/a.jpg",
        "http://0x7f000001/a.jpg",
        "http://127.0.0.1./a.jpg",
        "http://127%2e0%2e0%2e1/a.jpg",
        "http://１２７.0.0.1/a.jpg",
        "http://[::1]/a.jpg",
        "http://[::ffff:7f00:1]/a.jpg",
        "http://[::ffff:169.254.169.254]/latest/meta-data",
        "http://[64:ff9b::7f00:1]/a.jpg",
        "http://[fe80::1]/a.jpg",
        "http://169.254.169.254/latest/meta-data",
        "http://0/a.jpg",
        "http:\\\\10.0.0.1\\a.jpg",
        "HTTP://10.0.0.1/a.jpg",
    ] {
        assert_eq!(check(&policy, uri), Err(ForbiddenUri), "{uri}");
    }
}

#[test]
fn user_names_and_passwords_are_refused() {
    let policy = policy(|c| c.allow_hosts = vec!["example.org".into()]);
    for uri in [
        "https://user@example.org/a.jpg",
        "https://user:password@example.org/a.jpg",
        "https://:password@example.org/a.jpg",
        "https://example.org@evil.net/a.jpg",
        "https://example.org:80@evil.net/a.jpg",
        "s3://key:secret@example.org/a.jpg",
    ] {
        assert_eq!(check(&policy, uri), Err(ForbiddenUri), "{uri}");
    }
}

#[test]
fn hosts_match_whole_names_only() {
    let policy = policy(|c| {
        c.allow_hosts = vec![
            "example.org".into(),
            "*.cdn.net".into(),
            "My_Bucket".into(),
            "bücher.de".into(),
            "2606:4700::1111".into(),
            "[2606:4700::2222]".into(),
        ];
        c.allow_buckets.clear();
    });
    for uri in [
        "https://[2606:4700:0:0:0:0:0:1111]/a",
        "https://[2606:4700::2222]:8443/a",
        "https://example.org/a",
        "https://EXAMPLE.org./a",
        "https://a.cdn.net/a",
        "https://a.b.cdn.net/a",
        "s3://my_bucket/a",
        "https://xn--bcher-kva.de/a",
        "https://bücher.de/a",
    ] {
        assert_eq!(check(&policy, uri), Ok(()), "{uri}");
    }
    for uri in [
        "https://www.example.org/a",
        "https://example.org.evil.net/a",
        "https://notexample.org/a",
        "https://cdn.net/a",
        "https://evilcdn.net/a",
        "https://a.cdn.net.evil.net/a",
        "https://evil.net/example.org",
        "https://evil.net\\@example.org/a",
        "https://evil.net#@example.org/",
        "https://evil.net?@example.org/",
        "https://[2606:4700::3333]/a",
        "s3://other/a",
    ] {
        assert_eq!(check(&policy, uri), Err(ForbiddenUri), "{uri}");
    }
}

#[test]
fn blanks_around_a_uri_are_left_out() {
    let policy = policy(|_| {});
    let plain = policy.source("https://example.org/a").unwrap();
    for uri in [
        " https://example.org/a",
        "https://example.org/a \r\n",
        "\t https://example.org/a\u{0}",
    ] {
        assert_eq!(policy.source(uri), Ok(plain.clone()), "{uri:?}");
    }
    assert_eq!(
        policy.source(" data:,x\n"),
        Ok(CheckedUri::Data(",x".into()))
    );
    assert_eq!(check(&policy, " http://127.0.0.1/a"), Err(ForbiddenUri));
    assert_eq!(check(&policy, "\u{a0}https://example.org/a"), Err(BadUri));
}

#[test]
fn what_is_no_uri_is_a_bad_uri() {
    let policy = policy(|_| {});
    for uri in [
        "",
        "a.jpg",
        "/etc/passwd",
        "gopher://example.org/1",
        "javascript:alert(1)",
        "ftp://example.org/a",
        "http://",
        "http:///",
        "http://[::1",
        "http://exa mple.org/",
        "http://256.256.256.256/",
        "http://1.2.3.4.5/",
        "http://example.org:99999/",
        "s3:///key",
        "s3://bucket",
        "s3://bucket/",
        "s3://bucket:9000/key",
        "s3://bucket/key?versionId=1",
        "s3://a/%ff",
        "s3://buc..ket/key",
        "s3://b%2fc/key",
        "file://server/share/a.jpg",
        "file:///a.jpg?x=1",
    ] {
        assert_eq!(check(&policy, uri), Err(BadUri), "{uri:?}");
    }
}

#[test]
fn schemes_not_listed_are_refused() {
    let policy = UriPolicy::new(&FetchConfig::default()).unwrap();
    assert_eq!(check(&policy, "http://example.org/a"), Err(ForbiddenUri));
    assert_eq!(check(&policy, "file:///etc/passwd"), Err(ForbiddenUri));
    assert_eq!(check(&policy, "https://example.org/a"), Ok(()));
}

#[test]
fn paths_out_of_the_folders_are_refused_before_they_are_touched() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().to_str().unwrap().to_string();
    let policy = policy(|c| c.allow_path_prefixes = vec![inside.clone()]);
    for uri in [
        "file:///etc/passwd".to_string(),
        format!("file://{inside}/../x.jpg"),
        format!("file://{inside}/%2e%2e/x.jpg"),
        format!("file://{inside}/a%2f..%2f..%2fx.jpg"),
        format!("file://{inside}-other/x.jpg"),
        "file:///".to_string(),
    ] {
        assert_eq!(check(&policy, &uri), Err(ForbiddenUri), "{uri}");
    }
    for uri in [
        format!("file://{inside}/a%20b.jpg"),
        format!("file://localhost{inside}/a.jpg"),
    ] {
        assert_eq!(check(&policy, &uri), Ok(()), "{uri}");
    }
    assert_eq!(
        check(&policy, &format!("file://{inside}/a%00.jpg")),
        Err(BadUri)
    );
}

#[test]
fn rules_that_cannot_be_right_are_refused_at_the_start() {
    let refused = |change: fn(&mut FetchConfig)| {
        let mut config = FetchConfig::default();
        change(&mut config);
        UriPolicy::new(&config).unwrap_err().to_string()
    };
    assert!(refused(|c| c.allow_schemes = vec!["ftp".into()]).contains("allow_schemes"));
    for host in ["", "*", "*.", "a.*.b", "a b", "*.10.0.0.1", "http://x"] {
        let config = FetchConfig {
            allow_hosts: vec![host.into()],
            ..FetchConfig::default()
        };
        assert!(UriPolicy::new(&config).is_err(), "{host:?}");
    }
    assert!(
        refused(|c| c.allow_path_prefixes = vec!["/no/such/folder".into()])
            .contains("allow_path_prefixes")
    );
    assert!(refused(|c| c.allow_path_prefixes = vec!["src".into()]).contains("absolute"));
}

#[test]
fn all_names_of_a_store_are_one_store_and_allowed_as_one() {
    let of = |policy: &UriPolicy, uri: &str| match policy.source(uri) {
        Ok(CheckedUri::Object { store, bucket, key }) => Ok((store, bucket, key)),
        other => Err(format!("{other:?}")),
    };
    let all = policy(|_| {});
    let no_azure = policy(|c| c.allow_schemes.retain(|scheme| scheme != "az"));
    for (uri, store) in [
        ("s3://bucket/k/a.jpg", Store::S3),
        ("s3a://bucket/k/a.jpg", Store::S3),
        ("S3N://bucket/k/a.jpg", Store::S3),
        ("gcs://bucket/k/a.jpg", Store::Gs),
        ("azure://bucket/k/a.jpg", Store::Az),
        ("abfss://bucket/k/a.jpg", Store::Az),
    ] {
        let wanted = Ok((store, "bucket".into(), "k/a.jpg".into()));
        assert_eq!(of(&all, uri), wanted, "{uri}");
        let forbidden = store == Store::Az;
        assert_eq!(check(&no_azure, uri).is_err(), forbidden, "{uri}");
    }
    // Whose account it is, is not for a message to say.
    let uri = "abfss://container@account.dfs.core.windows.net/a.jpg";
    assert_eq!(check(&all, uri), Err(ForbiddenUri));
    assert!(of(&all, uri).unwrap_err().contains("account_name"));
}

/// Asking a store makes this machine ask for credentials: nobody but who configures decides that.
#[test]
fn object_stores_are_asked_for_listed_buckets_only() {
    let listed = |buckets: &[&str], hosts: &[&str], uri: &str| {
        let own = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let policy = policy(|c| {
            c.allow_buckets = own(buckets);
            c.allow_hosts = own(hosts);
        });
        check(&policy, uri)
    };
    for uri in [
        "s3://photos/a",
        "s3a://photos/a",
        "gs://photos/a",
        "az://photos/a",
    ] {
        assert_eq!(listed(&[], &[], uri), Err(ForbiddenUri), "{uri}");
        assert_eq!(
            listed(&["photo", "s3://other"], &[], uri),
            Err(ForbiddenUri),
            "{uri}"
        );
        assert_eq!(listed(&["photos"], &[], uri), Ok(()), "{uri}");
        assert_eq!(listed(&["*"], &[], uri), Ok(()), "{uri}");
        assert_eq!(listed(&[], &["photos"], uri), Ok(()), "{uri}");
        assert_eq!(listed(&["photos"], &["example.org"], uri), Ok(()), "{uri}");
    }
    assert_eq!(
        listed(&["gs://photos"], &[], "s3://photos/a"),
        Err(ForbiddenUri)
    );
    assert_eq!(listed(&["s3a://photos"], &[], "s3://photos/a"), Ok(()));
    assert_eq!(listed(&["gcs://*"], &[], "gs://photos/a"), Ok(()));
    let defaults = UriPolicy::new(&FetchConfig::default()).unwrap();
    assert_eq!(check(&defaults, "s3://photos/a"), Err(ForbiddenUri));
    for rule in ["", "s3://", "ftp://photos", "a/b", "*.photos", "u:p@photos"] {
        let config = FetchConfig {
            allow_buckets: vec![rule.into()],
            ..FetchConfig::default()
        };
        let refused = UriPolicy::new(&config).unwrap_err().to_string();
        assert!(refused.contains("fetch.allow_buckets"), "{refused}");
    }
}
