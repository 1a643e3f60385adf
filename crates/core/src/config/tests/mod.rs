//! What is read, what is refused and in which words.

mod mistakes;

use super::*;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stage.toml");
    fs::write(&path, text).unwrap();
    (folder, path)
}

/// Reads a file and variables, without those of this process.
fn read_these<T: Configuration>(
    text: &str,
    variables: &[(&str, &str)],
    others: &[Shape],
) -> Result<Loaded<T>, ConfigError> {
    let (_folder, path) = file(text);
    let variables = variables
        .iter()
        .map(|(k, v)| (OsString::from(k), OsString::from(v)));
    let loaded = read_with::<T>(Some(&path), others, variables)?;
    loaded.refuse(loaded.config.flaws())?;
    Ok(loaded)
}

fn stage(text: &str) -> StageConfig {
    read_these::<StageConfig>(text, &[], &[]).unwrap().config
}

fn refused(text: &str) -> String {
    let read = read_these::<StageConfig>(text, &[], &[]);
    read.unwrap_err().to_string()
}

/// A reference file with every key in force.
fn in_force(reference: &str) -> String {
    let uncommented = reference.lines().map(|line| match line.strip_prefix('#') {
        Some(key) if !key.is_empty() && !key.starts_with([' ', ':']) => key,
        _ => line,
    });
    uncommented.fold(String::new(), |text, line| text + line + "\n")
}

#[test]
fn the_reference_is_the_defaults_as_it_is_and_with_every_key_uncommented() {
    let shipped = reference::<StageConfig>();
    assert_eq!(stage(&shipped), StageConfig::default());
    let all = in_force(&shipped);
    assert_eq!(stage(&all), StageConfig::default());
    // Every key of the types stands in the file, and no other.
    let stand: toml::Table = toml::from_str(&all).unwrap();
    let exist = toml::Table::try_from(StageConfig::default()).unwrap();
    let keys = |table: &toml::Table| -> BTreeSet<String> {
        let of = |section: &str| format!("{section}.");
        table
            .iter()
            .flat_map(|(s, t)| t.as_table().unwrap().keys().map(move |k| of(s) + k))
            .collect()
    };
    assert_eq!(keys(&stand), keys(&exist));
    assert!(keys(&stand).len() > 40);
    assert!(
        shipped
            .lines()
            .all(|line| line.chars().count() <= 100 || !line.starts_with("# "))
    );
}

#[test]
fn every_key_is_described_and_every_default_is_of_its_kind() {
    fn described(keys: &[Key]) {
        for key in keys {
            assert!(!key.docs.is_empty(), "{}", key.name);
            described(key.kind.keys());
        }
    }
    described(StageConfig::KEYS);
}

#[test]
fn the_schema_has_every_key_with_type_default_and_description() {
    let schema: serde_json::Value = serde_json::from_str(&schema::<StageConfig>()).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    fn told(keys: &[Key], schema: &serde_json::Value) {
        for key in keys {
            let told_of = &schema["properties"][key.name];
            if !key.kind.keys().is_empty() {
                assert_eq!(told_of["additionalProperties"], false, "{}", key.name);
                told(key.kind.keys(), told_of);
                continue;
            }
            assert!(told_of["description"].is_string(), "{}", key.name);
            assert!(!told_of["default"].is_null(), "{}", key.name);
            let typed = told_of["type"].is_string() || told_of["enum"].is_array();
            assert!(typed, "{}", key.name);
        }
    }
    told(StageConfig::KEYS, &schema);
    let fetch = &schema["properties"]["fetch"]["properties"];
    assert_eq!(fetch["retries"]["maximum"], u32::MAX);
    let provider = &schema["properties"]["model"]["properties"]["provider"];
    assert_eq!(provider["enum"][1], "cuda");
    let s3 = &schema["properties"]["object_store"]["properties"]["s3"];
    assert_eq!(s3["properties"]["access_key_id"]["type"], "string");
    assert_eq!(s3["additionalProperties"], false);
}

#[test]
fn a_file_overrides_defaults() {
    let text = "fetch.timeout_ms = 5\n[model]\nprovider = \"auto\"\n[kafka.properties]\n\
                \"sasl.username\" = \"me\"\n";
    let config = stage(text);
    assert_eq!(
        (config.fetch.timeout_ms, config.model.provider),
        (5, Provider::Auto)
    );
    assert_eq!(config.fetch.retries, FetchConfig::default().retries);
    assert_eq!(config.kafka.properties["sasl.username"].expose(), "me");
    let nowhere = Some(Path::new("/nowhere/stage.toml"));
    let missing = read::<StageConfig>(nowhere, &[]).unwrap_err();
    assert!(missing.to_string().contains("/nowhere/stage.toml"));
}

