//! `tagstream demo`, cut short: what the job can see, and what it cannot.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tagstream::labelling::store::read_labels;
use tagstream::retrain::config::RetrainConfig;
use tagstream::retrain::job::Inputs;
use tagstream_core::config::ObjectStoreConfig;
use tagstream_core::storage::store::TableStore;
use tagstream_model::registry::Registry;
use tagstream_model::runtime;

/// Runs the demonstration with pictures and training time far too few for a better model: the judge
/// lets none pass.
fn short_demonstration(out: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_tagstream"));
    if let Ok(runtime) = runtime::Runtime::load() {
        command.env("ORT_DYLIB_PATH", runtime.library());
    }
    let output = command
        .args(["demo", "--images", "400", "--max-minutes", "0.001", "--out"])
        .arg(out)
        .arg("--clip")
        .arg(root.join("models/demo-clip"))
        // A user's own settings must not reach the demonstration.
        .env("TAGSTREAM_KAFKA__BROKERS", "127.0.0.1:1")
        .env("TAGSTREAM_REGISTRY", "/nowhere")
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("was not promoted"), "{said}");
}

#[test]
fn the_job_never_sees_the_second_half_nor_what_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("demo-out");
    short_demonstration(&out);

    // The labels that were sent: a tenth, about the first half only.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let options = ObjectStoreConfig::default();
    let store = TableStore::open_for_reading(out.to_str().unwrap(), &options).unwrap();
    let table = runtime.block_on(read_labels(&store, "labels")).unwrap();
    let halves = ["first", "second"].map(|half| {
        let list = out.join("truth").join(half).join("labels.csv");
        let rows = std::fs::read_to_string(list).unwrap();
        let ids = rows.lines().skip(1).map(|l| l.split(',').next().unwrap());
        let mut ids: Vec<String> = ids.map(str::to_owned).collect();
        ids.dedup();
        assert_eq!(ids.len(), 200);
        ids
    });
    let labelled: Vec<&str> = table.images().map(|(id, _)| id).collect();
    assert!(labelled.len() > 190);
    for id in &labelled {
        assert!(halves[0].iter().any(|known| known == id), "{id}");
        assert!(!halves[1].iter().any(|unseen| unseen == id), "{id}");
    }
    let known = table.known().count() as f64 / (200.0 * 50.0);
    assert!((known - 0.1).abs() < 0.02, "{known}");

    // What the candidate says that it was trained on is exactly this.
    let registry = out.join("registry");
    let registry = Registry::open(registry.to_str().unwrap(), &options);
    let candidate = runtime
        .block_on(async { registry.await.unwrap().version(2).await })
        .unwrap();
    let inputs = Inputs::new(table, Vec::new(), 1);
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap();
    assert!(report.to_string().contains(&inputs.snapshot));
    assert!(candidate.attachments.contains_key("labels.csv.gz"));

    // And its rules forbid it to read anything but the first half's pictures, the truth least of
    // all.
    let config =
        tagstream_core::config::load::<RetrainConfig>(Some(&out.join("retrain.toml")), &[])
            .unwrap()
            .config;
    let first = out.canonicalize().unwrap().join("pictures/first");
    let allowed: Vec<PathBuf> = config
        .fetch
        .allow_path_prefixes
        .iter()
        .map(Into::into)
        .collect();
    assert_eq!(allowed, [first]);
    assert_eq!(config.fetch.allow_schemes, ["file"]);
    assert!(!out.join("pictures/first/labels.csv").exists());
}
