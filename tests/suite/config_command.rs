//! `tagstream config`: the file, the environment over it, and what is refused. In a process of its
//! own, because the environment belongs to the whole process.

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
            // The retraining job's.
            ("TAGSTREAM_JUDGE__MARGIN", "0.5"),
            ("TAGSTREAM_LABELS__URL", "/tables"),
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
    assert!(text.contains("TAGSTREAM_FETCH__TIMEOUT"), "{text}");
}

/// `run` and `retrain` in one environment: neither minds what is the other's, both mind what is
/// nobody's.
#[test]
fn the_stage_and_the_job_share_an_environment() {
    let folder = tempfile::tempdir().unwrap();
    let (tables, registry) = (folder.path().join("tables"), folder.path().join("registry"));
    let (tables, registry) = (tables.to_str().unwrap(), registry.to_str().unwrap());
    let shared = [
        ("TAGSTREAM_OUTPUT__URL", tables),
        ("TAGSTREAM_MODEL__PATH", registry),
        ("TAGSTREAM_REGISTRY__URL", registry),
        ("TAGSTREAM_LABELS__URL", tables),
        ("TAGSTREAM_LABELS__ENABLED", "false"),
        ("TAGSTREAM_JUDGE__MARGIN", "0.5"),
    ];
    let said = |command: &str, more: Option<(&str, &str)>| {
        let output = Command::new(env!("CARGO_BIN_EXE_tagstream"))
            .arg(command)
            .envs(shared)
            .envs(more)
            .env_remove("TAGSTREAM_CONFIG")
            .env_remove("TAGSTREAM_RETRAIN_CONFIG")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    };
    for command in ["run", "retrain"] {
        // The configuration is taken; what it names is not there.
        let (_, text) = said(command, None);
        assert!(text.contains(registry), "{command}: {text}");
        assert!(!text.contains("TAGSTREAM_"), "{command}: {text}");
        for nobodys in ["TAGSTREAM_JUDGE__MARGINS", "TAGSTREAM_MODEL__PATHS"] {
            let (code, text) = said(command, Some((nobodys, "1")));
            assert_eq!(code, Some(2), "{command}: {text}");
            assert!(text.contains(nobodys), "{command}: {text}");
            assert!(
                !text.contains("TAGSTREAM_JUDGE__MARGIN,"),
                "{command}: {text}"
            );
        }
    }
    // The value of an own variable counts.
    let (_, text) = said("retrain", Some(("TAGSTREAM_JUDGE__HELD_OUT_SHARE", "2")));
    assert!(text.contains("judge.held_out_share"), "{text}");
    let (_, text) = said("run", Some(("TAGSTREAM_MODEL__MAX_BATCH", "0")));
    assert!(text.contains("model.max_batch"), "{text}");
}
