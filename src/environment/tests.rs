use std::fs;
use std::path::Path;
use super::*;

fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stage.toml");
    fs::write(&path, text).unwrap();
    (folder, path)
}

fn refused(text: &str) -> String {
    let (_folder, path) = file(text);
    load_stage(Some(&path)).unwrap_err().to_string()
}

#[test]
fn a_file_overrides_defaults_and_unknown_keys_are_named() {
    let (_folder, path) = file("[fetch]\ntimeout_ms = 5\n[model]\nprovider = \"auto\"\n");
    let config = load_stage(Some(&path)).unwrap();
    assert_eq!(
        (config.fetch.timeout_ms, config.model.provider),
        (5, Provider::Auto)
    );
    assert_eq!(config.fetch.retries, FetchConfig::default().retries);
    let error = refused("[fetch]\ntimeout = 5\n");
    assert!(error.contains("timeout"), "{error}");
    let error = refused("[fetch]\ntimeout_ms = \"soon\"\n");
    assert!(error.contains("timeout_ms"), "{error}");
    assert!(refused("[model]\nprovider = \"gpu\"\n").contains("provider"));
    assert!(refused("this is not toml").contains("configuration"));
    let missing = load_stage(Some(Path::new("/nowhere/stage.toml"))).unwrap_err();
    assert!(missing.to_string().contains("/nowhere/stage.toml"));
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
        ("[http]\nbind = \"9464\"", "http.bind"),
    ] {
        let error = refused(text);
        assert!(error.contains(&format!("`{key}`")), "{text}: {error}");
    }
}

#[test]
fn secrets_are_never_printed() {
    let (_folder, path) = file("[object_store.s3]\nsecret_access_key = \"hunter2\"\n");
    let config = load_stage(Some(&path)).unwrap();
    assert_eq!(
        config.object_store.s3["secret_access_key"].expose(),
        "hunter2"
    );
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(!toml::to_string(&config).unwrap().contains("hunter2"));
    // Nor can it be tried out on the hash that `/info` shows.
    let (_folder, path) = file("[object_store.s3]\nsecret_access_key = \"another\"\n");
    let other = load_stage(Some(&path)).unwrap();
    assert_eq!(config.hash(), other.hash());
    assert_ne!(config.hash(), StageConfig::default().hash());
}

#[test]
fn the_http_port_is_open_to_this_machine_only_unless_asked_for() {
    let bind: std::net::SocketAddr = StageConfig::default().http.bind.parse().unwrap();
    assert!(bind.ip().is_loopback(), "{bind}");
}
