//! `tagstream config`: the file, the environment over it, and what is refused. In a process of its
//! own, because the environment belongs to the whole process.

use std::path::Path;
use std::process::{Command, Output};

fn config(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    tagstream("config", arguments, variables)
}

fn tagstream(command: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tagstream"))
        .arg(command)
        .args(arguments)
        .env_remove("TAGSTREAM_CONFIG")
        .env_remove("TAGSTREAM_RETRAIN_CONFIG")
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

/// What `config validate` says of a file of this name and text, without the file's folder.
fn validated(name: &str, text: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, text).unwrap();
    let output = config(&["validate", "--config", file.to_str().unwrap()], &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    let said = said.replace(&format!("{}/", folder.path().display()), "");
    (output.status.code(), said)
}

/// The mistakes that have cost people time, each found with file, line and key.
#[test]
fn known_mistakes_are_caught_in_both_files() {
    for (text, line, key, hint) in [
        (
            "[object_store.s3]\nacces_key_id = \"hunter2\"\n",
            "2:1",
            "object_store.s3.acces_key_id",
            "did you mean `object_store.s3.access_key_id`?",
        ),
        (
            "object_store.s3 = {regon = \"hunter2\"}\n",
            "1:20",
            "object_store.s3.regon",
            "did you mean `object_store.s3.region`?",
        ),
        (
            "\nfetch.timeout = 5\n",
            "2:7",
            "fetch.timeout",
            "did you mean `fetch.timeout_ms`?",
        ),
        (
            "[fetch]\ntimeout_ms = \"hunter2\"\n",
            "2:14",
            "fetch.timeout_ms",
            "is a string, but must be a whole number of at least 0",
        ),
        (
            "[fetch]\nallow_networks = [\"10.0.0.0/33\"]\n",
            "2:1",
            "fetch.allow_networks",
            "10.0.0.0/33",
        ),
        (
            "[log]\nfilter = \"a=b=c\"\n",
            "2:1",
            "log.filter",
            "is not a level or filter",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().to_str().unwrap();
        let job = format!("{text}[registry]\nurl = {here:?}\n[labels]\nurl = {here:?}\n");
        for (name, text) in [("stage.toml", text), ("retrain.toml", &*job)] {
            let (code, said) = validated(name, text);
            assert_eq!(code, Some(2), "{text}: {said}");
            let place = format!("{name}:{line}: `{key}` ");
            assert!(
                said.contains(&place) && said.contains(hint),
                "{text}: {said}"
            );
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}

#[test]
fn known_mistakes_are_caught_in_one_file() {
    for (name, text, wanted) in [
        (
            "retrain.toml",
            "[registry]\nurl = \"\"\n",
            "retrain.toml:2:1: `registry.url` is empty: name the registry",
        ),
        (
            "retrain.toml",
            "[registry]\n",
            "retrain.toml: `registry.url` is empty",
        ),
        (
            "retrain.toml",
            "registry.url = \"ftp://c/p\"\n",
            "retrain.toml:1:10: `registry.url` has the scheme `ftp://`",
        ),
        (
            "retrain.toml",
            "[registry]\nurl = \"r\"\n[output]\nurl = \"t\"\n",
            "retrain.toml:3:2: `output` is a section of stage.toml, not of retrain.toml",
        ),
        (
            "retrain.toml",
            "registry.url = \"s3://b\"\nlabels.url = \"/nowhere/tables\"\n",
            "retrain.toml:2:8: `labels.url` names /nowhere/tables, which is no folder",
        ),
        (
            "stage.toml",
            "[kafka]\n[judge]\nmargin = 1\n",
            "stage.toml:2:2: `judge` is a section of retrain.toml, not of stage.toml",
        ),
        (
            "stage.toml",
            "[labels]\nmin_new_labels = 1\n",
            "stage.toml:2:1: `labels.min_new_labels` is a key of retrain.toml, not of stage.toml",
        ),
        (
            "stage.toml",
            "[model]\npath = \"/nowhere/model@3\"\n",
            "stage.toml:2:1: `model.path` names /nowhere/model, which does not exist",
        ),
        (
            "stage.toml",
            "[model]\npath = \"ftp://c/p@current\"\n",
            "stage.toml:2:1: `model.path` has the scheme `ftp://`",
        ),
    ] {
        let (code, said) = validated(name, text);
        assert_eq!(code, Some(2), "{text}: {said}");
        assert!(said.contains(wanted), "{text}: {said}");
    }
    // One grammar: what names Azure in one command does so in all.
    let (code, said) = validated("stage.toml", "output.url = \"azure://c/p\"\n");
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_file_is_recognised_or_taken_for_what_it_is_said_to_be() {
    let job = "[registry]\nurl = \"s3://b/r\"\n[labels]\nurl = \"s3://b/t\"\n";
    let pages = "[registry]\nurl = \"s3://b/r\"\n[serve]\nbind = \"127.0.0.1:0\"\n";
    for (name, text, valid_as) in [
        ("anything.toml", job, "retrain.toml"),
        ("anything.toml", "[kafka]\n", "stage.toml"),
        ("anything.toml", "[log]\n", "stage.toml"),
        ("anything.toml", pages, "serve.toml"),
        (
            "serve.toml",
            "[registry]\nurl = \"s3://b/r\"\n",
            "serve.toml",
        ),
    ] {
        let (code, said) = validated(name, text);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(&format!("valid as {valid_as}")), "{said}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.toml");
    std::fs::write(&file, job).unwrap();
    let file = file.to_str().unwrap();
    let arguments = ["validate", "--kind", "stage", "--config", file];
    assert_eq!(config(&arguments, &[]).status.code(), Some(2));
    let variable = [("TAGSTREAM_RETRAIN_CONFIG", file)];
    assert!(
        config(&["validate", "--kind", "retrain"], &variable)
            .status
            .success()
    );
    let output = config(
        &["print", "--config", file],
        &[("TAGSTREAM_TRAIN__SEED", "7")],
    );
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        printed.contains("seed = 7") && printed.contains("s3://b/r"),
        "{printed}"
    );
}

#[test]
fn what_is_shipped_is_what_is_printed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for kind in ["stage", "retrain", "serve"] {
        for (flag, path) in [
            ("--reference", format!("configs/{kind}.toml")),
            ("--schema", format!("schemas/{kind}.schema.json")),
        ] {
            let printed = config(&["print", "--kind", kind, flag], &[]).stdout;
            if std::env::var_os("UPDATE_DOCS").is_some() {
                std::fs::write(root.join(&path), &printed).unwrap();
            }
            let shipped = std::fs::read(root.join(&path)).unwrap_or_default();
            let remedy = "is stale: run UPDATE_DOCS=1 cargo test --test suite shipped";
            assert!(printed == shipped, "{path} {remedy}");
        }
    }
}

/// Whoever reads a configuration says the same of it, before anything is asked of the network.
#[test]
fn a_mistyped_option_is_told_alike_by_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().to_str().unwrap();
    let file = |name: &str, more: &str| {
        let path = folder.path().join(name);
        let text = format!("[object_store.s3]\nacces_key_id = \"hunter2\"\n{more}");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let stage = file("stage.toml", "");
    let job = format!("[registry]\nurl = {here:?}\n[labels]\nurl = {here:?}\n");
    let job = file("retrain.toml", &job);
    let export = ["export", "--store", "s3://b/p", "--config", &stage];
    for (command, arguments, name) in [
        ("config", &["validate", "--config", &*stage][..], "stage"),
        ("config", &["validate", "--config", &*job], "retrain"),
        ("run", &["--config", &*stage], "stage"),
        ("doctor", &["--config", &*stage], "stage"),
        ("retrain", &["--config", &*job], "retrain"),
        (
            "registry",
            &["--registry", "s3://b/p", "--config", &*stage, "list"],
            "stage",
        ),
        ("labels", &export, "stage"),
    ] {
        let output = tagstream(command, arguments, &[]);
        let said =
            String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{command}: {said}");
        let wanted = format!(
            "{name}.toml:2:1: `object_store.s3.acces_key_id` is no option of S3; did you mean \
             `object_store.s3.access_key_id`?"
        );
        assert!(said.contains(&wanted), "{command}: {said}");
        assert!(!said.contains("hunter2"), "{command}: {said}");
    }
}

#[test]
fn a_property_that_librdkafka_refuses_has_its_place_and_no_value() {
    for (text, wanted) in [
        (
            "[kafka]\nproperties.\"sasl.pasword\" = \"hunter2\"\n",
            "stage.toml:2:12: `kafka.properties.sasl.pasword` is no property of librdkafka",
        ),
        (
            "[kafka.properties]\n\n\"security.protocol\" = \"hunter2\"\n",
            "stage.toml:3:1: `kafka.properties.security.protocol` has a value that librdkafka",
        ),
    ] {
        let (code, said) = validated("stage.toml", text);
        assert_eq!(code, Some(2), "{text}: {said}");
        assert!(said.contains(wanted), "{text}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    let variable = "TAGSTREAM_KAFKA__PROPERTIES__SASL_PASWORD";
    let output = config(&["validate"], &[(variable, "hunter2")]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains(variable) && said.contains("`sasl.password`"),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");
}

/// A model that is not there is a mistake in the configuration, not a failure of the stage.
#[test]
fn a_model_that_is_not_there_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stage.toml");
    std::fs::write(&file, "[model]\npath = \"/nowhere/model\"\n").unwrap();
    let output = tagstream("run", &["--config", file.to_str().unwrap()], &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("stage.toml:2:1: `model.path` names /nowhere/model"),
        "{said}"
    );
    let output = tagstream("run", &["--model", "/nowhere/model"], &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--model names /nowhere/model"), "{said}");
}

#[test]
fn properties_of_kafka_can_stand_in_variables() {
    let variables = [("TAGSTREAM_KAFKA__PROPERTIES__SASL_PASSWORD", "hunter2")];
    let output = config(&["print"], &variables);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("\"sasl.password\" = \"***\""), "{printed}");
}

#[test]
fn addresses_are_printed_without_their_passwords() {
    let variables = [
        ("TAGSTREAM_OUTPUT__URL", "s3://AKIA:hunter2@bucket/tables"),
        ("TAGSTREAM_KAFKA__BROKERS", "user:hunter2@host:9092"),
        (
            "TAGSTREAM_SOURCE__REGISTRY__URL",
            "http://user:hunter2@host",
        ),
        ("TAGSTREAM_TRACE__ENDPOINT", "http://user:hunter2@host:4318"),
        (
            "TAGSTREAM_SOURCE__MAPPING__URI",
            "https://user:hunter2@host/a",
        ),
    ];
    let output = config(&["print"], &variables);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("s3://***@bucket/tables"), "{printed}");
    assert!(!printed.contains("hunter2"), "{printed}");
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
        let variables: Vec<_> = shared.into_iter().chain(more).collect();
        let output = tagstream(command, &[], &variables);
        let text = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    };
    for command in ["run", "retrain"] {
        // The configuration is taken; what it names is not there.
        let (_, text) = said(command, None);
        assert!(text.contains(registry), "{command}: {text}");
        let others = text.replace(
            "environment variable TAGSTREAM_MODEL__PATH: `model.path`",
            "",
        );
        assert!(!others.contains("TAGSTREAM_"), "{command}: {text}");
        for nobodys in ["TAGSTREAM_JUDGE__MARGINS", "TAGSTREAM_MODEL__PATHS"] {
            let (code, text) = said(command, Some((nobodys, "1")));
            assert_eq!(code, Some(2), "{command}: {text}");
            assert!(text.contains(nobodys), "{command}: {text}");
            let right = nobodys.trim_end_matches('S');
            assert!(
                text.contains(&format!("did you mean {right}?")),
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
