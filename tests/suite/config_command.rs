//! `tagstream config`: the file, the environment over it, and what is refused. In a process of its own, because the environment
//! belongs to the whole process.

use std::process::{Command, Output};

fn config(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tagstream"))
        .arg("config")
        .args(arguments)
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn variables_override_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stage.toml");
    std::fs::write(&file, "[fetch]\ntimeout_ms = 5\nretries = 9\n").unwrap();
    let output = config(
        &["print", "--config", file.to_str().unwrap()],
        &[
            ("TAGSTREAM_FETCH__TIMEOUT_MS", "7"),
            ("TAGSTREAM_KAFKA__BROKERS", "a:1,b:2"),
            // Not a path to a key: other commands' variables.
            ("TAGSTREAM_CACHE", "/somewhere"),
        ],
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for line in ["timeout_ms = 7", "retries = 9", "brokers = \"a:1,b:2\""] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn an_unknown_key_is_a_usage_error_wherever_it_stands() {
    let output = config(&["validate"], &[("TAGSTREAM_FETCH__TIMEOUT", "7")]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("timeout"), "{text}");
}