#[test]
fn variables_override_the_file() {
    let text = "[fetch]\ntimeout_ms = 5\nretries = 9\n[object_store.s3]\nregion = \"here\"\n";
    let loaded = read_these::<StageConfig>(
        text,
        &[
            ("TAGSTREAM_FETCH__TIMEOUT_MS", "7"),
            ("tagstream_kafka__brokers", "a:1,b:2"),
            // What looks like a number is a string where a string belongs.
            ("TAGSTREAM_KAFKA__GROUP_ID", "7"),
            ("TAGSTREAM_LABELS__ENABLED", "true"),
            ("TAGSTREAM_FETCH__ALLOW_SCHEMES", "[\"https\"]"),
            ("TAGSTREAM_KAFKA__PROPERTIES__SASL_PASSWORD", "hunter2"),
            ("TAGSTREAM_OBJECT_STORE__S3__ACCESS_KEY_ID", "me"),
            (
                "TAGSTREAM_OBJECT_STORE__GS",
                "{ service_account = \"a.json\" }",
            ),
            // No path to a key: other commands' variables.
            ("TAGSTREAM_CACHE", "/somewhere"),
        ],
        &[],
    )
    .unwrap();
    let config = &loaded.config;
    assert_eq!((config.fetch.timeout_ms, config.fetch.retries), (7, 9));
    assert_eq!(
        (&*config.kafka.brokers, &*config.kafka.group_id),
        ("a:1,b:2", "7")
    );
    assert!(config.labels.enabled);
    assert_eq!(config.fetch.allow_schemes, ["https"]);
    assert_eq!(config.kafka.properties["sasl.password"].expose(), "hunter2");
    let s3 = &config.object_store.s3;
    assert_eq!(
        (s3["region"].expose(), s3["access_key_id"].expose()),
        ("here", "me")
    );
    assert_eq!(config.object_store.gs["service_account"].expose(), "a.json");
    // Where each stands is known.
    let variable = Origin::Variable("TAGSTREAM_FETCH__TIMEOUT_MS".into());
    assert_eq!(loaded.origins.of("fetch.timeout_ms"), variable);
    let of_file = loaded.origins.of("fetch.retries").to_string();
    assert!(of_file.ends_with("stage.toml:3:1"), "{of_file}");
    assert!(matches!(
        loaded.origins.of("fetch.max_mib"),
        Origin::Unset(Some(_))
    ));
}

#[test]
fn values_that_cannot_be_right_are_named() {
    for (text, key) in [
        ("[kafka]\nbrokers = \"\"", "kafka.brokers"),
        ("[kafka]\ngroup_id = \"\"", "kafka.group_id"),
        ("[memory]\nbudget_mib = 8", "memory.budget_mib"),
        ("[fetch]\nconcurrency = 0", "fetch.concurrency"),
        ("[fetch]\nallow_schemes = [\"ftp\"]", "fetch.allow_schemes"),
        ("[model]\nmax_batch = 0", "model.max_batch"),
        ("[model]\nmax_batch_mib = 0", "model.max_batch_mib"),
        (
            "[output]\ndead_letter_topic = \"\"",
            "output.dead_letter_topic",
        ),
        ("[output]\ntable = \"a/../b\"", "output.table"),
        ("[output]\nmax_file_age_ms = 0", "output.max_file_age_ms"),
        ("[output]\nurl = \"ftp://host/x\"", "output.url"),
        ("[http]\nbind = \"9464\"", "http.bind"),
    ] {
        let error = refused(text);
        assert!(
            error.contains(&format!("stage.toml:2:1: `{key}`")),
            "{text}: {error}"
        );
    }
}

#[test]
fn secrets_are_never_printed() {
    let config = stage("[object_store.s3]\nsecret_access_key = \"hunter2\"\n");
    assert_eq!(
        config.object_store.s3["secret_access_key"].expose(),
        "hunter2"
    );
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(!toml::to_string(&config).unwrap().contains("hunter2"));
    // Nor can it be tried out on the hash that `/info` shows.
    let other = stage("[object_store.s3]\nsecret_access_key = \"another\"\n");
    assert_eq!(config.hash(), other.hash());
    assert_ne!(config.hash(), StageConfig::default().hash());
}

#[test]
fn the_http_port_is_open_to_this_machine_only_unless_asked_for() {
    let bind: std::net::SocketAddr = StageConfig::default().http.bind.parse().unwrap();
    assert!(bind.ip().is_loopback(), "{bind}");
}
