//! `tagstream bench --http`: that it measures, not what.

use serde_json::Value;
use std::process::Command;
use tagstream_model::runtime::Runtime;

#[test]
fn the_model_over_http_is_measured_beside_the_bare_model() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("http.jsonl");
    let root = env!("CARGO_MANIFEST_DIR");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tagstream"));
    if let Ok(runtime) = Runtime::load() {
        command.env("ORT_DYLIB_PATH", runtime.library());
    }
    let output = command
        .args([
            "bench", "--http", "--json", "--case", "a test", "--repeat", "1",
        ])
        .args(["--seconds", "2", "--pictures", "4", "--megapixels", "0.02"])
        .args([
            "--model",
            &format!("{root}/tests/fixtures/tiny-model"),
            "--log",
        ])
        .arg(&log)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("over HTTP / model alone"), "{said}");
    let row: Value = serde_json::from_slice(&output.stdout).unwrap();
    let logged: Value = serde_json::from_slice(&std::fs::read(&log).unwrap()).unwrap();
    assert_eq!(row, logged);
    assert_eq!(
        (&row["kind"], &row["case"]),
        (&"http".into(), &"a test".into())
    );
    for figure in [
        "/http/images_per_second/median",
        "/http/p50_ms/median",
        "/http/p99_ms/median",
        "/ceiling/model_images_per_second/median",
        "/http_over_model/median",
        "/alone/p50_ms",
        "/paced/latency/p99_ms",
    ] {
        let value = row.pointer(figure).and_then(Value::as_f64);
        assert!(value.is_some_and(|value| value > 0.0), "{figure}: {row}");
    }
    let refused = Command::new(env!("CARGO_BIN_EXE_tagstream"))
        .args(["bench", "--http", "--peer", "x"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
}
